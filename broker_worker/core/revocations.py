"""What must not be served any more, whatever the policy says, until it is reinstated."""

import re
from collections.abc import Iterator
from typing import Annotated, Final, Literal, get_args

import nacl.bindings as sodium
from msgspec import Meta, Struct
from nacl.exceptions import BadSignatureError

from agent_sdk.wire.codec import Codec
from agent_sdk.wire.errors import WireError
from agent_sdk.wire.names import check_agent_id, check_run_id, check_secret_name

Kind = Literal["run", "agent", "secret", "lease", "token"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
MAX_BYTES: Final = 4096
MAX_AT: Final = 253_402_300_799_999
"""The last time that an order can have, ms since the epoch: the end of the year 9999, as in files and in the audit."""
MAX_TOKEN_ID: Final = 64
"""Longest `jti` that a token may have, characters."""
_LEASE_ID = re.compile("[0-9a-f]{32}")
_TAG = b"secret-broker revocation v1\x00"
Text = Annotated[str, Meta(max_length=256)]


class Revocation(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One order of an operator: refuse a subject, or serve it again.

    Args:
        revocation_id: 16 hexadecimal digits.
        order: `revoke` or `reinstate`.
        kind: what `subject` is.
        subject: `agent/run` for a run, an agent id, a secret name, a lease id (32 hexadecimal digits), or a token's
            `jti`.
        version: of a secret: only this version; None for all.
        at: when, ms since the epoch; `MAX_AT` at most.
        reason: in the operator's words.
        by: who, as far as the program knows.
    """

    revocation_id: Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]
    order: Literal["revoke", "reinstate"]
    kind: Kind
    subject: Text
    version: Text | None = None
    at: Annotated[int, Meta(ge=0, le=MAX_AT)]
    reason: Text
    by: Text

    @property
    def label(self) -> str:
        """`kind:subject`, as the audit says it; a secret's version behind `@`."""
        return f"{self.kind}:{self.subject}" + ("" if self.version is None else f"@{self.version}")


def check_subject(kind: Kind, subject: str, version: str | None = None) -> None:
    """Check that there could be such a thing: an order about anything else would stop nothing.

    Args:
        kind: what `subject` is.
        subject: as in `Revocation`; compared as written, never normalised.
        version: as in `Revocation`.

    Raises:
        WireError: if the subject is not of the form that its kind has; what was expected.
    """
    if version is not None and (kind != "secret" or not 0 < len(version) <= 128):
        raise WireError("only a secret has a version, of 1 to 128 characters", reason="bad_subject")
    if kind == "agent":
        check_agent_id(subject)
    elif kind == "secret":
        check_secret_name(subject)
    elif kind == "run":
        agent_id, slash, run_id = subject.partition("/")
        if not slash:
            raise WireError("a run is named by agent and run: expected AGENT/RUN", reason="bad_subject")
        check_agent_id(agent_id)
        check_run_id(run_id)
    elif kind == "lease" and _LEASE_ID.fullmatch(subject) is None:
        raise WireError(
            "this is no lease id: expected 32 hexadecimal digits in lower case, as `leases list` shows",
            reason="bad_subject",
        )
    elif kind == "token" and not 0 < len(subject) <= MAX_TOKEN_ID:
        raise WireError(
            f"this is no token's jti: expected 1 to {MAX_TOKEN_ID} characters, as `token_id` in the audit",
            reason="bad_subject",
        )


class _Signed(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    revocation: Annotated[bytes, Meta(max_length=MAX_BYTES)]
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]


_REVOCATION = Codec(Revocation, "revocation", MAX_BYTES)
_SIGNED = Codec(_Signed, "signed revocation", MAX_BYTES)


def sign_revocation(revocation: Revocation, control_secret: bytes) -> bytes:
    """The bytes that go into the broker's file and onto `sb:control`.

    Args:
        revocation: the order.
        control_secret: the operator's Ed25519 control key in libsodium's 64-byte form.
    """
    raw = _REVOCATION.encode(revocation)
    return _SIGNED.encode(_Signed(raw, sodium.crypto_sign(_TAG + raw, control_secret)[:64]))


def open_revocation(raw: bytes, control_public: bytes) -> Revocation:
    """Read a signed order.

    Args:
        raw: its bytes.
        control_public: the control key's public half, 32 bytes.

    Raises:
        WireError: if it is not canonical, or the control key did not sign it.
    """
    signed = _SIGNED.decode(raw)
    try:
        sodium.crypto_sign_open(signed.signature + _TAG + signed.revocation, control_public)
    except BadSignatureError:
        raise WireError("revocation: not signed with this broker's control key", reason="forged") from None
    return _REVOCATION.decode(signed.revocation)


class Revocations:
    """The orders in force. The newest order about a subject holds, in whichever order they arrive."""

    def __init__(self) -> None:
        self._orders: dict[tuple[str, str, str | None], Revocation] = {}
        self._refusing = 0
        self.changes = 0
        """How often what is refused changed: whoever decided something and waited can see whether it still holds."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing is refused: the only question that costs anything when nothing was ever revoked."""
        return self._refusing == 0

    def __iter__(self) -> Iterator[Revocation]:
        """What is refused now."""
        return (each for each in self._orders.values() if each.order == "revoke")

    def apply(self, revocation: Revocation) -> bool:
        """Take an order.

        Returns:
            Whether it changed what is refused: False for one that is known, older than a known one, or repeats it.
        """
        place = (revocation.kind, revocation.subject, revocation.version)
        known = self._orders.get(place)
        if known is not None and _age(known) >= _age(revocation):
            return False
        was_refused = known is not None and known.order == "revoke"
        is_refused = revocation.order == "revoke"
        self._orders[place] = revocation
        self._refusing += is_refused - was_refused
        self.changes += was_refused != is_refused
        return was_refused != is_refused

    def newest(self, kind: Kind, subject: str, version: str | None = None) -> Revocation | None:
        """The order that holds about a subject, to refuse it or to serve it again."""
        return self._orders.get((kind, subject, version))

    def of_run(self, agent_id: str, run_id: str, token_id: str) -> Revocation | None:
        """The order that refuses everything that a run asks, if there is one."""
        return (
            self._find("agent", agent_id) or self._find("run", f"{agent_id}/{run_id}") or self._find("token", token_id)
        )

    def of_secret(self, name: str, version: str | None = None) -> Revocation | None:
        """The order that refuses a secret, or this version of it."""
        whole = self._find("secret", name)
        return whole if whole is not None or version is None else self._find("secret", name, version)

    def of_lease(self, lease_id: str) -> Revocation | None:
        """The order that ended a lease."""
        return self._find("lease", lease_id)

    def _find(self, kind: str, subject: str, version: str | None = None) -> Revocation | None:
        found = self._orders.get((kind, subject, version))
        return found if found is not None and found.order == "revoke" else None


def _age(revocation: Revocation) -> tuple[int, bool, str, str, str]:
    """What orders about one subject are sorted by. Of two given in the same millisecond, the one to refuse holds."""
    last = (revocation.revocation_id, revocation.reason, revocation.by)
    return (revocation.at, revocation.order == "revoke", *last)
