"""A client of one AWS service: made when it is first needed, asked in threads, each wait with its deadline.

boto3 is large and slow to import, so it is imported with the first call, in a thread. The
threads are this client's own: an AWS that hangs holds up nobody else who needs a thread.
"""

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.ports import Health
from broker_worker.providers.aws_errors import of_exception

CONCURRENCY: Final = 8
"""Requests under way at once, all callers together."""
READ_ATTEMPTS: Final = 2
"""How often a request is sent that may be sent again."""
_CONNECT_SECONDS: Final = 3.0
_NO_ANSWER = frozenset({FailureKind.TIMEOUT, FailureKind.UNREACHABLE})


class Closable(Protocol):
    """What every client of boto3 has."""

    def close(self) -> None:
        """Close its connections."""
        ...


C = TypeVar("C", bound=Closable)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AwsSettings:
    """How AWS is reached.

    Args:
        region: the region; None for what AWS's own configuration says.
        profile: a profile of AWS's configuration; None for what that says.
        endpoint_url: where to connect to in place of AWS's own address, checked by the caller; None for AWS.
        timeout_seconds: how long one call may take, all its requests included.
    """

    region: str | None = None
    profile: str | None = None
    endpoint_url: str | None = None
    timeout_seconds: float = 10


def make_client(settings: AwsSettings, service: str, attempts: int) -> Any:
    """Import boto3, look for credentials where it looks for them, and make a client. It blocks.

    Addresses in AWS's own configuration and in the environment do not count: only the operator's files say where
    secrets come from.

    Args:
        settings: how AWS is reached.
        service: the service's name in boto3, such as `secretsmanager`.
        attempts: how often a request may be sent, the first time included.
    """
    import boto3  # noqa: PLC0415  # optional and large
    from botocore.config import Config  # noqa: PLC0415  # as above

    logging.getLogger("botocore").setLevel(logging.CRITICAL)  # at level debug it logs bodies, with values in them
    session: Any = boto3.session.Session(profile_name=settings.profile, region_name=settings.region)
    behaviour: dict[str, Any] = {  # not arguments, as the stubs do not know them all
        "connect_timeout": min(_CONNECT_SECONDS, settings.timeout_seconds),
        "read_timeout": settings.timeout_seconds / 2,
        "retries": {"mode": "standard", "total_max_attempts": attempts},
        "max_pool_connections": CONCURRENCY,
        "ignore_configured_endpoint_urls": True,
        # A loopback address is reached directly: what comes from there is in the clear.
        "proxies": {} if (settings.endpoint_url or "").startswith("http:") else None,
    }
    return session.client(service, config=Config(**behaviour), endpoint_url=settings.endpoint_url)


class AwsClient(Generic[C]):
    """Asks one service.

    Args:
        settings: how AWS is reached.
        service: its name in boto3.
        what: its name for people.
    """

    def __init__(
        self,
        settings: AwsSettings,
        service: str,
        what: str,
    ) -> None:
        self.what = what
        self.settings = settings
        self._service = service
        self._clients: dict[int, C] = {}
        self._refused_at, self._refusal = -math.inf, _closed(what)
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(CONCURRENCY, "aws")
        self._closed = False

    def deadline(self) -> float:
        """When a call that begins now must be over, on the event loop's clock."""
        return asyncio.get_running_loop().time() + self.settings.timeout_seconds

    async def call(self, ask: Callable[[C], T], deadline: float, attempts: int = READ_ATTEMPTS) -> T:
        """Ask AWS in a thread.

        Args:
            ask: sends one request with the client that it is given; raises whatever botocore raises.
            deadline: when there must be an answer; see `deadline`.
            attempts: how often the request may be sent; 1 if it must not be sent twice.

        Raises:
            ProviderError: for every failure.
        """
        if self._closed:
            raise _closed(self.what)
        loop, began = asyncio.get_running_loop(), deadline - self.settings.timeout_seconds
        try:
            async with asyncio.timeout_at(deadline):
                outcome = await loop.run_in_executor(self._threads, self._ask, ask, attempts, began)
        except TimeoutError as error:
            outcome = of_exception(error)
        if isinstance(outcome, ProviderError):  # perhaps another call's
            raise ProviderError(outcome.kind, str(outcome), retry_after=outcome.retry_after, hint=outcome.hint)
        return outcome

    async def write(self, ask: Callable[[C], T], deadline: float, attempts: int = READ_ATTEMPTS) -> T:
        """Ask AWS to store something; see `call`. Without an answer the error says that the outcome is open."""
        try:
            return await self.call(ask, deadline, attempts)
        except ProviderError as error:
            failure = error
        if failure.kind in _NO_ANSWER:
            message, hint = f"{failure}; the value may have been stored", "read its version before writing it again"
            failure = ProviderError(failure.kind, message, retry_after=failure.retry_after, hint=hint)
        raise failure

    async def health(self, probe: Callable[[C], object]) -> Health:
        """Whether AWS can be reached and accepts the credentials; never raises.

        Args:
            probe: sends a request that reads no secret. That the policy refuses it shows as well that we are in.
        """
        try:
            await self.call(probe, self.deadline())
        except ProviderError as error:
            if error.kind is not FailureKind.FORBIDDEN:
                return Health(False, str(error), error.hint)
        return Health(True, f"{self.what} answers and accepts the credentials")

    async def close(self) -> None:
        """Forget the credentials and close connections; a call that is under way ends by its own timeouts."""
        self._closed = True
        self._threads.shutdown(wait=False)
        clients, self._clients = self._clients, {}  # without the lock, which a thread that looks for credentials holds
        for client in clients.values():
            client.close()

    def _ask(self, ask: Callable[[C], T], attempts: int, began: float) -> T | ProviderError:
        """Ask, in a thread. Failures are returned, so that no exception of botocore's gets any further.

        What began before AWS refused the credentials, and waited for its turn, is not asked with them as well.
        """
        try:
            with self._lock:
                if self._closed:
                    return _closed(self.what)
                if self._refused_at >= began:
                    return self._refusal
                client = self._clients.get(attempts)
                if client is None:
                    client = self._clients[attempts] = make_client(self.settings, self._service, attempts)
            answer = ask(client)
        except Exception as error:  # noqa: BLE001  # botocore's exceptions have no common root; the table tells them apart
            failure = error if isinstance(error, ProviderError) else of_exception(error)
        else:
            return answer
        if failure.kind is FailureKind.UNAUTHENTICATED:
            with self._lock:
                self._clients = {}  # the next one looks for credentials anew
                self._refused_at, self._refusal = time.monotonic(), failure
        return failure


def _closed(what: str) -> ProviderError:
    return ProviderError(FailureKind.UNREACHABLE, f"the provider of {what} was closed")
