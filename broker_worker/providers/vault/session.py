"""A token of Vault's: had when it is first needed, renewed while it lives, had anew when it ends, at a bounded rate."""

import asyncio
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from broker_worker.core.errors import BrokerError, FailureKind, ProviderError
from broker_worker.providers.vault.answers import VaultApi
from broker_worker.providers.vault.cooldown import Cooldown
from broker_worker.providers.vault.engines import Engines
from broker_worker.providers.vault.failures import OUTAGES, forbidden, of_answer
from broker_worker.providers.vault.login import Credentials, Login, Token, token_of
from broker_worker.providers.vault.threads import Threads

REFUSED_FIRST: Final = 60.0
"""How long refused credentials are not tried again, in seconds; doubles up to an hour."""
REFUSED_MOST: Final = 3600.0
OUTAGE_FIRST: Final = 1.0
"""How long Vault is not asked after an outage, in seconds; doubles up to a minute."""
OUTAGE_MOST: Final = 60.0
_RENEW_AFTER: Final = 2 / 3
"""The part of a token's life after which it is renewed."""
_MARGIN: Final = 5.0
"""Seconds before its end from which on a token is not used any more."""
_TRY_AGAIN: Final = 10.0
"""Seconds after which a renewal that failed is tried again."""
_PERSON: Final = b"sb vault login"
_LONGEST_TIMER: Final = 24 * 3600.0


@dataclass(slots=True, eq=False)
class SignedIn:
    """What one token gives access to.

    Args:
        engines: the secrets engines.
        since: when it was had, in seconds of the monotonic clock.
        ends: when it ends; None without an end.
        renew_at: when to renew it; None if Vault would not.
    """

    engines: Engines
    since: float
    ends: float | None = None
    renew_at: float | None = None

    def note(self, token: Token, now: float) -> None:
        """Take over how long the token lives."""
        before, self.ends, self.renew_at = self.ends, None, None
        if token.seconds is not None:
            self.ends = now + token.seconds - min(token.seconds / 10, _MARGIN)
            if token.is_renewable and (before is None or self.ends > before + 1):  # else it is as old as it may become
                self.renew_at = now + token.seconds * _RENEW_AFTER

    def rest(self, now: float) -> float | None:
        """Seconds that the token lives yet; None without an end."""
        return None if self.ends is None else self.ends - now


