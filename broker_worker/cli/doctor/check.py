"""What one check found."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from agent_sdk.wire.errors import SecretBrokerError
from broker_worker.core.errors import BrokerError


class Status(StrEnum):
    """How a check ended: only `FAIL` makes the command's exit code 1."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report.

    Args:
        name: what was checked.
        status: how it ended.
        detail: what was found.
        hint: what to do about it.
    """

    name: str
    status: Status
    detail: str
    hint: str = ""


def ok(name: str, detail: str) -> Check:
    """A check that found nothing wrong."""
    return Check(name, Status.OK, detail)


def warn(name: str, detail: str, hint: str) -> Check:
    """A check that found something to think about."""
    return Check(name, Status.WARN, detail, hint)


def failed(name: str, detail: str, hint: str) -> Check:
    """A check that found something that has to be mended."""
    return Check(name, Status.FAIL, detail, hint)


def of_error(name: str, error: Exception) -> Check:
    """A check that an exception ended. Of a foreign exception only the type is told: its text may hold a value."""
    if isinstance(error, BrokerError | SecretBrokerError):
        return failed(name, str(error), getattr(error, "hint", ""))
    if isinstance(error, OSError) and error.strerror:
        place = f": {error.filename}" if error.filename else ""
        return failed(name, f"{error.strerror}{place}", "check owner, mode and free space")
    return failed(name, f"the check itself ended with {type(error).__name__}", "this is a defect of doctor")


def guarded(name: str, check: Callable[[], Iterable[Check]]) -> Iterator[Check]:
    """Run a check so that its failure is one line of the report and never its end."""
    try:
        yield from check()
    except Exception as error:  # noqa: BLE001  # whatever it is, the other checks still have something to say
        yield of_error(name, error)
