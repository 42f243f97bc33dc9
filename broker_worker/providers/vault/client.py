"""The only module that touches hvac and requests; it is imported on first use, because hvac is an optional part.

hvac knows the paths of the API. Its adapter is replaced by one that reads an answer within bounds of size and time,
follows no redirect, takes nothing from the environment, and raises nothing: hvac's own exceptions carry the whole body.
"""

import http.cookiejar
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast
from urllib.parse import quote

import hvac  # type: ignore[import-untyped]  # it has no types
import requests
from hvac.adapters import RawAdapter  # type: ignore[import-untyped]  # it has no types
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, ReadTimeoutError

from broker_worker.providers.vault.answers import Answer, Trouble

MAX_ANSWER: Final = 4 * 1024 * 1024
"""Longest body that is read, in bytes: a value of 128 KiB among many others, all of it escaped."""
_CHUNK: Final = 64 * 1024
_LONGEST_WAIT: Final = 3600


def connect(
    url: str, *, namespace: str | None, ca_file: str | None, timeout_seconds: float, connections: int
) -> "HvacClient":
    """A client without a token; nothing is contacted yet.

    Args:
        url: the server, such as `https://vault.example:8200`.
        namespace: the namespace; None for the root.
        ca_file: the authorities that vouch for the server; None for those that requests brings along.
        timeout_seconds: how long a request may take.
        connections: how many may be open at once.
    """
    session = requests.Session()
    session.trust_env = False  # no proxy, no netrc and no other authorities than the operator's file names
    session.verify = ca_file or True
    session.headers["Accept-Encoding"] = "identity"  # nothing small grows large
    session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=()))
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(pool_connections=1, pool_maxsize=connections))
    return HvacClient(_Server(session, url, namespace, timeout_seconds), "")


@dataclass(frozen=True, slots=True)
class _Server:
    session: requests.Session
    url: str
    namespace: str | None
    timeout_seconds: float


class HvacClient:
    """Implements `answers.VaultApi`.

    Args:
        server: where it asks; the connections are shared by all clients of a server.
        token: the token that it asks with; empty to log in.
    """

    def __init__(self, server: _Server, token: str) -> None:
        self._server = server
        self._client = hvac.Client(
            server.url,
            token=token,
            cert=(),  # else hvac takes one from the environment
            timeout=server.timeout_seconds,
            allow_redirects=False,
            session=server.session,
            adapter=_BoundedAdapter,
            namespace=server.namespace,
        )

    def with_token(self, token: str) -> "HvacClient":
        """See `VaultApi.with_token`."""
        return HvacClient(self._server, token)

    def log_in(self, method: str, mount: str, credentials: Mapping[str, str]) -> Answer:
        """See `VaultApi.log_in`."""
        auth = self._client.auth
        if method == "approle":
            return _answer(auth.approle.login(**credentials, use_token=False, mount_point=mount))
        if method == "kubernetes":
            return _answer(auth.kubernetes.login(**credentials, use_token=False, mount_point=mount))
        return _answer(auth.jwt.jwt_login(**credentials, use_token=False, path=mount))

    def look_up_self(self) -> Answer:
        """See `VaultApi.look_up_self`."""
        return _answer(self._client.auth.token.lookup_self())

    def renew_self(self) -> Answer:
        """See `VaultApi.renew_self`."""
        return _answer(self._client.auth.token.renew_self())

    def mount_of(self, path: str) -> Answer:
        """See `VaultApi.mount_of`: what `vault kv` asks as well, and every token may that may read anything there."""
        return _answer(self._client.read(f"sys/internal/ui/mounts/{quote(path)}"))

    def read(self, path: str) -> Answer:
        """See `VaultApi.read`."""
        return _answer(self._client.read(quote(path)))

    def read_version(self, mount: str, path: str, version: int | None) -> Answer:
        """See `VaultApi.read_version`."""
        kv = self._client.secrets.kv.v2
        return _answer(kv.read_secret_version(path, version, mount, raise_on_deleted_version=True))

    def write(self, mount: str, path: str, fields: Mapping[str, object]) -> Answer:
        """See `VaultApi.write`."""
        kv = self._client.secrets.kv.v1
        return _answer(kv.create_or_update_secret(path, fields, method="POST", mount_point=mount))

    def write_version(self, mount: str, path: str, fields: Mapping[str, object], current: int) -> Answer:
        """See `VaultApi.write_version`."""
        return _answer(self._client.secrets.kv.v2.create_or_update_secret(path, fields, current, mount))

    def renew_lease(self, lease_id: str, seconds: int) -> Answer:
        """See `VaultApi.renew_lease`."""
        return _answer(self._client.sys.renew_lease(lease_id, seconds))

    def revoke_lease(self, lease_id: str) -> Answer:
        """See `VaultApi.revoke_lease`; hvac's own method does not wait until it is done."""
        body = {"lease_id": lease_id, "sync": True}
        return _answer(self._client.adapter.put("/v1/sys/leases/revoke", json=body))

    def list(self, path: str) -> Answer:
        """See `VaultApi.list`."""
        return _answer(self._client.list(quote(path)))

    def capabilities(self, paths: Sequence[str]) -> Answer:
        """See `VaultApi.capabilities`."""
        return _answer(self._client.sys.get_capabilities([*paths]))

    def close(self) -> None:
        """See `VaultApi.close`."""
        self._client.adapter.close()


def _answer(found: Any) -> Answer:
    return cast("Answer", found)  # what `_BoundedAdapter.request` returned


class _BoundedAdapter(RawAdapter):  # type: ignore[misc]  # it has no types
    """Gives an `Answer` for every request, also for one that failed."""

    def request(
        self, method: str, url: str, headers: Any = None, raise_exception: bool = True, **kwargs: Any
    ) -> Answer:
        """Make a request; see hvac's `Adapter.request`."""
        ends = time.monotonic() + self._kwargs["timeout"]
        try:
            response = super().request(method, url, headers, raise_exception=False, stream=True, **kwargs)
            with response:
                return _read(response, ends)
        except Exception as error:  # noqa: BLE001  # none may leave: requests' name hosts, headers and bodies
            return Answer(0, trouble=_trouble(error))


def _read(response: requests.Response, ends: float) -> Answer:
    body = b""
    while chunk := response.raw.read1(_CHUNK, decode_content=False):
        body += chunk
        if len(body) > MAX_ANSWER:
            return Answer(response.status_code, trouble=Trouble.TOO_LARGE)
        if time.monotonic() >= ends:
            return Answer(response.status_code, trouble=Trouble.TIMEOUT)
    wait = response.headers.get("Retry-After", "")
    retry_after = min(int(wait), _LONGEST_WAIT) * 1000 if wait.isascii() and wait.isdigit() and len(wait) < 9 else None
    parsed: object = {}
    if body:
        try:
            parsed = json.loads(body)
        except (ValueError, RecursionError):
            parsed = None
    if not isinstance(parsed, dict):
        return Answer(response.status_code, retry_after=retry_after, trouble=Trouble.UNREADABLE)
    return Answer(response.status_code, parsed, retry_after)


def _trouble(error: Exception) -> Trouble:
    if isinstance(error, requests.exceptions.SSLError) or type(error) is OSError:
        return Trouble.TLS  # the latter is what requests raises for authorities that are not there
    if isinstance(error, requests.exceptions.Timeout | ReadTimeoutError | TimeoutError):
        return Trouble.TIMEOUT
    if isinstance(error, requests.exceptions.RequestException | HTTPError | OSError):
        return Trouble.UNREACHABLE
    return Trouble.UNREADABLE