class VaultSession:
    """Logs in, and remembers what Vault refused.

    Args:
        connect: makes a client without a token; imports what is needed, so it is called in a thread.
        login: how a token is had.
        threads: where blocking calls are made.
        lease_seconds: see `Engines`.
        monotonic: a clock in seconds that never goes back.
    """

    def __init__(
        self,
        connect: Callable[[], VaultApi],
        login: Login,
        threads: Threads,
        *,
        lease_seconds: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connect = connect
        self._login: Login | None = login
        self._threads = threads
        self._lease_seconds = lease_seconds
        self.monotonic = monotonic
        self._refusals = Cooldown(REFUSED_FIRST, REFUSED_MOST, monotonic)
        self._outages = Cooldown(OUTAGE_FIRST, OUTAGE_MOST, monotonic)
        self._limited: ProviderError | None = None
        self._limited_until = 0.0
        self._api: VaultApi | None = None
        self._now: SignedIn | None = None
        self._shown = b""
        self._signing_in: asyncio.Task[SignedIn | ProviderError] | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def signed_in(self) -> SignedIn:
        """Access with a token; however many ask, one login is under way. A cancelled caller does not cancel it.

        Raises:
            ProviderError: if there are no usable credentials, Vault refuses them, or a wait after a failure is on.
        """
        if self._login is None:
            raise _closed()
        current, now = self._now, self.monotonic()
        if current is not None and (current.ends is None or now < current.ends):
            waiting = self._waiting()
            if waiting is not None:
                raise waiting
            if current.renew_at is not None and now >= current.renew_at:
                self._renew_soon()
            return current
        if self._signing_in is None:
            self._signing_in = asyncio.create_task(self._sign_in(self._login))
        outcome = await _outcome_of(self._signing_in)
        if isinstance(outcome, ProviderError):
            raise ProviderError(outcome.kind, str(outcome), retry_after=outcome.retry_after, hint=outcome.hint)
        return outcome

    def served(self) -> None:
        """Note that Vault answered: earlier failures are over."""
        self._refusals.reset()
        self._outages.reset()

    async def failed(self, used: SignedIn, error: ProviderError) -> ProviderError | None:
        """Note that a call failed.

        Args:
            used: what it was made with.
            error: why.

        Returns:
            What it means; None if the call should be made again with another token.
        """
        if error.kind is FailureKind.UNAUTHENTICATED and used is self._now:
            error = await self._threads.run(lambda: _verdict(used.engines.api, error))
        if error.kind in OUTAGES:
            self._note_outage(error)
        if error.kind is not FailureKind.UNAUTHENTICATED:
            return error
        if used is not self._now:
            return None  # another call noticed first: what it found out is the better answer
        self._drop()
        if self.monotonic() - used.since >= REFUSED_FIRST:
            return None  # it may have ended of old age
        self._refusals.begin(error)
        return error

    def fingerprint(self, salt: bytes) -> str:
        """See `ports.CredentialedProvider`."""
        try:
            shown = b"" if self._login is None else self._login.read().digest
        except BrokerError:
            shown = b""  # what is put there later differs from nothing
        return hashlib.blake2b(shown, digest_size=8, salt=salt, person=_PERSON).hexdigest()

    async def close(self) -> None:
        """Forget token and credentials. The token is not revoked: every credential made with it would end with it."""
        self._login = None
        tasks = [task for task in (self._signing_in, self._renewing) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._drop()
        api, self._api = self._api, None
        if api is not None:
            api.close()

    def _note_outage(self, error: ProviderError) -> None:
        self._outages.begin(error)
        if error.retry_after is not None:
            self._limited, self._limited_until = error, self.monotonic() + error.retry_after / 1000

    def _waiting(self) -> ProviderError | None:
        """Why Vault is not asked now: after a failure, or because it said for how long it does not want to be."""
        rest = self._limited_until - self.monotonic()
        if self._limited is not None and rest > 0:
            limited = self._limited
            return ProviderError(limited.kind, str(limited), retry_after=int(rest * 1000), hint=limited.hint)
        return self._refusals.error() or self._outages.error()

    def _drop(self) -> None:
        self._now = None
        if self._timer is not None:
            self._timer.cancel()

    async def _sign_in(self, login: Login) -> SignedIn | ProviderError:
        """Log in. Failures are returned, not raised: nobody may be left to take them."""
        is_asked = False
        try:
            credentials = await self._threads.run(lambda: _read(login))
            if credentials.digest != self._shown:
                self._shown = credentials.digest
                self._refusals.reset()  # what was refused was something else
            waiting = self._waiting()
            if waiting is not None:
                return waiting
            is_asked = True
            api, token = await self._threads.run(lambda: self._log_in(login, credentials))
        except asyncio.CancelledError:
            return _closed()
        except ProviderError as error:
            if is_asked and error.kind in OUTAGES:
                self._note_outage(error)
            elif is_asked:
                self._refusals.begin(error)
            return error
        finally:
            self._signing_in = None
        now = self.monotonic()
        self._now = SignedIn(Engines(api, self._lease_seconds), now)
        self._note(self._now, token, now)
        return self._now

    def _log_in(self, login: Login, credentials: Credentials) -> tuple[VaultApi, Token]:
        if self._api is None:
            self._api = self._connect()
        token = login.token(self._api, credentials)
        return self._api.with_token(token.text), token

    def _note(self, current: SignedIn, token: Token, now: float) -> None:
        current.note(token, now)
        if current.renew_at is not None:
            self._wake(current.renew_at - now)

    def _wake(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(min(seconds, _LONGEST_TIMER), self._renew_soon)

    def _renew_soon(self) -> None:
        if self._renewing is None and self._now is not None and self._login is not None:
            self._renewing = asyncio.create_task(self._renew(self._now))

    async def _renew(self, current: SignedIn) -> None:
        """Have the token live longer. What fails is tried again until the token ends; then there is a new login."""
        try:
            answer = await self._threads.run(current.engines.api.renew_self)
            failure = None if answer.is_good else of_answer(answer)
            if failure is None:
                self._note(current, token_of(answer), self.monotonic())
        except ProviderError as error:
            failure = error
        finally:
            self._renewing = None
        if failure is not None and current is self._now:
            is_final = failure.kind in {FailureKind.FORBIDDEN, FailureKind.UNAUTHENTICATED}
            current.renew_at = None if is_final else self.monotonic() + _TRY_AGAIN
            if not is_final:
                self._wake(_TRY_AGAIN)


async def _outcome_of(task: "asyncio.Task[SignedIn | ProviderError]") -> SignedIn | ProviderError:
    """Wait for a login; if it is cancelled, because the provider is closed, that does not cancel who waits."""
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        waiting = asyncio.current_task()
        if not task.cancelled() or (waiting is not None and waiting.cancelling()):
            raise
    return _closed()


def _read(login: Login) -> Credentials:
    """Read credentials; what is missing on this host is no refusal of Vault's."""
    try:
        return login.read()
    except BrokerError as error:
        failure = ProviderError(FailureKind.UNAUTHENTICATED, str(error), hint=error.hint)
    raise failure


def _verdict(api: VaultApi, error: ProviderError) -> ProviderError:
    """Whether the token is at fault: one that may look itself up, or is told that it may not, is accepted."""
    answer = api.look_up_self()
    found = forbidden() if answer.is_good else of_answer(answer)
    return found if found.kind is FailureKind.FORBIDDEN or found.kind in OUTAGES else error


def _closed() -> ProviderError:
    return ProviderError(FailureKind.UNREACHABLE, "the Vault provider was closed")
