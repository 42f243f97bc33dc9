"""Docker's credential helper protocol (docker-credential-helpers, "Development": get, store, erase, list)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from agent_sdk.errors import InvalidRequest
from agent_sdk.secret import Secret
from agent_sdk.wire.names import is_secret_name

NOT_FOUND = "credentials not found in native keychain"
"""What a helper must print, and leave with 1, so that Docker goes on without a credential."""
REGISTRIES_VARIABLE = "SECRET_AGENT_DOCKER"
MAX_SERVER = 2048


@dataclass(frozen=True, slots=True)
class Registry:
    """One registry.

    Args:
        host: its host name, with a port where it has one of its own.
        username: as whom to log in.
        secret: the name of the password's or token's secret.
    """

    host: str
    username: str
    secret: str


def parse_registries(text: str) -> dict[str, Registry]:
    """Read `ghcr.io=USER:secret.name`, several separated by white space.

    Returns:
        The registries by host.

    Raises:
        InvalidRequest: names the entry's place and what was expected.
    """
    found: dict[str, Registry] = {}
    for place, entry in enumerate(text.split(), 1):
        host, equals, rest = entry.partition("=")
        username, colon, secret = rest.rpartition(":")
        if not (equals and colon and host and username and is_secret_name(secret)):
            raise InvalidRequest(f"{REGISTRIES_VARIABLE}: entry {place} is not of the form ghcr.io=USER:secret.name")
        found[host.lower()] = Registry(host.lower(), username, secret)
    return found


def registry_of(server: str, registries: Mapping[str, Registry]) -> Registry | None:
    """The registry that Docker means.

    Args:
        server: a host, or a URL such as Docker Hub's `https://index.docker.io/v1/`.
        registries: what there is, by host.
    """
    text = server.strip()
    if len(text) > MAX_SERVER:
        return None
    if "://" not in text:
        return registries.get(text.split("/", 1)[0].lower())
    try:
        parts = urlsplit(text)
    except ValueError:  # such as a bracket that is not closed
        return None
    return registries.get(parts.netloc.lower()) if parts.scheme == "https" else None


def credential(server: str, registry: Registry, secret: Secret) -> str:
    """The answer to `get`, JSON.

    Raises:
        LeaseExpired: if the value is over.
        NotText: if it is not UTF-8.
    """
    return json.dumps({"ServerURL": server.strip(), "Username": registry.username, "Secret": secret.reveal()})


def listing(registries: Mapping[str, Registry]) -> str:
    """The answer to `list`, JSON: which registries there are, and as whom. It asks nobody."""
    return json.dumps({f"https://{each.host}": each.username for each in registries.values()})
