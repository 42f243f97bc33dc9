"""The asynchronous client: many requests in flight over one pair of connections."""

# ruff: noqa: ASYNC109  # a request's deadline travels inside it, so it is an argument and not the caller's block

from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from types import TracebackType
from typing import Literal, Self, overload

from agent_sdk.channel import RunChannel
from agent_sdk.credential import RunCredential
from agent_sdk.errors import InvalidRequest
from agent_sdk.exchange import Exchange
from agent_sdk.outcome import Resolution
from agent_sdk.redis_transport import RedisTransport
from agent_sdk.secret import Secret, wall_clock
from agent_sdk.transport import Transport
from agent_sdk.wire.errors import WireError
from agent_sdk.wire.messages import MAX_NAMES, MAX_PURPOSE, MAX_TTL_SECONDS, ListNames, Notice, Resolve
from agent_sdk.wire.names import check_secret_name

TIMEOUT_SECONDS = 15.0
"""How long a request may take if the caller does not say."""


class AsyncSecretBroker:
    """Asks the broker for secrets. Use it with `async with`, on one event loop.

    Connecting happens in the background; a request waits for it within its own timeout. Nothing is asked again on
    the caller's behalf: a `RateLimited` says in how many seconds to do so.

    Args:
        credential: the run's; taken by `RunCredential.load()` if not given.
        timeout: seconds that a request may take, if the call does not say.
        on_notice: called on the event loop for each notice (a lease revoked, a secret rotated, …). The queue can
            show a notice twice.
        transport: how envelopes travel, if not over the credential's queue.
        clock: the time in ms since the epoch.

    Raises:
        CredentialMissing: if no credential is given and the run was handed none.
        CredentialInvalid: if the credential cannot be used.
    """

    def __init__(
        self,
        credential: RunCredential | None = None,
        *,
        timeout: float = TIMEOUT_SECONDS,
        on_notice: Callable[[Notice], None] | None = None,
        transport: Transport | None = None,
        clock: Callable[[], int] = wall_clock,
    ) -> None:
        credential = RunCredential.load() if credential is None else credential
        channel = RunChannel(credential)
        if transport is None:
            url, shown_url = credential.queue_url, credential.shown_queue_url
            transport = RedisTransport(url, shown_url, credential.agent_id, channel.replies)
        self._timeout = timeout
        self._exchange = Exchange(credential, channel, transport, on_notice, clock)

    @classmethod
    def from_environment(
        cls, *, timeout: float = TIMEOUT_SECONDS, on_notice: Callable[[Notice], None] | None = None
    ) -> Self:
        """The client of the run that this process was launched as (`RunCredential.load`)."""
        return cls(RunCredential.load(), timeout=timeout, on_notice=on_notice)

    async def __aenter__(self) -> Self:
        self._exchange.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections. Requests in flight end with `ClientClosed`; later ones too."""
        await self._exchange.close()

    async def get(
        self, name: str, *, purpose: str = "", ttl: timedelta | int | None = None, timeout: float | None = None
    ) -> Secret:
        """Ask for one secret.

        Args:
            name: its canonical name, such as `openai.api_key`.
            purpose: what it is for, at most 256 characters; recorded in the audit.
            ttl: ask for a shorter life than the policy allows; an int is in seconds.
            timeout: seconds that this request may take.

        Raises:
            NotGranted: one of its subclasses says why there is no value.
        """
        body = _checked((name,), purpose, ttl)
        answer = await self._exchange.ask(body, body.names, self._seconds(timeout))
        answer.raise_if_refused()
        return answer.secrets[name]

    @overload
    async def get_many(
        self,
        names: Iterable[str],
        *,
        purpose: str = "",
        ttl: timedelta | int | None = None,
        timeout: float | None = None,
        partial: Literal[False] = False,
    ) -> Mapping[str, Secret]: ...

    @overload
    async def get_many(
        self,
        names: Iterable[str],
        *,
        purpose: str = "",
        ttl: timedelta | int | None = None,
        timeout: float | None = None,
        partial: Literal[True],
    ) -> Resolution: ...

    async def get_many(
        self,
        names: Iterable[str],
        *,
        purpose: str = "",
        ttl: timedelta | int | None = None,
        timeout: float | None = None,
        partial: bool = False,
    ) -> Mapping[str, Secret] | Resolution:
        """Ask for 1 to 64 secrets in one request.

        Args:
            names: their canonical names; one that is named twice is asked for once.
            purpose: what they are for, at most 256 characters; recorded in the audit.
            ttl: ask for a shorter life than the policy allows; an int is in seconds.
            timeout: seconds that this request may take.
            partial: whether to return what was granted together with what was refused, rather than to raise when
                any name is refused.

        Returns:
            The secrets by name; with `partial` a `Resolution`.

        Raises:
            NotGranted: if a name was refused (with `partial`: only if there was no answer); its `refusals` name each
                refused one with its code. It holds no values.
        """
        body = _resolve(names, purpose, ttl)
        answer = await self._exchange.ask(body, body.names, self._seconds(timeout))
        if partial:
            return Resolution(answer.secrets, answer.refusals)
        answer.raise_if_refused()
        return answer.secrets

    async def list_names(self, *, timeout: float | None = None) -> tuple[str, ...]:
        """The names that this run may ask for.

        Raises:
            NotGranted: if the broker does not say.
        """
        answer = await self._exchange.ask(ListNames(), (), self._seconds(timeout))
        answer.raise_if_refused()
        return answer.names

    def _seconds(self, timeout: float | None) -> float:
        seconds = self._timeout if timeout is None else timeout
        if not seconds > 0:
            raise InvalidRequest(f"a timeout is a positive number of seconds; got {seconds:g}")
        return seconds


def _resolve(names: Iterable[str], purpose: str, ttl: timedelta | int | None) -> Resolve:
    """Check the arguments of a request for several names; one that is named twice is asked for once."""
    if isinstance(names, str):
        raise InvalidRequest("get_many takes several names; for one name use get")
    return _checked(tuple(dict.fromkeys(names)), purpose, ttl)


def _checked(wanted: tuple[str, ...], purpose: str, ttl: timedelta | int | None) -> Resolve:
    """Check a request's arguments before anything is sent.

    Raises:
        InvalidRequest: names the argument, what was found and what is expected.
    """
    if not 1 <= len(wanted) <= MAX_NAMES:
        raise InvalidRequest(f"a request has 1 to {MAX_NAMES} names; got {len(wanted)}")
    try:
        for name in wanted:
            check_secret_name(name)
    except WireError as error:
        raise InvalidRequest(str(error)) from None
    if len(purpose) > MAX_PURPOSE:
        raise InvalidRequest(f"a purpose has at most {MAX_PURPOSE} characters; got {len(purpose)}")
    seconds = int(ttl.total_seconds()) if isinstance(ttl, timedelta) else ttl
    if seconds is not None and not 1 <= seconds <= MAX_TTL_SECONDS:
        raise InvalidRequest(f"a ttl is 1 to {MAX_TTL_SECONDS} s; got {seconds}")
    return Resolve(wanted, purpose, seconds)
