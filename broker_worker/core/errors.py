"""The root of every exception of `broker_worker`, each with a stable code and, where it helps, a hint.

BrokerError
├── ConfigError          a file of the operator's says something that cannot be meant; has file and line
├── ProviderError        a vault did not give a value; `kind` says why
├── AuditError           the audit cannot be written or does not verify
├── QueueError           the queue is away or refuses
├── ApprovalError        there is no such approval, or a decision on it would not count
└── SetupError           something on this host is missing or in the way
"""

from enum import StrEnum


class BrokerError(Exception):
    """Root of the exceptions of `broker_worker`.

    Args:
        message: what was found and what was expected; never a secret value.
        hint: what to do about it, one line.
    """

    code = "broker_error"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigError(BrokerError):
    """A configuration file that cannot be used.

    Args:
        message: what was found and what was expected.
        file: the file.
        line: the line, from 1; 0 if the whole file is meant.
        hint: what to do about it.
    """

    code = "config_invalid"

    def __init__(self, message: str, *, file: str, line: int = 0, hint: str = "") -> None:
        super().__init__(f"{file}:{line}: {message}" if line else f"{file}: {message}", hint=hint)
        self.file = file
        self.line = line


class FailureKind(StrEnum):
    """Why a provider gave no value. Whatever is not understood is `UNKNOWN`, and refused.

    `RATE_LIMITED` is what a vault says, `OVER_BUDGET` what the broker says before it would.
    """

    NOT_FOUND = "not_found"
    AMBIGUOUS = "ambiguous"
    BAD_REFERENCE = "bad_reference"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    RATE_LIMITED = "rate_limited"
    OVER_BUDGET = "over_budget"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    TOO_LARGE = "too_large"
    READ_ONLY = "read_only"
    CONFLICT = "conflict"
    UNKNOWN = "unknown"


class ProviderError(BrokerError):
    """A vault that did not give a value.

    Args:
        kind: why.
        message: what happened, in our own words; never text that the vault sent.
        retry_after: when asking again may help, in ms from now; None if the vault did not say.
        hint: what the operator can do.
    """

    code = "provider_failed"

    def __init__(self, kind: FailureKind, message: str, *, retry_after: int | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.kind = kind
        self.retry_after = retry_after

    @property
    def is_about_the_name(self) -> bool:
        """Whether the reference itself is at fault, so that asking again soon is pointless."""
        return self.kind in {
            FailureKind.NOT_FOUND,
            FailureKind.AMBIGUOUS,
            FailureKind.BAD_REFERENCE,
            FailureKind.FORBIDDEN,
            FailureKind.TOO_LARGE,
        }


class AuditError(BrokerError):
    """The audit cannot be written or read."""

    code = "audit_failed"


class QueueError(BrokerError):
    """The queue cannot be reached or refuses a command."""

    code = "queue_failed"


class ApprovalError(BrokerError):
    """An approval that nobody was asked for, or a decision that would not count."""

    code = "approval_failed"


class SetupError(BrokerError):
    """Something that the broker needs on this host is missing, in the way or unsafe."""

    code = "setup_failed"
