"""What must not be served any more, whatever the policy says, until it is reinstated."""

from collections.abc import Iterator
from typing import Annotated, Final, Literal

import nacl.bindings as sodium
from msgspec import Meta, Struct
from nacl.exceptions import BadSignatureError

from agent_sdk.wire.codec import Codec
from agent_sdk.wire.errors import WireError
from agent_sdk.wire.messages import Time

Kind = Literal["run", "agent", "secret", "lease", "token"]
MAX_BYTES: Final = 4096
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
        at: when, ms since the epoch.
        reason: in the operator's words.
        by: who, as far as the program knows.
    """

    revocation_id: Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]
    order: Literal["revoke", "reinstate"]
    kind: Kind
    subject: Text
    version: Text | None = None
    at: Time
    reason: Text
    by: Text

    @property
    def label(self) -> str:
        """`kind:subject`, as the audit says it; a secret's version behind `@`."""
        return f"{self.kind}:{self.subject}" + ("" if self.version is None else f"@{self.version}")


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
        self.is_empty = True
        """Whether nothing is refused: the only question that costs anything when nothing was ever revoked."""

    def __iter__(self) -> Iterator[Revocation]:
        """What is refused now."""
        return (each for each in self._orders.values() if each.order == "revoke")

    def apply(self, revocation: Revocation) -> bool:
        """Take an order.

        Returns:
            Whether it changed what is in force: False for one that is known, or older than a known one.
        """
        place = (revocation.kind, revocation.subject, revocation.version)
        known = self._orders.get(place)
        if known is not None and (known.at, known.revocation_id) >= (revocation.at, revocation.revocation_id):
            return False
        self._orders[place] = revocation
        self.is_empty = not any(each.order == "revoke" for each in self._orders.values())
        return known is None or known.order != revocation.order

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
