"""Stable codes and the root of every exception that this package raises.

    SecretBrokerError                 root; has a stable `code`
    └── WireError                     bytes or values that break the contract; has a `reason` for the audit

The client's own exceptions (`agent_sdk.errors`) derive from the same root.
"""

from enum import StrEnum


class Code(StrEnum):
    """What an agent may learn of an outcome (docs/protocol.md, "Codes"). Values are stable."""

    DENIED = "denied"
    UNAUTHENTICATED = "unauthenticated"
    EXPIRED = "expired"
    REVOKED = "revoked"
    RATE_LIMITED = "rate_limited"
    APPROVAL_PENDING = "approval_pending"
    APPROVAL_DENIED = "approval_denied"
    APPROVAL_EXPIRED = "approval_expired"
    UNAVAILABLE = "unavailable"
    AUDIT_UNAVAILABLE = "audit_unavailable"
    CONFLICT = "conflict"
    INVALID = "invalid"
    TOO_LARGE = "too_large"


class SecretBrokerError(Exception):
    """Root of the exceptions of `agent_sdk`.

    Args:
        message: what was found, what was expected and what to do; never a secret value.
        code: the stable code that scripts may act on.
    """

    def __init__(self, message: str, *, code: Code = Code.INVALID) -> None:
        super().__init__(message)
        self.code = code


class WireError(SecretBrokerError):
    """A message, name, token or certificate that does not follow the contract.

    Args:
        message: what was found and what was expected.
        code: `invalid` unless the contract names a better one.
        reason: a stable slug that the audit records (`not_canonical`, `cannot_open`, …).
    """

    def __init__(self, message: str, *, code: Code = Code.INVALID, reason: str = "malformed") -> None:
        super().__init__(message, code=code)
        self.reason = reason
