"""The `vault` section of `broker.yaml`: where Vault is, and how the broker logs in."""

import re
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.core.notifications import is_loopback
from broker_worker.providers.options import Options, Surroundings
from broker_worker.providers.token_reader import token_reader
from broker_worker.providers.vault.answers import VaultApi
from broker_worker.providers.vault.login import MAX_CREDENTIAL, Login
from broker_worker.providers.vault.provider import CONCURRENCY, VaultProvider
from broker_worker.providers.vault.session import VaultSession
from broker_worker.providers.vault.threads import Threads

TOKEN_VARIABLE: Final = "VAULT_TOKEN"  # noqa: S105  # a variable's name
SECRET_ID_VARIABLE: Final = "VAULT_SECRET_ID"  # noqa: S105  # a variable's name
DEFAULT_URL: Final = "https://127.0.0.1:8200"
POD_TOKEN: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
LEASE_SECONDS: Final = 3600
_OF_METHOD: Final = {
    "token": ("token_env", "token_file"),
    "approle": ("auth_mount", "role_id", "secret_id_env", "secret_id_file"),
    "kubernetes": ("auth_mount", "role", "jwt_file"),
    "jwt": ("auth_mount", "role", "jwt_file"),
}
OPTIONS: Final = (
    "url",
    "allow_plain_http",
    "ca_file",
    "namespace",
    "auth",
    *dict.fromkeys(option for options in _OF_METHOD.values() for option in options),
    "timeout_seconds",
    "lease_seconds",
)
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)*/?", re.ASCII)
_ROLE = re.compile(r"[A-Za-z0-9_.:@-]{1,128}", re.ASCII)


def make_vault(options: Options, around: Surroundings) -> VaultProvider:
    """Make the provider; nothing is contacted or read yet.

    Raises:
        ConfigError: if an option cannot be meant.
    """
    url, login = _url(options), _login(options, around)
    ca_file = str(options.path("ca_file", Path())) if options.has("ca_file") else None
    namespace = options.matching("namespace", _PATH.fullmatch, "a path", "write it as team-a/prod")
    timeout = options.seconds("timeout_seconds", 10, 60)
    lease_seconds = options.seconds("lease_seconds", LEASE_SECONDS, 30 * 24 * 3600)

    def connect() -> VaultApi:
        from broker_worker.providers.vault import client  # noqa: PLC0415  # hvac is optional, and slow to import

        return client.connect(
            url, namespace=namespace, ca_file=ca_file, timeout_seconds=timeout, connections=CONCURRENCY
        )

    threads = Threads(CONCURRENCY, timeout)
    session = VaultSession(connect, login, threads, lease_seconds=lease_seconds, monotonic=around.monotonic)
    return VaultProvider(session, threads)


def _url(options: Options) -> str:
    """The server: HTTPS, or HTTP where nobody else listens or the operator says that this is meant."""
    written = options.matching("url", _is_server, "the address of a server", "write it as https://vault.example:8200")
    parts, may_be_plain = urlsplit(DEFAULT_URL if written is None else written), options.flag("allow_plain_http")
    if parts.scheme == "http" and not may_be_plain and not is_loopback(parts.hostname or ""):
        raise options.refuse(
            "url would send token and secrets unencrypted",
            "write https://, or `allow_plain_http: true` if something else protects this network",
        )
    return f"{parts.scheme}://{parts.netloc}"


def _is_server(url: str) -> bool:
    """Whether an address has scheme, host and perhaps port, and nothing else."""
    try:
        parts = urlsplit(url)
        is_named = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    more = parts.username or parts.password or parts.query or parts.fragment or parts.path.strip("/")
    return is_named and not more and parts.scheme in ("https", "http") and url.isprintable()


def _login(options: Options, around: Surroundings) -> Login:
    known = f"known methods are {', '.join(_OF_METHOD)}"
    method = options.matching("auth", _OF_METHOD.__contains__, "a known method", known) or "token"
    for other, names in _OF_METHOD.items():
        for name in names:
            if options.has(name) and name not in _OF_METHOD[method]:
                raise options.refuse(f"{name} has no meaning with `auth: {method}`", f"it belongs to `auth: {other}`")
    mount = options.matching("auth_mount", _PATH.fullmatch, "a path", "write it as approle or k8s/prod") or method
    role = options.matching("role", _ROLE.fullmatch, "the name of a role", "see `vault list auth/METHOD/role`")
    if method == "token":
        reader = token_reader(options, around, what="Vault token", variable=TOKEN_VARIABLE, most=MAX_CREDENTIAL)
        return Login(method, mount, {"token": reader})
    if method == "approle":
        hint = "`vault read auth/approle/role/NAME/role-id` shows it"
        role_id = options.matching("role_id", _ROLE.fullmatch, "the id of a role", hint)
        if role_id is None:
            raise options.refuse("role_id is missing", hint)
        what = {"what": "Vault secret id", "variable": SECRET_ID_VARIABLE, "option": "secret_id"}
        reader = token_reader(options, around, **what, most=MAX_CREDENTIAL)
        return Login(method, mount.strip("/"), {"role_id": lambda: role_id, "secret_id": reader})
    if role is None:
        raise options.refuse("role is missing", f"name the role of `auth/{method}` that the broker logs in with")
    if method == "jwt" and not options.has("jwt_file"):
        raise options.refuse("jwt_file is missing", "name the file that holds the token of this workload")
    jwt_file = options.path("jwt_file", POD_TOKEN)
    return Login(method, mount.strip("/"), {"role": lambda: role, "jwt": lambda: _read_jwt(jwt_file)})


def _read_jwt(path: Path) -> str:
    """Read the token of this workload. Its mode is not checked: Kubernetes mounts it readable for the whole pod."""
    problem = ""
    try:
        with path.open("rb") as file:
            return file.read(MAX_CREDENTIAL + 1).decode("ascii", "replace")
    except OSError as error:
        problem = error.strerror or "it cannot be opened"
    raise ProviderError(
        FailureKind.UNAUTHENTICATED,
        f"the JWT to log in to Vault with cannot be read: {problem}",
        hint="mount a service-account token into the pod, or name another `jwt_file`",
    )
