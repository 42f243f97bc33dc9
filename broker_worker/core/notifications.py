"""Whom to tell that an approval waits: targets of the operator's own, and addresses that may be used."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import urlsplit

from broker_worker.core.policy import Origin

HTTP_KINDS = ("slack", "discord", "ntfy", "webhook")
COMMAND_KIND = "command"
MAX_URL = 2048


@dataclass(frozen=True, slots=True)
class NotificationTarget:
    """One place where people are told. A webhook's address often is its only password, so `repr` does not show it.

    Args:
        name: as `broker.yaml` calls it, and the audit.
        kind: `slack`, `discord`, `ntfy`, `webhook` or `command`.
        groups: groups and people that it reaches; without any it is told everything.
        origin: where it stands.
        url: the address, if it stands in the file.
        url_env: the environment variable that holds the address.
        url_file: the file that holds the address.
        secret_env: the environment variable that holds the key of a webhook's signature.
        command: the program and its arguments.
    """

    name: str
    kind: str
    groups: tuple[str, ...]
    origin: Origin
    url: str | None = field(default=None, repr=False)
    url_env: str | None = None
    url_file: str | None = None
    secret_env: str | None = None
    command: tuple[str, ...] = ()

    def reaches(self, approvers: Iterable[str]) -> bool:
        """Whether it is to be told of an approval that these groups and people may decide."""
        return not self.groups or not set(self.groups).isdisjoint(approvers)


def is_loopback(host: str) -> bool:
    """Whether a host is this one: `localhost` or a loopback address."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def check_target_url(text: str) -> str:
    """Check an address that notifications may be sent to.

    Returns:
        The address, unchanged.

    Raises:
        ValueError: unless it is https, or http to this very host. The message says what was expected and does not
            repeat the address.
    """
    problem = ""
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    if not text.isascii() or not text.isprintable() or " " in text or len(text) > MAX_URL:
        problem = f"expected an address of at most {MAX_URL} printable ASCII characters"
    elif not host or parts.scheme not in {"https", "http"} or parts.fragment:
        problem = "expected an address that begins with https:// and a host"
    elif parts.scheme == "http" and not is_loopback(host):
        problem = "expected https: without encryption only this host itself may be told"
    elif parts.username is not None:
        problem = "expected no user or password in the address"
    if problem:
        raise ValueError(problem)
    return text
