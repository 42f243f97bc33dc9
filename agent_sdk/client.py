"""The asynchronous client: many requests in flight over one pair of connections."""

# ruff: noqa: ASYNC109  # a request's deadline travels inside it, so it is an argument and not the caller's block

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Literal, Self, overload

from agent_sdk.approvals import until_settled
from agent_sdk.channel import REQUEST_SECONDS, RunChannel
from agent_sdk.credential import RunCredential
from agent_sdk.errors import InvalidRequest, Refusal, Unavailable, refused_names
from agent_sdk.exchange import Exchange
from agent_sdk.outcome import Answer, Resolution, Stored
from agent_sdk.request import (
    Deliver,
    checked_generate,
    checked_loan,
    checked_names,
    checked_put,
    checked_report,
    checked_resolve,
    checked_seconds,
)
from agent_sdk.secret import Secret, wall_clock
from agent_sdk.source import AsyncSecretSource
from agent_sdk.transport import Transport
from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import (
    Call,
    Delivery,
    Generate,
    ListNames,
    Notice,
    Operation,
    Put,
    Release,
    Renew,
    Resolve,
    Subject,
    Way,
    lease_id,
)
from agent_sdk.writing import write

TIMEOUT_SECONDS = 15.0
"""How long a request may take if the caller does not say."""


