"""One signed-in client a token: made when it is first needed, made anew when it has ended."""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from typing import Final

from broker_worker.core.errors import BrokerError, FailureKind, ProviderError
from broker_worker.providers.onepassword_errors import of_exception
from broker_worker.providers.onepassword_sdk import OnePasswordClient
from broker_worker.providers.service_account_token import (
    AddressCheck,
    ServiceAccountToken,
    parse_service_account_token,
    require_1password_host,
)

OLD_SECONDS: Final = 60.0
"""A session of this age may have ended by itself when it is refused; a younger one was refused for a reason."""

_PERSON = b"sb credential"
SignIn = Callable[[str], Awaitable[OnePasswordClient]]


class OnePasswordSession:
    """Signs in, and again when a session has ended.

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
        self._client: OnePasswordClient | None = None
        self._signed_in_at = 0.0
        self._signing_in: asyncio.Task[OnePasswordClient | ProviderError] | None = None
        self._closed = False

    async def client(self) -> OnePasswordClient:
        """The signed-in client; however many ask, one sign-in is under way. A cancelled caller does not cancel it.

        Raises:
            ProviderError: if there is no usable token, or 1Password refuses it or cannot be reached.
        """
        if self._closed:
            raise _closed()
        if self._client is not None:
            return self._client
        if self._signing_in is None:
            self._signing_in = asyncio.create_task(self._make_client())
        outcome = await asyncio.shield(self._signing_in)
        if isinstance(outcome, ProviderError):
            raise ProviderError(outcome.kind, str(outcome), retry_after=outcome.retry_after, hint=outcome.hint)
        return outcome

    def failed(self, client: OnePasswordClient, error: ProviderError) -> bool:
        """Note that a whole call failed.

        Args:
            client: the client that it was made with.
            error: why.

        Returns:
            Whether to ask again at once, with the client that there is then.
        """
        if error.kind is not FailureKind.UNAUTHENTICATED:
            return False
        if client is not self._client:  # another call noticed first: if it signs in anew, so do we
            return self._client is not None or self._signing_in is not None
        self._release()
        return self._monotonic() - self._signed_in_at >= OLD_SECONDS

    def fingerprint(self, salt: bytes) -> str:
        """See `ports.CredentialedProvider`."""
        try:
            token = self._read_token().strip()
        except BrokerError:
            token = ""  # one that is put there later differs from none
        return hashlib.blake2b(token.encode(), digest_size=8, salt=salt, person=_PERSON).hexdigest()

    async def close(self) -> None:
        """Sign out and forget the token."""
        self._closed = True
        if self._signing_in is not None:
            self._signing_in.cancel()
            await asyncio.gather(self._signing_in, return_exceptions=True)
        self._release()
        self._read_token = str  # the old one may hold the token

    async def _make_client(self) -> OnePasswordClient | ProviderError:
        """Sign in. Failures are returned, not raised: nobody may be left to take them."""
        try:
            async with asyncio.timeout(self._timeout):
                token = await self._checked_token()
                if isinstance(token, ProviderError):
                    return token
                self._client = await self._sign_in(token.text)
        except asyncio.CancelledError:
            return _closed()
        except Exception as error:  # noqa: BLE001  # the SDK raises bare exceptions; the table tells them apart
            failure = of_exception(error)
            if failure.kind is FailureKind.FORBIDDEN:  # not of a name: we are not let in at all
                return ProviderError(FailureKind.UNAUTHENTICATED, str(failure), hint=failure.hint)
            return failure
        finally:
            self._signing_in = None
        self._signed_in_at = self._monotonic()
        return self._client

    async def _checked_token(self) -> ServiceAccountToken | ProviderError:
        try:
            text = await asyncio.to_thread(self._read_token)
            return parse_service_account_token(text, self._check_address)
        except ProviderError as error:
            return error
        except BrokerError as error:
            return ProviderError(FailureKind.UNAUTHENTICATED, str(error), hint=error.hint)

    def _release(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.release()


def _closed() -> ProviderError:
    return ProviderError(FailureKind.UNREACHABLE, "the 1Password provider was closed")
