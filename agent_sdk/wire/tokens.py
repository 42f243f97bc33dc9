"""Identity tokens: who a run is, signed by its issuer and bound to the run's key.

A JWT shaped as a WIMSE Workload Identity Token (draft-ietf-wimse-s2s-protocol, "Workload Identity Token"): header
`typ: wit+jwt`, `alg` Ed25519 (RFC 9864) or EdDSA (RFC 8037) and nothing else, and the run's public key in
`cnf.jwk` (RFC 7800). It is no bearer token on the queue: without the run's private key it opens nothing.

Trust anchors are handed in. `kid` and `iss` only select among them; neither can add one.
"""

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from agent_sdk.wire.errors import Code, WireError
from agent_sdk.wire.jose import ALGORITHMS, REGISTRY, base64url, public_jwk, signing_key
from agent_sdk.wire.messages import MAX_TOKEN
from agent_sdk.wire.names import NamePattern, check_agent_id, check_run_id
from agent_sdk.wire.static_tokens import RUN_PREFIX

TYPE: Final = "wit+jwt"
MAX_SCOPE = 64
MAX_TASK = 128
_CLAIMS = {"iss", "sub", "agent_id", "run_id", "iat", "exp", "jti", "task", "scope", "cnf"}


@dataclass(frozen=True, slots=True)
class TrustAnchor:
    """An issuer whose tokens the broker accepts.

    Args:
        issuer: the exact `iss` that its tokens must carry.
        public_key: its Ed25519 public key, 32 bytes.
        agents: the agents that it may speak for.
        max_lifetime: the longest `exp - iat` it may sign for, in seconds.
        trust_domain: the SPIFFE trust domain of the `sub` claim.
    """

    issuer: str
    public_key: bytes
    agents: frozenset[str]
    max_lifetime: int
    trust_domain: str = "secret-broker.local"

    @property
    def key_id(self) -> str:
        """The RFC 7638 thumbprint that tokens name in `kid`."""
        return key_thumbprint(self.public_key)


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """What a verified token says. Times are in ms since the epoch."""

    issuer: str
    agent_id: str
    run_id: str
    run_public_key: bytes
    token_id: str
    issued_at: int
    expires_at: int
    task: str | None = None
    scope: tuple[NamePattern, ...] | None = None

    def in_scope(self, name: str) -> bool:
        """Whether the token's own scope, which narrows the policy and never widens it, covers `name`."""
        return self.scope is None or any(pattern.matches(name) for pattern in self.scope)


def key_thumbprint(public_key: bytes) -> str:
    """The RFC 7638 thumbprint of an Ed25519 public key, base64url."""
    return OKPKey.import_key(public_jwk(public_key)).thumbprint()


def subject(trust_domain: str, agent_id: str, run_id: str) -> str:
    """The SPIFFE id of one run of one agent."""
    return f"spiffe://{trust_domain}/agent/{agent_id}/run/{run_id}"


def sign_token(issuer_seed: bytes, identity: RunIdentity, trust_domain: str = "secret-broker.local") -> str:
    """Sign an identity token.

    Args:
        issuer_seed: the 32-byte seed of the issuer's Ed25519 key.
        identity: what the token says; its times are cut to whole seconds.
        trust_domain: the SPIFFE trust domain of the `sub` claim.

    Returns:
        The compact serialisation.

    Raises:
        WireError: if an id is not canonical, or is one of a static token's run.
    """
    _check_ids(identity.run_id, identity.token_id)
    key = signing_key(issuer_seed)
    claims: dict[str, Any] = {
        "iss": identity.issuer,
        "sub": subject(trust_domain, identity.agent_id, identity.run_id),
        "agent_id": check_agent_id(identity.agent_id),
        "run_id": check_run_id(identity.run_id),
        "iat": identity.issued_at // 1000,
        "exp": identity.expires_at // 1000,
        "jti": identity.token_id,
        "cnf": {"jwk": public_jwk(identity.run_public_key, alg=ALGORITHMS[0])},
    }
    if identity.task is not None:
        claims["task"] = identity.task
    if identity.scope is not None:
        claims["scope"] = [pattern.text for pattern in identity.scope]
    header = {"alg": ALGORITHMS[0], "typ": TYPE, "kid": key.thumbprint()}
    return jwt.encode(header, claims, key, algorithms=list(ALGORITHMS))


def _check_ids(run_id: str, token_id: str) -> None:
    """Refuse ids of static tokens: whoever had one would share that run's limits, leases and revocations."""
    if run_id.startswith(RUN_PREFIX) or token_id.startswith(RUN_PREFIX):
        raise _refuse(f"ids of runs and of tokens that begin with `{RUN_PREFIX}` are those of static tokens")


def _refuse(message: str, code: Code = Code.UNAUTHENTICATED) -> WireError:
    return WireError(f"identity token: {message}", code=code, reason="bad_token")


