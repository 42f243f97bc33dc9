"""What can go wrong for an agent, as a tree of exceptions, each with a stable `code`.

    SecretBrokerError            root (agent_sdk.wire.errors)
    ├── NotGranted               a request released nothing; `refusals` says which names and why
    │   ├── Denied               the policy does not allow it, or there is no such name: both look alike
    │   ├── RateLimited          too many; `retry_after` in seconds
    │   ├── Unavailable          no answer in time, the queue is away, or the broker cannot serve now
    │   │   └── BrokerNotTrusted the only answers came from somebody who is not the pinned broker
    │   ├── Unauthenticated      the broker does not accept this run's token
    │   ├── Expired              the run's token or the request's deadline is over
    │   ├── Revoked              the run or the lease was revoked
    │   ├── ApprovalPending      a human has to approve it first
    │   ├── ApprovalDenied       a human said no
    │   ├── ApprovalExpired      nobody approved it in time
    │   ├── Conflict             a write found the name taken, or another version there than it was to replace
    │   ├── InvalidRequest       the request itself is wrong; asking again does not help
    │   └── SeveralRefused       names of one request were refused for different reasons
    ├── LeaseExpired             `reveal()` of a secret whose time is over, or that was released
    │   └── LeaseRevoked         `reveal()` of a secret that the broker took back
    ├── NotText                  `reveal()` of a value that is not UTF-8; use `reveal_bytes()`
    ├── ClientClosed             the client was used after `close()`
    ├── CredentialMissing        the run was handed no credential
    ├── CredentialInvalid        the credential that it was handed cannot be used
    └── WireError                bytes or values that break the contract

No exception here ever holds a value.
"""

# ruff: noqa: N818  # these are read in `except Denied:`, where a suffix says nothing that the tree does not

from collections.abc import Sequence
from dataclasses import dataclass

from agent_sdk.wire.errors import Code, SecretBrokerError


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why one name was not released.

    Args:
        name: the name that was asked for.
        code: the broker's stable code.
        retry_after: seconds after which asking again may help; None if the broker did not say. While an approval is
            waited for: for how many seconds people can still decide.
        approval: the id of the approval that is waited for or was refused, 16 hexadecimal digits, as people and the
            audit call it.
        version: of a write that clashed: the version that is there, if this run may replace it.
    """

    name: str
    code: Code
    retry_after: float | None = None
    approval: str | None = None
    version: str | None = None


class NotGranted(SecretBrokerError):
    """A request that released nothing.

    Args:
        message: what happened and what to do.
        code: the stable code; each class has its own default.
        refusals: the names that were refused; empty if the request as a whole was, or was not answered.
        retry_after: seconds after which asking again may help, if the broker said so.
    """

    default_code = Code.DENIED

    def __init__(
        self,
        message: str,
        *,
        code: Code | None = None,
        refusals: Sequence[Refusal] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, code=code or self.default_code)
        self.refusals = tuple(refusals)
        self.retry_after = retry_after

    @property
    def names(self) -> tuple[str, ...]:
        """The refused names."""
        return tuple(refusal.name for refusal in self.refusals)


class Denied(NotGranted):
    """The policy does not allow it. A name that does not exist and one that is not allowed look alike."""


class RateLimited(NotGranted):
    """Too many requests; `retry_after` says in how many seconds the next one may go through."""

    default_code = Code.RATE_LIMITED

    def __init__(
        self,
        message: str,
        *,
        code: Code | None = None,
        refusals: Sequence[Refusal] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, code=code, refusals=refusals, retry_after=retry_after)
        self.retry_after: float = retry_after or 0.0


class Unavailable(NotGranted):
    """No answer in time, the queue is away, or the broker cannot serve now. Asking again later may help."""

    default_code = Code.UNAVAILABLE


class BrokerNotTrusted(Unavailable):
    """Answers arrived, but none from the broker that this run's credential pins."""

    default_code = Code.UNAUTHENTICATED


class Unauthenticated(NotGranted):
    """The broker does not accept this run's token."""

    default_code = Code.UNAUTHENTICATED


class Expired(NotGranted):
    """The run's token is over, or the request reached the broker after its deadline."""

    default_code = Code.EXPIRED


class Revoked(NotGranted):
    """The run or the lease was revoked."""

    default_code = Code.REVOKED


class ApprovalPending(NotGranted):
    """A human has to approve the request first; `retry_after` says for how many seconds that is still possible."""

    default_code = Code.APPROVAL_PENDING


class ApprovalDenied(NotGranted):
    """A human refused the request."""

    default_code = Code.APPROVAL_DENIED


class ApprovalExpired(NotGranted):
    """Nobody approved the request in time."""

    default_code = Code.APPROVAL_EXPIRED


class Conflict(NotGranted):
    """Nothing was written: the name is taken, or has another version than the one that was to be replaced."""

    default_code = Code.CONFLICT

    @property
    def version(self) -> str | None:
        """The version that is there, which can be named as `replaces`; None if this run may not replace it."""
        return self.refusals[0].version if self.refusals else None


