"""One signed-in client a token: made when it is first needed, made anew when it is refused, at a bounded rate."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from broker_worker.core.errors import BrokerError, FailureKind, ProviderError
from broker_worker.providers.cooldown import Cooldown
from broker_worker.providers.onepassword_errors import of_exception
from broker_worker.providers.onepassword_sdk import OnePasswordClient
from broker_worker.providers.service_account_token import (
    AddressCheck,
    ServiceAccountToken,
    parse_service_account_token,
    require_1password_host,
)

REFUSED_FIRST: Final = 60.0
"""How long a refused token is not tried again, in seconds; doubles up to an hour."""
REFUSED_MOST: Final = 3600.0
OUTAGE_FIRST: Final = 1.0
"""How long 1Password is not asked after an outage, in seconds; doubles up to a minute."""
OUTAGE_MOST: Final = 60.0
_OUTAGES = frozenset({FailureKind.UNREACHABLE, FailureKind.TIMEOUT})
_REFUSALS = frozenset({FailureKind.UNAUTHENTICATED, FailureKind.RATE_LIMITED})

SignIn = Callable[[str], Awaitable[OnePasswordClient]]


class OnePasswordSession:
    """Signs in and remembers what 1Password refused.

    Args:
        read_token: reads the token's text; called for every sign-in, so that a replaced file counts at once.
        sign_in: makes a client of a token.
        timeout_seconds: how long a sign-in may take.
        monotonic: a clock in seconds that never goes back.
        unsafe_check_address_for_tests: which servers a token may name, in place of 1Password's hosts. There is no
            way to set it from a file or the environment: with it, a token can send the broker anywhere.
    """

    def __init__(
        self,
        read_token: Callable[[], str],
        sign_in: SignIn,
        *,
        timeout_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
        unsafe_check_address_for_tests: AddressCheck = require_1password_host,
    ) -> None:
        self._read_token = read_token
        self._sign_in = sign_in
        self._timeout = timeout_seconds
        self._monotonic = monotonic
        self._check_address = unsafe_check_address_for_tests
        self._refusals = Cooldown(REFUSED_FIRST, REFUSED_MOST, monotonic)
        self._outages = Cooldown(OUTAGE_FIRST, OUTAGE_MOST, monotonic)
        self._client: OnePasswordClient | None = None
        self._token: ServiceAccountToken | None = None
        self._signed_in_at = 0.0
        self._signing_in: asyncio.Task[OnePasswordClient | ProviderError] | None = None
        self._closed = False

    async def client(self) -> OnePasswordClient:
        """The signed-in client; however many ask, one sign-in is under way. A cancelled caller does not cancel it.

        Raises:
            ProviderError: if there is no usable token, 1Password refuses it, or a wait after a failure is on.
        """
        if self._closed:
            raise _closed()
        if self._client is not None:
            waiting = self._refusals.error() or self._outages.error()
            if waiting is not None:
                raise waiting
            return self._client
        if self._signing_in is None:
            self._signing_in = asyncio.create_task(self._make_client())
        outcome = await asyncio.shield(self._signing_in)
        if isinstance(outcome, ProviderError):
            raise ProviderError(outcome.kind, str(outcome), retry_after=outcome.retry_after, hint=outcome.hint)
        return outcome

    def served(self) -> None:
        """Note that 1Password answered: earlier failures are over."""
        self._refusals.reset()
        self._outages.reset()

    def failed(self, client: OnePasswordClient, error: ProviderError) -> bool:
        """Note that a whole call failed.

        Args:
            client: the client that it was made with.
            error: why.

        Returns:
            Whether to ask `client` again at once.
        """
        if client is not self._client:
            return True  # another call noticed first: what it found out is the better answer
        if error.kind in _REFUSALS:
            self._release()
            if error.kind is FailureKind.UNAUTHENTICATED and self._monotonic() - self._signed_in_at >= REFUSED_FIRST:
                return True  # it may have ended of old age
            self._refusals.begin(error)
            return False
        if error.kind is not FailureKind.FORBIDDEN:
            self._outages.begin(error)
        return False

    async def close(self) -> None:
        """Sign out and forget the token."""
        self._closed = True
        if self._signing_in is not None:
            self._signing_in.cancel()
            await asyncio.gather(self._signing_in, return_exceptions=True)
        self._release()
        self._token = None
        self._read_token = str  # the old one may hold the token

    async def _make_client(self) -> OnePasswordClient | ProviderError:
        """Sign in. Failures are returned, not raised: nobody may be left to take them."""
        try:
            async with asyncio.timeout(self._timeout):
                token = await self._checked_token()
                if isinstance(token, ProviderError):
                    return token
                waiting = self._refusals.error() or self._outages.error()
                if waiting is not None:
                    return waiting
                self._client = await self._sign_in(token.text)
        except asyncio.CancelledError:
            return _closed()
        except Exception as error:  # noqa: BLE001  # the SDK raises bare exceptions; the table tells them apart
            failure = of_exception(error)
            (self._outages if failure.kind in _OUTAGES else self._refusals).begin(failure)
            return failure
        finally:
            self._signing_in = None
        self._signed_in_at = self._monotonic()
        return self._client

    async def _checked_token(self) -> ServiceAccountToken | ProviderError:
        try:
            text = await asyncio.to_thread(self._read_token)
            token = parse_service_account_token(text, self._check_address)
        except ProviderError as error:
            return error
        except BrokerError as error:
            return ProviderError(FailureKind.UNAUTHENTICATED, str(error), hint=error.hint)
        if token != self._token:
            self._token = token
            self._refusals.reset()  # what was refused was another token
        return token

    def _release(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.release()


def _closed() -> ProviderError:
    return ProviderError(FailureKind.UNREACHABLE, "the 1Password provider was closed")
