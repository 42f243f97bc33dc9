"""Proofs of possession: that whoever shows an identity token holds the run's key, to one audience, for minutes.

A WIMSE Workload Proof Token (draft-ietf-wimse-wpt-02, "Workload Proof Token"): a JWT whose header is `typ: wpt+jwt` and
`alg`, signed by the run's key, with the claims `aud`, `exp`, `jti` and `wth`, the hash of the identity token. Other
claims of the draft bind other tokens of the same request; there are none here, so a proof that names any is refused.

`alg` may be either name of Ed25519, whichever of them the identity token's `cnf` has: both are one algorithm.
"""

import base64
import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from agent_sdk.wire.errors import Code, WireError
from agent_sdk.wire.jose import ALGORITHMS, REGISTRY, base64url, public_jwk, signing_key
from agent_sdk.wire.messages import MAX_PROOF

TYPE: Final = "wpt+jwt"
MAX_LIFETIME = 5 * 60 * 1000
"""How far ahead a proof may end, in ms. It says no time of issue, so this is counted from now."""
MAX_AUDIENCE = 512
_CLAIMS = {"aud", "exp", "jti", "wth"}


@dataclass(frozen=True, slots=True)
class ProofClaims:
    """What a verified proof says of itself.

    Args:
        jti: what tells this proof from every other of the same key.
        expires_at: ms since the epoch; until then, plus the skew, a verifier remembers `jti` to refuse a replay.
    """

    jti: str
    expires_at: int


def token_hash(token: str) -> str:
    """The `wth` of an identity token: base64url of the SHA-256 of its characters."""
    return base64url(hashlib.sha256(token.encode("ascii")).digest())


def sign_proof(run_seed: bytes, token: str, audience: str, now: int, lifetime: int, jti: str) -> str:
    """Sign a proof.

    Args:
        run_seed: the 32-byte seed of the run's Ed25519 key.
        token: the run's identity token, as it is shown.
        audience: whom the proof is for: the URI that is asked, without query and fragment.
        now: the time, ms since the epoch.
        lifetime: how long it is good, in ms; at most `MAX_LIFETIME`.
        jti: something never used before, such as 128 random bits in base64url.

    Returns:
        The compact serialisation.

    Raises:
        ValueError: if no verifier would take it: a lifetime of nothing or more than five minutes, a bad audience
            or `jti`, a token that is not ASCII.
    """
    if not 0 < lifetime <= MAX_LIFETIME:
        raise ValueError(f"a proof lives at most {MAX_LIFETIME // 1000} seconds, not {lifetime / 1000:g}")
    for text, limit in ((audience, MAX_AUDIENCE), (jti, 64)):
        if not _is_text(text, limit):
            raise ValueError(f"audience and jti are printable, at most {MAX_AUDIENCE} and 64 characters")
    claims: dict[str, Any] = {
        "aud": audience,
        "exp": (now + lifetime) // 1000,
        "jti": jti,
        "wth": token_hash(token),
    }
    return jwt.encode({"alg": ALGORITHMS[0], "typ": TYPE}, claims, signing_key(run_seed), algorithms=list(ALGORITHMS))


def verify_proof(
    proof: str, token: str, run_public_key: bytes, audiences: Collection[str], now: int, skew: int = 0
) -> ProofClaims:
    """Verify a proof that belongs to an identity token which was verified before.

    Args:
        proof: the compact serialisation.
        token: the identity token that was shown with it.
        run_public_key: the key that the token's `cnf` names, 32 bytes.
        audiences: whom a proof may be for, each exactly as it must be written; never taken from what a client sent.
        now: the time, ms since the epoch.
        skew: how far clocks may differ, in ms.

    Returns:
        What a verifier needs to refuse the same proof a second time, which this function does not do.

    Raises:
        WireError: `expired` when it is over, `unauthenticated` for everything else that is wrong with it.
    """
    _check_header(proof)
    try:
        claims = jwt.decode(proof, OKPKey.import_key(public_jwk(run_public_key)), registry=REGISTRY).claims
    except (JoseError, ValueError, TypeError, RecursionError) as error:
        raise _refuse(f"the signature does not verify ({type(error).__name__})") from None
    return _checked(claims, token, audiences, now, skew)


def _check_header(proof: str) -> None:
    if len(proof) > MAX_PROOF:
        raise _refuse(f"longer than {MAX_PROOF} characters")
    try:
        part = proof.split(".", 1)[0].encode("ascii")
        raw = base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))
        header = msgspec.json.decode(raw, type=dict[str, str])
    except (ValueError, msgspec.MsgspecError, RecursionError):
        raise _refuse("not a JWT") from None
    if header.get("typ") != TYPE or header.get("alg") not in ALGORITHMS or set(header) != {"typ", "alg"}:
        raise _refuse(f"expected a header of typ {TYPE} and alg {' or '.join(ALGORITHMS)}, nothing else")


def _checked(claims: Mapping[str, Any], token: str, audiences: Collection[str], now: int, skew: int) -> ProofClaims:
    if set(claims) != _CLAIMS:
        raise _refuse("expected the claims aud, exp, jti and wth, nothing else")
    if not _is_text(claims["aud"], MAX_AUDIENCE) or claims["aud"] not in audiences:
        raise _refuse("made for another audience")
    if not _is_text(claims["jti"], 64):
        raise _refuse("jti must be a printable text of 1 to 64 characters")
    if not token.isascii() or claims["wth"] != token_hash(token):
        raise _refuse("made for another identity token")
    expires_at = claims["exp"]
    if type(expires_at) is not int or not 0 <= expires_at < 2**43:
        raise _refuse("exp must be a whole number of seconds since the epoch")
    expires_at *= 1000
    if expires_at <= now - skew:
        raise _refuse("expired", Code.EXPIRED)
    if expires_at > now + skew + MAX_LIFETIME:
        raise _refuse(f"ends later than {MAX_LIFETIME // 60_000} minutes from now")
    return ProofClaims(claims["jti"], expires_at)


def _is_text(value: object, limit: int) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= limit and value.isprintable()


def _refuse(message: str, code: Code = Code.UNAUTHENTICATED) -> WireError:
    return WireError(f"proof: {message}", code=code, reason="bad_proof")
