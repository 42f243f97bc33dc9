"""Names in their one canonical form: compared as written, refused when they differ, never normalised.

Threat model, promise 5: case, Unicode, `..`, spaces and empty parts are refused rather than folded, because a
name that is turned into another name is how one agent reaches another's secret.
"""

import re
from dataclasses import dataclass, field

from agent_sdk.wire.errors import WireError

MAX_SECRET_NAME = 128
MAX_AGENT_ID = 64
MAX_RUN_ID = 64
MAX_WORKER_NAME = 64

_PART = r"[a-z0-9]+(?:[_-]+[a-z0-9]+)*"
_DOTTED = re.compile(rf"{_PART}(?:\.{_PART})*", re.ASCII)
_PATTERN = re.compile(rf"(?:{_PART}|\*)(?:\.(?:{_PART}|\*))*(?:\.\*\*)?|\*\*", re.ASCII)
_FORM = "lower-case ASCII letters and digits in parts joined by '.', '_' or '-'"


def _check(text: str, what: str, limit: int) -> str:
    if len(text) > limit:
        raise WireError(f"{what} has {len(text)} characters; at most {limit} are allowed", reason="bad_name")
    if _DOTTED.fullmatch(text) is None:
        raise WireError(f"{what} {text!r} is not in canonical form: expected {_FORM}", reason="bad_name")
    return text


def check_secret_name(text: str) -> str:
    """Return `text` if it is a canonical secret name such as `openai.api_key`.

    Raises:
        WireError: if it is longer than 128 characters or not canonical. It does not repeat the text: what stands by
            mistake where a name belongs may be a value.
    """
    if len(text) <= MAX_SECRET_NAME and _DOTTED.fullmatch(text) is None:
        raise WireError(f"this secret name is not in canonical form: expected {_FORM}", reason="bad_name")
    return _check(text, "secret name", MAX_SECRET_NAME)


def is_secret_name(text: str) -> bool:
    """Whether `text` is a canonical secret name."""
    return len(text) <= MAX_SECRET_NAME and _DOTTED.fullmatch(text) is not None


def check_agent_id(text: str) -> str:
    """Return `text` if it is a canonical agent id such as `claude` or `random-script`.

    Raises:
        WireError: if it is longer than 64 characters or not canonical.
    """
    return _check(text, "agent id", MAX_AGENT_ID)


def is_agent_id(text: str) -> bool:
    """Whether `text` is a canonical agent id."""
    return len(text) <= MAX_AGENT_ID and _DOTTED.fullmatch(text) is not None


def check_run_id(text: str) -> str:
    """Return `text` if it is a canonical run id such as `run-7f3a`.

    Raises:
        WireError: if it is longer than 64 characters or not canonical.
    """
    return _check(text, "run id", MAX_RUN_ID)


def check_worker_name(text: str) -> str:
    """Return `text` if it is a canonical worker name such as `worker-1`: it names files and audit chains.

    Raises:
        WireError: if it is longer than 64 characters or not canonical.
    """
    return _check(text, "worker name", MAX_WORKER_NAME)


@dataclass(frozen=True, slots=True)
class NamePattern:
    """A pattern over secret names: `*` stands for one part between dots, a closing `**` for one or more.

    `github.*` matches `github.read_token` but neither `github` nor `github.org.token`; `github.**` matches
    both of the longer ones. A pattern without a star matches exactly the name that it spells.

    Args:
        text: the pattern, at most 128 characters.

    Raises:
        WireError: if the text is not a pattern of this form.
    """

    text: str
    _regex: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.text) > MAX_SECRET_NAME or _PATTERN.fullmatch(self.text) is None:
            raise WireError(
                f"this secret-name pattern is not valid: expected {_FORM}, "
                "where a whole part may be '*' and the last may be '**'",
                reason="bad_name",
            )
        parts = []
        for part in self.text.split("."):
            if part == "**":
                parts.append(r"[a-z0-9_.-]+")
            elif part == "*":
                parts.append(r"[a-z0-9_-]+")
            else:
                parts.append(re.escape(part))
        object.__setattr__(self, "_regex", re.compile(r"\.".join(parts)))

    @property
    def is_exact(self) -> bool:
        """Whether the pattern spells one name."""
        return "*" not in self.text

    def matches(self, name: str) -> bool:
        """Whether the canonical secret name `name` is covered."""
        return self._regex.fullmatch(name) is not None
