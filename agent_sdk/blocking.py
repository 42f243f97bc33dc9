"""The blocking client: the asynchronous one on an event loop of its own, in a daemon thread."""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping
from datetime import timedelta
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, overload

from agent_sdk.client import TIMEOUT_SECONDS, AsyncSecretBroker
from agent_sdk.credential import RunCredential
from agent_sdk.errors import ClientClosed, InvalidRequest
from agent_sdk.outcome import Resolution, Stored
from agent_sdk.request import Deliver, checked_seconds
from agent_sdk.secret import Secret
from agent_sdk.source import SecretSource
from agent_sdk.wire.messages import Delivery, Notice, Way

T = TypeVar("T")


class SecretBroker:
    """Asks the broker for secrets and waits for the answer. May be used from several threads at once.

    A thread and connections are made at the first request. After a fork the child makes its own, so a client that
    was made before (a pre-forking server) works in every process. Secrets that a child inherits live until their time
    is over; notices about them reach the parent.

    Args:
        credential: the run's; taken by `RunCredential.load()` if neither it nor `client` is given.
        timeout: seconds that a request may take, if the call does not say.
        on_notice: called on the client's thread for each notice; it must not block, nor use this client.
        client: makes the asynchronous client, once in each process, in place of the arguments above.

    Raises:
        CredentialMissing: if no credential is given and the run was handed none.
        CredentialInvalid: if the credential cannot be used.
        InvalidRequest: if the timeout is no positive number.
    """

    def __init__(
        self,
        credential: RunCredential | None = None,
        *,
        timeout: float = TIMEOUT_SECONDS,
        on_notice: Callable[[Notice], None] | None = None,
        client: Callable[[], AsyncSecretBroker] | None = None,
    ) -> None:
        if client is None:
            checked_seconds(timeout)  # before the credential is taken, which is possible once
            taken = RunCredential.load() if credential is None else credential
            AsyncSecretBroker(taken, timeout=timeout)  # what cannot be used is refused here, not at the first request
            client = lambda: AsyncSecretBroker(taken, timeout=timeout, on_notice=on_notice)  # noqa: E731  # a closure over three arguments
        self._make = client
        self._closed = False
        self._lock = threading.RLock()  # a signal's handler that closes us may interrupt who holds it
        self._process = os.getpid()
        self._loop: _LoopThread | None = None

    @classmethod
    def from_environment(
        cls, *, timeout: float = TIMEOUT_SECONDS, on_notice: Callable[[Notice], None] | None = None
    ) -> Self:
        """The client of the run that this process was launched as (`RunCredential.load`)."""
        return cls(timeout=timeout, on_notice=on_notice)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and end the thread. Requests in flight end with `ClientClosed`; later ones too.

        Raises:
            InvalidRequest: if `on_notice` calls it; nothing is closed then.
        """
        if self._process != os.getpid():
            self._closed = True  # the thread and connections belong to the parent
            return
        with self._lock:
            if self._loop is not None:
                self._loop.check_thread()
            self._closed = True
            loop, self._loop = self._loop, None
        if loop is not None:
            loop.stop()

    def get(
        self,
        name: str,
        *,
        purpose: str = "",
        ttl: timedelta | int | None = None,
        timeout: float | None = None,
        wait_for_approval: bool = True,
        deliver: Delivery = "value",
    ) -> Secret:
        """Ask for one secret; see `AsyncSecretBroker.get`."""
        wait = wait_for_approval
        return self._run(
            lambda client: client.get(
                name, purpose=purpose, ttl=ttl, timeout=timeout, wait_for_approval=wait, deliver=deliver
            )
        )

    @overload
    def get_many(
        self,
        names: Iterable[str],
        *,
        purpose: str = "",
        ttl: timedelta | int | None = None,
        timeout: float | None = None,
        wait_for_approval: bool = True,
        partial: Literal[False] = False,
        deliver: Deliver = "value",
    ) -> Mapping[str, Secret]: ...

    @overload
    def get_many(
        self,
        names: Iterable[str],
        *,
        purpose: str = "",
        ttl: timedelta | int | None = None,
        timeout: float | None = None,
        wait_for_approval: bool = True,
        partial: Literal[True],
        deliver: Deliver = "value",
    ) -> Resolution: ...

    def get_many(
        self,
        names: Iterable[str],
        *,
        purpose: str = "",
        ttl: timedelta | int | None = None,
        timeout: float | None = None,
        wait_for_approval: bool = True,
        partial: bool = False,
        deliver: Deliver = "value",
    ) -> Mapping[str, Secret] | Resolution:
        """Ask for 1 to 64 secrets in one request; see `AsyncSecretBroker.get_many`."""
        wait = wait_for_approval
        if partial:
            return self._run(
                lambda client: client.get_many(
                    names,
                    purpose=purpose,
                    ttl=ttl,
                    timeout=timeout,
                    wait_for_approval=wait,
                    partial=True,
                    deliver=deliver,
                )
            )
        return self._run(
            lambda client: client.get_many(
                names, purpose=purpose, ttl=ttl, timeout=timeout, wait_for_approval=wait, deliver=deliver
            )
        )

    def source(
        self, name: str, *, purpose: str = "", ttl: timedelta | int | None = None, timeout: float | None = None
    ) -> SecretSource:
        """A secret as a callable, for clients that take one in place of a key; see `AsyncSecretBroker.source`.

        `OpenAI(api_key=broker.source("openai.api_key"))`, and LangChain's `ChatOpenAI` likewise.
        """
        return SecretSource(lambda: self.get(name, purpose=purpose, ttl=ttl, timeout=timeout), name)

    def list_names(self, *, timeout: float | None = None) -> tuple[str, ...]:
        """The names that this run may ask for; see `AsyncSecretBroker.list_names`."""
        return self._run(lambda client: client.list_names(timeout=timeout))

    def list_ways(self, *, timeout: float | None = None) -> Mapping[str, tuple[Way, ...]]:
        """The same, each with the ways that its value may go; see `AsyncSecretBroker.list_ways`."""
        return self._run(lambda client: client.list_ways(timeout=timeout))

    def renew(self, secret: Secret, *, timeout: float | None = None) -> Secret:
        """Prolong what the agent holds; see `AsyncSecretBroker.renew`."""
        return self._run(lambda client: client.renew(secret, timeout=timeout))

    def release(self, secret: Secret, *, timeout: float | None = None) -> None:
        """Be done with a secret; see `AsyncSecretBroker.release`."""
        self._run(lambda client: client.release(secret, timeout=timeout))

    def put(
        self,
        name: str,
        value: str | bytes,
        *,
        purpose: str = "",
        replaces: str | None = None,
        timeout: float | None = None,
        wait_for_approval: bool = True,
    ) -> Stored:
        """Store a value; see `AsyncSecretBroker.put`."""
        wait, take = wait_for_approval, _kept(value)
        del value  # from what a traceback with local variables shows
        return self._run(
            lambda client: client.put(
                name, take(), purpose=purpose, replaces=replaces, timeout=timeout, wait_for_approval=wait
            )
        )

    def generate(
        self,
        name: str,
        recipe: str,
        *,
        purpose: str = "",
        replaces: str | None = None,
        reveal: bool = False,
        timeout: float | None = None,
        wait_for_approval: bool = True,
    ) -> Stored:
        """Have the broker make a value and store it; see `AsyncSecretBroker.generate`."""
        wait = wait_for_approval
        return self._run(
            lambda client: client.generate(
                name,
                recipe,
                purpose=purpose,
                replaces=replaces,
                reveal=reveal,
                timeout=timeout,
                wait_for_approval=wait,
            )
        )

    def _run(self, call: Callable[[AsyncSecretBroker], Coroutine[Any, Any, T]]) -> T:
        return self._running().run(call)

    def _running(self) -> "_LoopThread":
        if self._process != os.getpid():
            # The parent's lock may have been held at the fork, and its thread does not exist here.
            self._lock, self._loop, self._process = threading.RLock(), None, os.getpid()
        with self._lock:
            if self._needs_loop():
                made = _LoopThread(self._make)
                if self._needs_loop():
                    self._loop = made
                else:  # a signal's handler used or closed us meanwhile
                    made.stop()
            if self._closed or self._loop is None:
                raise ClientClosed("the client was closed: make a new one")
            return self._loop

    def _needs_loop(self) -> bool:
        return self._loop is None and not self._closed


def _kept(value: T) -> Callable[[], T]:
    """A value behind a function, so that what lists variables does not show it."""
    return lambda: value


class _LoopThread:
    """One asynchronous client on its own event loop, in a daemon thread."""

    def __init__(self, make: Callable[[], AsyncSecretBroker]) -> None:
        self._client = make()
        self._loop = asyncio.new_event_loop()
        self._submitting = threading.RLock()
        self._stopped = False
        self._thread = threading.Thread(target=self._loop.run_forever, name="secret-broker", daemon=True)
        self._thread.start()

    def check_thread(self) -> None:
        """Make sure that the caller is not `on_notice`: it would wait for itself, and so would everybody else.

        Raises:
            InvalidRequest: if it is.
        """
        if threading.current_thread() is self._thread:
            raise InvalidRequest(
                "on_notice runs on the client's own thread and cannot wait for it: note what is to be done, and have "
                "another thread ask or close"
            )

    def run(self, call: Callable[[AsyncSecretBroker], Coroutine[Any, Any, T]]) -> T:
        """Run a call of the client and wait for it; an interrupt of the waiting thread ends the call too."""
        self.check_thread()
        with self._submitting:
            if self._stopped:
                raise ClientClosed("the client was closed: make a new one")
            future = asyncio.run_coroutine_threadsafe(call(self._client), self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        """Close the client, let every waiting thread have its answer, and end the thread."""
        with self._submitting:
            self._stopped = True
        asyncio.run_coroutine_threadsafe(self._finish(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _finish(self) -> None:
        """Calls that were submitted before run to their end, which `close` brings about at once."""
        calls = asyncio.all_tasks() - {asyncio.current_task()}
        try:
            await self._client.close()
        finally:
            if unfinished := {call for call in calls if not call.done()}:
                await asyncio.wait(unfinished)
