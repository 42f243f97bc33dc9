"""What both of AWS's vaults do with what they found."""

from collections.abc import Mapping
from typing import TypeVar

from agent_sdk.wire.messages import MAX_VALUE
from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.ports import Fetched
from broker_worker.providers.aws_errors import unreadable_answer

K = TypeVar("K")
T = TypeVar("T")


def require_service(outcomes: Mapping[K, T | ProviderError]) -> None:
    """Check that AWS as a whole can serve.

    Args:
        outcomes: what came of everything that was asked for; not empty.

    Raises:
        ProviderError: the first failure, if there is nothing but failures that are not about single names.
    """
    failures = [found for found in outcomes.values() if isinstance(found, ProviderError)]
    if len(failures) == len(outcomes) and not any(failure.is_about_the_name for failure in failures):
        raise failures[0]


def fetched_of(content: str | bytes, version: str) -> Fetched | ProviderError:
    """A value as it can be handed out, or why it cannot."""
    value = content if isinstance(content, bytes) else _encoded(content)
    if value is None:
        return unreadable_answer()
    if not value:
        return ProviderError(FailureKind.NOT_FOUND, "the value is empty", hint="fill it in in AWS")
    if len(value) > MAX_VALUE:
        return ProviderError(
            FailureKind.TOO_LARGE, f"the value has {len(value)} bytes; at most {MAX_VALUE} are allowed"
        )
    return Fetched(value, version)


def _encoded(text: str) -> bytes | None:
    """UTF-8; None if there is none, as JSON can name halves of characters."""
    try:
        return text.encode()
    except UnicodeEncodeError:  # it holds the value
        return None


def read_only_version() -> ProviderError:
    """The error for writing to a reference that names a version: what a version holds never changes."""
    return ProviderError(
        FailureKind.READ_ONLY,
        "the reference names one version, and a version cannot be written",
        hint="write to a reference without version, stage or label",
    )


def check_size(size: int, most: int, what: str) -> None:
    """Check the size of what is to be stored.

    Args:
        size: in bytes.
        most: how many the place can hold.
        what: the place, for people.

    Raises:
        ProviderError: `UNKNOWN` for an empty value, `TOO_LARGE` for one that is too long.
    """
    if not size:
        raise ProviderError(FailureKind.UNKNOWN, "the value is empty", hint="give at least one byte")
    if size > most:
        raise ProviderError(FailureKind.TOO_LARGE, f"{size} bytes are too many: {what} holds at most {most}")


def conflict(found: str) -> ProviderError:
    """The error for a place that does not hold what a writer expects.

    Args:
        found: what was found.
    """
    return ProviderError(FailureKind.CONFLICT, found, hint="read its version, and write only if that is still meant")
