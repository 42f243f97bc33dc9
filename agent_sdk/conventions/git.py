"""Git's credential helper protocol (gitcredentials(7), git-credential(1), "INPUT/OUTPUT FORMAT")."""

from collections.abc import Iterable, Mapping

from agent_sdk.errors import InvalidRequest
from agent_sdk.secret import Secret

MAX_INPUT = 64 * 1024
"""Longest description that is read, bytes."""
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


def parse_description(raw: bytes) -> dict[str, str]:
    """Read what git says of the credential that it wants: lines of `key=value`, up to an empty line or the end.

    Of a key that stands several times the last counts; keys of lists (`wwwauth[]`) are left out. A line ends with a
    line feed and nothing else: an URL can bring a carriage return into a host's name, and whoever takes that for the
    end of a line reads a host that the URL's author chose (CVE-2024-50338, CVE-2024-52006).

    Args:
        raw: as it was read, without any translation of line ends.

    Raises:
        InvalidRequest: if a line is none, or the text is too long. Nothing of it is repeated.
    """
    if len(raw) > MAX_INPUT:
        raise InvalidRequest(f"git's description of a credential is longer than {MAX_INPUT} bytes")
    text = raw.decode("utf-8", "surrogateescape")  # a path may have bytes that are no text
    found: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line:
            break
        key, equals, value = line.partition("=")
        if not equals or not key or "\0" in line or "\r" in line:
            raise InvalidRequest(f"line {number} of git's description of a credential is no key=value")
        if not key.endswith("[]"):
            found[key] = value
    return found


def covers(description: Mapping[str, str], hosts: Iterable[str]) -> bool:
    """Whether a credential is wanted for one of these hosts, over a connection that nobody reads.

    Args:
        description: what git says.
        hosts: host names, with `:port` where it is not the protocol's own; compared without regard to case.
    """
    protocol, host = description.get("protocol", ""), description.get("host", "").lower()
    if host not in {each.lower() for each in hosts}:
        return False
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    return protocol == "https" or (protocol == "http" and name in _LOOPBACK)


def credential(username: str, secret: Secret) -> str:
    """The answer to `get`.

    Args:
        username: for a token usually any name; GitHub takes `x-access-token`.
        secret: the password or token. Git is told when it ends (`password_expiry_utc`), so that it caches it no longer.

    Raises:
        InvalidRequest: if one of them has a line break or a NUL, which the protocol cannot carry.
        LeaseExpired: if the value is over.
        NotText: if it is not UTF-8.
    """
    value = secret.reveal()
    if any(mark in text for text in (username, value) for mark in "\n\r\0"):
        raise InvalidRequest(f"the value of {secret.name} has a line break, which git's protocol cannot carry")
    lines = [f"username={username}", f"password={value}"]
    if secret.expires_at is not None:
        lines.append(f"password_expiry_utc={int(secret.expires_at.timestamp())}")
    return "\n".join(lines) + "\n"
