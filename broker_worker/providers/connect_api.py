"""Talking to a Connect server: the requests that are needed, bounded in time, number and size.

Redirects are not followed and proxies of the environment not used: the address is the operator's to choose, and the
token goes nowhere else. Answers are asked for unpacked, so that none can be larger than it looks.
"""

import asyncio
import hashlib
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
import msgspec

from broker_worker.core.errors import BrokerError, FailureKind, ProviderError
from broker_worker.providers.connect_answers import message_of
from broker_worker.providers.connect_errors import answer_too_long, of_answer, of_exception, unreadable_answer

CONCURRENCY: Final = 8
"""Requests under way at once, all callers together."""
MAX_ANSWER: Final = 4 * 1024 * 1024
"""Longest answer that is read, in bytes: an item comes with all its fields."""
CONNECT_SECONDS: Final = 5.0
MAX_TOKEN: Final = 8192
_MAX_ERROR: Final = 64 * 1024
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+", re.ASCII)
_PERSON: Final = b"sb credential"
_JSON: Final = "application/json"


class ConnectApi:
    """A Connect server.

    Args:
        url: its address, checked.
        read_token: reads the access token; called for every call of the provider, so a replaced file counts at once.
        timeout_seconds: how long an answer may take.
        ca_file: certificates of authorities that may vouch for the server, in place of the usual ones.
    """

    def __init__(
        self, url: str, read_token: Callable[[], str], *, timeout_seconds: float, ca_file: Path | None = None
    ) -> None:
        self._url = url
        self._read_token = read_token
        self._timeout = httpx.Timeout(timeout_seconds, connect=min(CONNECT_SECONDS, timeout_seconds), pool=None)
        self._ca_file = ca_file
        self._making = asyncio.Lock()
        self._client: httpx.AsyncClient | None = None
        self._closed = False

    async def open(self) -> str:
        """Make ready to send requests, and return the access token as it is now.

        Raises:
            ProviderError: if there is no usable token, or the connection's set-up on this host is wrong.
        """
        if self._closed:
            raise _closed()
        problem = None
        try:
            token = (await asyncio.to_thread(self._read_token)).strip()
            async with self._making:
                if self._client is None and not self._closed:
                    self._client = await asyncio.to_thread(self._make_client)
        except ProviderError as error:
            problem = error
        except BrokerError as error:
            problem = ProviderError(FailureKind.UNAUTHENTICATED, str(error), hint=error.hint)
        except OSError:
            problem = ProviderError(
                FailureKind.UNREACHABLE,
                "the certificates of ca_file cannot be read",
                hint="name a file with certificates in PEM",
            )
        if problem is not None:
            raise problem
        if len(token) > MAX_TOKEN or _TOKEN.fullmatch(token) is None:
            raise ProviderError(
                FailureKind.UNAUTHENTICATED, "the Connect access token is not of a token's form", hint="copy it again"
            )
        return token

    def fingerprint(self, salt: bytes) -> str:
        """See `ports.CredentialedProvider`."""
        try:
            token = self._read_token().strip()
        except BrokerError:
            token = ""  # one that is put there later differs from none
        return hashlib.blake2b(token.encode(), digest_size=8, salt=salt, person=_PERSON).hexdigest()

    async def close(self) -> None:
        """Close all connections and forget the token."""
        self._closed = True
        self._read_token = str  # the old one may hold the token
        async with self._making:
            client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def send(
        self, method: str, path: str, *, token: str | None, query: Mapping[str, str], body: object, most: int
    ) -> "ConnectAnswer":
        """Send a request and read its answer.

        Args:
            method: `GET`, `POST`, `PATCH` or `DELETE`.
            path: from the server's root on.
            token: the access token; None for what needs none.
            query: parameters of the address.
            body: what is sent as JSON; None for nothing.
            most: longest answer, in bytes.

        Raises:
            ProviderError: whatever happens, but for a success.
        """
        if self._client is None:
            raise _closed()
        headers = {"accept-encoding": "identity"}
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        if body is not None:
            headers["content-type"] = _JSON
        request = self._client.build_request(
            method,
            f"{self._url}{path}",
            params=query or None,
            headers=headers,
            content=None if body is None else msgspec.json.encode(body),
        )
        failure = None
        try:
            return await self._exchange(self._client, request, most)
        except ProviderError as error:
            failure = error
        except (httpx.HTTPError, httpx.StreamError, OSError, RuntimeError, ValueError) as error:
            failure = of_exception(error)
        raise failure

    @staticmethod
    async def _exchange(client: httpx.AsyncClient, request: httpx.Request, most: int) -> "ConnectAnswer":
        response = await client.send(request, stream=True)
        try:
            if not response.is_success:
                body = await _bounded(response, _MAX_ERROR)
                raise of_answer(response.status_code, message_of(body), response.headers.get("retry-after", ""))
            body = await _bounded(response, most + 1)
        finally:
            await response.aclose()
        if len(body) > most:
            raise answer_too_long(most)
        return ConnectAnswer(response.headers.get("content-type", ""), body)

    def _make_client(self) -> httpx.AsyncClient:
        if self._ca_file is not None:
            trusted = ssl.create_default_context(cafile=self._ca_file)
        elif self._url.startswith("https:"):
            trusted = httpx.create_ssl_context(trust_env=False)
        else:
            trusted = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody, and is not needed
        return httpx.AsyncClient(
            verify=trusted,
            timeout=self._timeout,
            limits=httpx.Limits(max_connections=CONCURRENCY),
            follow_redirects=False,
            trust_env=False,
        )


def _closed() -> ProviderError:
    return ProviderError(FailureKind.UNREACHABLE, "the Connect provider was closed")


async def _bounded(response: httpx.Response, most: int) -> bytes:
    """The answer's bytes, not many more than `most` of them."""
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) >= most:
            break
    return bytes(body[:most])


@dataclass(frozen=True, slots=True)
class ConnectAnswer:
    """A success: its media type and its bytes, which `repr` does not show."""

    media_type: str
    body: bytes = field(repr=False)

    @property
    def json(self) -> bytes:
        """The bytes, if they are meant to be JSON.

        Raises:
            ProviderError: kind `UNKNOWN` if not: something else answers.
        """
        if self.media_type.partition(";")[0].strip().lower() != _JSON:
            raise unreadable_answer()
        return self.body