class AsyncSecretBroker:
    """Asks the broker for secrets. Use it with `async with`, on one event loop.

    Connecting happens in the background; a request waits for it within its own timeout. An answer is not asked for
    again on the caller's behalf (a `RateLimited` says in how many seconds to do so), except while people decide.

    Closing it gives nothing back: secrets live on until their time is over, but no notice ends them sooner any more.

    Args:
        credential: the run's; taken by `RunCredential.load()` if not given.
        timeout: seconds that a request may take, if the call does not say.
        on_notice: called on the event loop for each notice (a lease revoked, a secret rotated, …), after the client
            did what it says. The queue can show a notice again, even much later: `at` says when it was written.
        transport: how envelopes travel, if not over the credential's queue.
        clock: the time in ms since the epoch.

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
        transport: Transport | None = None,
        clock: Callable[[], int] = wall_clock,
    ) -> None:
        self._timeout = checked_seconds(timeout)
        own = RunCredential.load() if credential is None else credential
        channel = RunChannel(own)
        if transport is None:
            from agent_sdk.redis_transport import RedisTransport  # noqa: PLC0415  # redis-py is long to load

            transport = RedisTransport(own.queue_url, own.shown_queue_url, own.agent_id, channel.replies)
        self._exchange = Exchange(own, channel, transport, on_notice, clock)

    @classmethod
    def from_environment(
        cls, *, timeout: float = TIMEOUT_SECONDS, on_notice: Callable[[Notice], None] | None = None
    ) -> Self:
        """The client of the run that this process was launched as (`RunCredential.load`)."""
        return cls(timeout=timeout, on_notice=on_notice)

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
        self,
        name: str,
        *,
        purpose: str = "",
        ttl: timedelta | int | None = None,
        timeout: float | None = None,
        wait_for_approval: bool = True,
        deliver: Delivery = "value",
        on_behalf_of: Subject | None = None,
    ) -> Secret:
        """Ask for one secret.

        Args:
            name: its canonical name, such as `openai.api_key`.
            purpose: what it is for, at most 256 characters; recorded in the audit, and shown to people who approve.
            ttl: ask for a shorter life than the policy allows; an int is in seconds.
            timeout: seconds that this may take, people who have to approve included: give them minutes.
            wait_for_approval: whether to wait when people have to approve first; if not, `ApprovalPending` is raised
                at once, and asking for the same later serves what they decided.
            deliver: how the value will reach the work (`env,file`: both); the policy can narrow it, the audit names it.
            on_behalf_of: the run that this is asked for, if not this one: only who the policy lets act for its agent
                gets an answer.

        Raises:
            NotGranted: one of its subclasses says why there is no value.
        """
        body = checked_resolve((name,), purpose, ttl, deliver, on_behalf_of)
        answer = await self._resolve(body, self._seconds(timeout), wait_for_approval, partial=False)
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
        wait_for_approval: bool = True,
        partial: Literal[False] = False,
        deliver: Deliver = "value",
        on_behalf_of: Subject | None = None,
    ) -> Mapping[str, Secret]: ...

    @overload
    async def get_many(
        self,
        names: Iterable[str],
        *,
        purpose: str = "",
        ttl: timedelta | int | None = None,
        timeout: float | None = None,
        wait_for_approval: bool = True,
        partial: Literal[True],
        deliver: Deliver = "value",
        on_behalf_of: Subject | None = None,
    ) -> Resolution: ...

    async def get_many(
        self,
        names: Iterable[str],
        *,
        purpose: str = "",
        ttl: timedelta | int | None = None,
        timeout: float | None = None,
        wait_for_approval: bool = True,
        partial: bool = False,
        deliver: Deliver = "value",
        on_behalf_of: Subject | None = None,
    ) -> Mapping[str, Secret] | Resolution:
        """Ask for 1 to 64 secrets in one request.

        Args:
            names: their canonical names; one that is named twice is asked for once.
            purpose: what they are for, at most 256 characters; recorded in the audit, and shown to people who approve.
            ttl: ask for a shorter life than the policy allows; an int is in seconds.
            timeout: seconds that this may take, people who have to approve included.
            wait_for_approval: whether to wait for those that people have to approve first. What is granted at once
                lives from then on, so a long wait can outlast it. Without `partial` nothing is waited for when a name
                is refused for another reason.
            partial: whether to return what was granted together with what was refused, rather than to raise when
                any name is refused.
            deliver: as for `get`; a mapping says it for each name (`{"openai.api_key": "env", "ca.pem": "file"}`).
            on_behalf_of: as for `get`.

        Returns:
            The secrets by name; with `partial` a `Resolution`.

        Raises:
            NotGranted: if a name was refused (with `partial`: only if there was no answer); its `refusals` name each
                refused one with its code. It holds no values.
        """
        body = checked_resolve(checked_names(names), purpose, ttl, deliver, on_behalf_of)
        answer = await self._resolve(body, self._seconds(timeout), wait_for_approval, partial=partial)
        if partial:
            return Resolution(answer.secrets, answer.refusals)
        answer.raise_if_refused()
        return answer.secrets

    def source(
        self, name: str, *, purpose: str = "", ttl: timedelta | int | None = None, timeout: float | None = None
    ) -> AsyncSecretSource:
        """A secret as a coroutine function, which asks when it is called: `AsyncOpenAI(api_key=broker.source(NAME))`.

        Args:
            name: its canonical name.
            purpose: as for `get`.
            ttl: as for `get`.
            timeout: as for `get`.
        """
        return AsyncSecretSource(lambda: self.get(name, purpose=purpose, ttl=ttl, timeout=timeout), name)

    async def list_names(self, *, timeout: float | None = None) -> tuple[str, ...]:
        """The names that this run may ask for; see `list_ways`."""
        return tuple(await self.list_ways(timeout=timeout))

    async def list_ways(self, *, timeout: float | None = None) -> Mapping[str, tuple[Way, ...]]:
        """The names that this run may ask for, each with the ways that its value may go; `proxy` alone: used, not had.

        Raises:
            NotGranted: if the broker does not say.
        """
        answer = await self._ask(ListNames(), (), self._seconds(timeout))
        answer.raise_if_refused()
        return answer.names

    async def report(self, subject: Subject, calls: Sequence[Call], *, timeout: float | None = None) -> None:
        """Have calls recorded that this proxy made on behalf of a run; they are on disk when it returns.

        Args:
            subject: the run, as it showed itself.
            calls: 1 to 64 calls, in order.
            timeout: seconds that this may take.

        Raises:
            InvalidRequest: if a call is not of its form.
            NotGranted: if they were not recorded, or (`Unavailable`) nobody answered.
        """
        answer = await self._ask(checked_report(subject, calls), (), self._seconds(timeout))
        answer.raise_if_refused()

    async def renew(self, secret: Secret, *, timeout: float | None = None) -> Secret:
        """Prolong what the agent holds, as far as the broker allows.

        It is this very secret that lives longer, wherever the agent keeps it: there is no second copy of the value,
        and none that ends although it was renewed. One that is over cannot be renewed: ask for it again.

        Args:
            secret: what was granted to this run.
            timeout: seconds that this may take.

        Returns:
            The same object, with its new `expires_at`.

        Raises:
            LeaseExpired: if it is over; `LeaseRevoked` if the broker took it back.
            NotGranted: if the broker does not renew it; it lives until its time is over.
        """
        loan = checked_loan(secret)
        loan.check()
        if loan.lease is None:
            raise InvalidRequest(f"{loan.name} has no lease that could be renewed: ask for it again")
        answer = await self._ask(Renew(loan.lease), (), self._seconds(timeout))
        outcome = answer.of_lease(loan.name, loan.lease)
        if not isinstance(outcome, Refusal) and outcome.expires_at is not None:
            loan.prolong(outcome.expires_at)
            return secret
        refusal = outcome if isinstance(outcome, Refusal) else Refusal(loan.name, Code.UNAVAILABLE)
        if refusal.code == Code.REVOKED:
            self._exchange.holdings.revoke_lease(lease_id(loan.lease))
        raise refused_names([refusal])

    async def release(self, secret: Secret, *, timeout: float | None = None) -> None:
        """Be done with a secret: its copy is dropped at once, whatever becomes of the rest.

        The broker is told when it was the last copy of its lease that this client handed out: another task that asked
        for the same name goes on. Releasing again does no harm, and tells the broker if that failed before.

        Args:
            secret: what was granted to this run.
            timeout: seconds that telling the broker may take.

        Raises:
            NotGranted: if the broker could not be told; the lease then ends by itself.
        """
        loan = checked_loan(secret)
        was_over = loan.is_over and loan.ended != "released"
        loan.end("released")
        if loan.lease is None or was_over or loan.given_back or self._exchange.holdings.shares_lease(loan):
            return
        answer = await self._ask(Release(loan.lease), (), self._seconds(timeout))
        outcome = answer.of_lease(loan.name, loan.lease)
        if isinstance(outcome, Refusal) and outcome.code not in (Code.EXPIRED, Code.REVOKED):  # it is over anyway
            raise refused_names([outcome])
        loan.given_back = True

    async def put(
        self,
        name: str,
        value: str | bytes,
        *,
        purpose: str = "",
        replaces: str | None = None,
        timeout: float | None = None,
        wait_for_approval: bool = True,
    ) -> Stored:
        """Store a value: create a name, or replace the version that `replaces` names.

        Args:
            name: its canonical name. Where it is kept is for the broker's registry to say.
            value: a text (stored as UTF-8) or bytes, 1 byte to 128 KiB.
            purpose: what it is for, at most 256 characters; recorded in the audit, so it must not contain the value.
            replaces: the version that is there, as `Stored.version`, `Secret.version` or `Conflict.version` say it.
            timeout: seconds that this may take, people who have to approve included.
            wait_for_approval: whether to wait for people; what they approve is this very value.

        Raises:
            Conflict: if the name is taken, or has another version by now; nothing was written.
            NotGranted: if it was refused, or (`Unavailable`) nobody answered: then it may have been stored or not.
        """
        try:
            body = checked_put(name, value, purpose, replaces)
        finally:
            del value  # from what a traceback with local variables shows
        return await self._write(body, self._seconds(timeout), wait_for_approval)

    async def generate(
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
        """Have the broker make a value and store it.

        Args:
            name: as for `put`.
            recipe: its form: `hex:32` and `base64url:32` (bytes), `alnum:24` and `password:24` (characters), `uuid4`,
                `ed25519`, `rsa:3072` (bits; keys are PEM).
            purpose: as for `put`.
            replaces: as for `put`.
            reveal: whether to have the value as well; only who may read the name without an approval gets it.
            timeout: as for `put`.
            wait_for_approval: as for `put`.

        Raises:
            Conflict: as for `put`.
            NotGranted: as for `put`.
        """
        body = checked_generate(name, recipe, purpose, replaces, reveal=reveal)
        return await self._write(body, self._seconds(timeout), wait_for_approval)

    async def _write(self, body: Put | Generate, seconds: float, wait_for_approval: bool) -> Stored:
        outcome = await write(self._exchange, body, seconds, wait_for_approval=wait_for_approval)
        if isinstance(outcome, Refusal):
            raise refused_names([outcome])
        return Stored(body.name, outcome.version, self._exchange.lend(outcome))

    def _seconds(self, timeout: float | None) -> float:
        return self._timeout if timeout is None else checked_seconds(timeout)

    async def _resolve(self, body: Resolve, seconds: float, wait_for_approval: bool, *, partial: bool) -> Answer:
        started = time.monotonic()
        answer = await self._ask(body, body.names, seconds)
        if wait_for_approval and answer.refusals and answer.refused is None:
            exchange, left = self._exchange, started + seconds - time.monotonic()
            return await until_settled(exchange.ask, exchange.settled, body, answer, left, partial=partial)
        return answer

    async def _ask(self, body: Operation, names: tuple[str, ...], seconds: float) -> Answer:
        """Ask until there is an answer: one that comes later than `REQUEST_SECONDS` is that of another request."""
        if seconds <= REQUEST_SECONDS:
            return await self._exchange.ask(body, names, seconds)
        now = asyncio.get_running_loop().time
        until = now() + seconds
        while True:
            ends = min(until, now() + REQUEST_SECONDS)
            try:
                return await self._exchange.ask(body, names, ends - now())
            except Unavailable:
                if now() < ends or ends >= until:  # the queue itself said so, or the time is over
                    raise