class TokenVerifier:
    """Verifies identity tokens against a fixed set of trust anchors.

    Args:
        anchors: the issuers of the operator's file.
        skew: how far clocks may differ, in ms.
    """

    def __init__(self, anchors: Iterable[TrustAnchor], skew: int = 0) -> None:
        self._anchors = {anchor.key_id: anchor for anchor in anchors}
        self._keys = {kid: OKPKey.import_key(public_jwk(a.public_key)) for kid, a in self._anchors.items()}
        self._skew = skew

    def verify(self, token: str, now: int) -> RunIdentity:
        """Verify a token.

        Args:
            token: the compact serialisation.
            now: the time, ms since the epoch.

        Returns:
            The identity that it states.

        Raises:
            WireError: `expired` when it is over, `unauthenticated` for everything else that is wrong with it.
        """
        header = self._header(token)
        anchor = self._anchors.get(header["kid"])
        if anchor is None:
            raise _refuse("signed by a key that config/issuers.yaml does not list")
        try:
            claims = jwt.decode(token, self._keys[anchor.key_id], registry=REGISTRY).claims
        except (JoseError, ValueError, TypeError, RecursionError) as error:
            raise _refuse(f"the signature does not verify ({type(error).__name__})") from None
        return _identity(claims, anchor, now, self._skew)

    def _header(self, token: str) -> Mapping[str, str]:
        if len(token) > MAX_TOKEN:
            raise _refuse(f"longer than {MAX_TOKEN} characters")
        try:
            part = token.split(".", 1)[0].encode("ascii")
            raw = base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))
            header = msgspec.json.decode(raw, type=dict[str, str])
        except (ValueError, msgspec.MsgspecError, RecursionError):
            raise _refuse("not a JWT") from None
        if header.get("typ") != TYPE or header.get("alg") not in ALGORITHMS or set(header) != {"typ", "alg", "kid"}:
            raise _refuse(f"expected a header of typ {TYPE}, alg {' or '.join(ALGORITHMS)} and kid, nothing else")
        return header


def _identity(claims: Mapping[str, Any], anchor: TrustAnchor, now: int, skew: int) -> RunIdentity:
    """Check every claim of a token whose signature verified with `anchor`'s key."""
    unknown = set(claims) - _CLAIMS
    if unknown:
        raise _refuse(f"unknown claim {min(unknown)!r}")
    if claims.get("iss") != anchor.issuer:
        raise _refuse("iss is not the issuer that this key belongs to")
    agent_id, run_id, token_id = (_text(claims, name, 64) for name in ("agent_id", "run_id", "jti"))
    try:
        check_agent_id(agent_id)
        check_run_id(run_id)
    except WireError as error:
        raise _refuse(str(error)) from None
    _check_ids(run_id, token_id)
    if claims.get("sub") != subject(anchor.trust_domain, agent_id, run_id):
        raise _refuse("sub disagrees with agent_id, run_id or the trust domain")
    if agent_id not in anchor.agents:
        raise _refuse("this issuer may not speak for that agent")
    issued_at, expires_at = _seconds(claims, "iat"), _seconds(claims, "exp")
    if expires_at - issued_at > anchor.max_lifetime * 1000 or expires_at <= issued_at:
        raise _refuse("its lifetime is not within what the issuer may sign for")
    if issued_at > now + skew:
        raise _refuse("not valid yet: compare the clocks of issuer and broker")
    if expires_at <= now - skew:
        raise _refuse("expired", Code.EXPIRED)
    return RunIdentity(
        issuer=anchor.issuer,
        agent_id=agent_id,
        run_id=run_id,
        run_public_key=_confirmation(claims.get("cnf")),
        token_id=token_id,
        issued_at=issued_at,
        expires_at=expires_at,
        task=_text(claims, "task", MAX_TASK) if "task" in claims else None,
        scope=_scope(claims["scope"]) if "scope" in claims else None,
    )


def _text(claims: Mapping[str, Any], name: str, limit: int) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= limit or not value.isprintable():
        raise _refuse(f"{name} must be a printable text of 1 to {limit} characters")
    return value


def _seconds(claims: Mapping[str, Any], name: str) -> int:
    value = claims.get(name)
    if type(value) is not int or not 0 <= value < 2**43:
        raise _refuse(f"{name} must be a whole number of seconds since the epoch")
    return value * 1000


def _confirmation(cnf: object) -> bytes:
    """The run's key from `cnf.jwk` (RFC 7800, section 3.2)."""
    jwk = cnf.get("jwk") if isinstance(cnf, dict) and set(cnf) == {"jwk"} else None
    if not isinstance(jwk, dict) or set(jwk) != {"kty", "crv", "x", "alg"} or not isinstance(jwk["x"], str):
        raise _refuse("cnf.jwk must be an OKP key with kty, crv, x and alg")
    if jwk["kty"] != "OKP" or jwk["crv"] != "Ed25519" or jwk["alg"] not in ALGORITHMS:
        raise _refuse("cnf.jwk must be an Ed25519 key")
    try:
        raw = base64.urlsafe_b64decode(jwk["x"].encode("ascii") + b"=")
    except ValueError:
        raise _refuse("cnf.jwk.x is not base64url") from None
    if len(raw) != 32 or base64url(raw) != jwk["x"]:
        raise _refuse("cnf.jwk.x is not 32 bytes in base64url")
    return raw


def _scope(value: object) -> tuple[NamePattern, ...]:
    if not isinstance(value, list) or len(value) > MAX_SCOPE or not all(isinstance(p, str) for p in value):
        raise _refuse(f"scope must be a list of at most {MAX_SCOPE} secret-name patterns")
    try:
        return tuple(NamePattern(pattern) for pattern in value)
    except WireError as error:
        raise _refuse(str(error)) from None