class InvalidRequest(NotGranted):
    """The request itself is wrong: asking again does not help."""

    default_code = Code.INVALID


class SeveralRefused(NotGranted):
    """Names of one request were refused for different reasons: `refusals` has each with its code."""


class LeaseExpired(SecretBrokerError):
    """The time of a secret is over: ask the broker for it again."""

    def __init__(self, message: str, *, code: Code = Code.EXPIRED) -> None:
        super().__init__(message, code=code)


class LeaseRevoked(LeaseExpired):
    """The broker took a secret back before its time. It does not help to ask for it again."""

    def __init__(self, message: str, *, code: Code = Code.REVOKED) -> None:
        super().__init__(message, code=code)


class NotText(SecretBrokerError):
    """A value is not UTF-8 text: `reveal_bytes()` gives it."""


class ClientClosed(SecretBrokerError):
    """The client was used after `close()`."""


class CredentialMissing(SecretBrokerError):
    """The run was handed no credential."""

    def __init__(self, message: str, *, code: Code = Code.UNAUTHENTICATED) -> None:
        super().__init__(message, code=code)


class CredentialInvalid(SecretBrokerError):
    """The credential that the run was handed cannot be used."""


_CLASSES: dict[Code, type[NotGranted]] = {
    Code.DENIED: Denied,
    Code.UNAUTHENTICATED: Unauthenticated,
    Code.EXPIRED: Expired,
    Code.REVOKED: Revoked,
    Code.RATE_LIMITED: RateLimited,
    Code.APPROVAL_PENDING: ApprovalPending,
    Code.APPROVAL_DENIED: ApprovalDenied,
    Code.APPROVAL_EXPIRED: ApprovalExpired,
    Code.UNAVAILABLE: Unavailable,
    Code.AUDIT_UNAVAILABLE: Unavailable,
    Code.CONFLICT: Conflict,
    Code.INVALID: InvalidRequest,
    Code.TOO_LARGE: InvalidRequest,
}

_WORDS: dict[Code, str] = {
    Code.DENIED: "denied; the audit says why (`secret-broker policy explain` on the broker's host)",
    Code.UNAUTHENTICATED: "the broker does not accept this run's token; start the run again with a new credential",
    Code.EXPIRED: "the run's token or the request's deadline is over; start the run again or compare the clocks",
    Code.REVOKED: "revoked; this run gets it no more",
    Code.RATE_LIMITED: "too many requests",
    Code.APPROVAL_DENIED: "a human refused it",
    Code.APPROVAL_EXPIRED: "nobody approved it in time; ask again",
    Code.UNAVAILABLE: "the broker or its vault cannot serve now; ask again later",
    Code.AUDIT_UNAVAILABLE: "the broker cannot write its audit and releases nothing; tell its operator",
    Code.CONFLICT: "the place does not hold what the write expects: create a name once, or replace the version there",
    Code.INVALID: "the broker found the request invalid",
    Code.TOO_LARGE: "the request or the value is too large",
}


def refused_as_a_whole(code: Code, refusals: Sequence[Refusal], retry_after: float | None = None) -> NotGranted:
    """The exception for a request that was refused for one reason.

    Args:
        code: the broker's code.
        refusals: the names that were asked for; may be empty (`list_names`).
        retry_after: seconds, if the broker said so.
    """
    if code == Code.APPROVAL_PENDING:
        words = _pending(refusals, retry_after)
    else:
        words = _WORDS[code] if retry_after is None else f"{_WORDS[code]}; ask again in {retry_after:g} s"
    listed = ", ".join(refusal.name for refusal in refusals)
    message = f"{listed}: {words}" if listed else words
    return _CLASSES[code](message, code=code, refusals=refusals, retry_after=retry_after)


def _pending(refusals: Sequence[Refusal], seconds_left: float | None) -> str:
    """What to look for, and how long people have: an id is what `secret-broker approve` takes."""
    ids = sorted({refusal.approval for refusal in refusals if refusal.approval is not None})
    words = "waiting for a human's approval"
    if ids:
        words += f" ({', '.join(ids)})"
    if seconds_left is not None:
        words += f", possible for {seconds_left:.0f} s more"
    return f"{words}; ask again later"


def refused_names(refusals: Sequence[Refusal]) -> NotGranted:
    """The exception for names that were refused: of their common code's class, else `SeveralRefused`."""
    codes = {refusal.code for refusal in refusals}
    waits = [refusal.retry_after for refusal in refusals if refusal.retry_after is not None]
    retry_after = max(waits) if waits else None
    if len(codes) == 1:
        return refused_as_a_whole(codes.pop(), refusals, retry_after)
    listed = ", ".join(f"{refusal.name} ({refusal.code})" for refusal in refusals)
    return SeveralRefused(f"not released: {listed}", refusals=refusals, retry_after=retry_after)
