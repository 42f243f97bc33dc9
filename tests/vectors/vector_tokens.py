"""Cases of tokens.json: identity tokens and the trust anchors that they are verified against."""

import hashlib
import hmac
from typing import Any

from wire_reference import NOW, Case, b64, case, compact, keypair, signature, thumbprint, token

_BAD, _EXPIRED = "unauthenticated/bad_token", "expired/bad_token"
_ISSUER, _ISSUER_SECRET = keypair("issuer")
_OTHER, _OTHER_SECRET = keypair("another issuer")
_RUN, _ = keypair("run a")
_SECONDS = NOW // 1000
_NAME = "orchestrator"
ANCHORS = [
    {
        "issuer": _NAME,
        "public_key": _ISSUER,
        "agents": ["claude", "codex"],
        "max_lifetime": 28_800,
        "trust_domain": "secret-broker.local",
    },
    {
        "issuer": "second",
        "public_key": keypair("second issuer")[0],
        "agents": ["grok"],
        "max_lifetime": 60,
        "trust_domain": "second.example",
    },
]
_HEADER = {"alg": "Ed25519", "typ": "wit+jwt", "kid": thumbprint(_ISSUER)}
_JWK = {"kty": "OKP", "crv": "Ed25519", "x": b64(_RUN), "alg": "Ed25519"}


def _claims(**more: object) -> dict[str, Any]:
    claims = {
        "iss": _NAME,
        "sub": "spiffe://secret-broker.local/agent/claude/run/run-1",
        "agent_id": "claude",
        "run_id": "run-1",
        "iat": _SECONDS - 60,
        "exp": _SECONDS + 3600,
        "jti": "token-1",
        "cnf": {"jwk": _JWK},
    }
    return {key: value for key, value in {**claims, **more}.items() if value is not ...}


def _signed(header: object = None, **claims: object) -> str:
    return token(header or _HEADER, _claims(**claims), _ISSUER_SECRET)


def _look(name: str, expect: str, text: str, comment: str = "", **more: object) -> Case:
    return case(name, expect, comment, **{"now": NOW, "skew": 0, "token": text, **more})


def _identity(**more: object) -> dict[str, object]:
    fields: dict[str, object] = {
        "issuer": _NAME,
        "agent_id": "claude",
        "run_id": "run-1",
        "run_public_key": _RUN,
        "token_id": "token-1",
        "issued_at": NOW - 60_000,
        "expires_at": NOW + 3_600_000,
        "task": None,
        "scope": None,
    }
    return {**fields, **more}


def _good() -> list[Case]:
    scope = ["openai.api_key", "github.*", "tools.**"]
    return [
        _look("fewest claims", "ok", _signed(), identity=_identity()),
        _look("alg EdDSA, RFC 8037's name", "ok", _signed({**_HEADER, "alg": "EdDSA"}), identity=_identity()),
        *(
            _look(f"of the run {run_id}", "ok", _signed(**_of_run(run_id)), identity=_identity(run_id=run_id))
            for run_id in ("static", "statics-1", "static_1", "static.1", "my-static-1")
        ),
        _look("with a task", "ok", _signed(task="Ticket 42: tidy"), identity=_identity(task="Ticket 42: tidy")),
        _look("with a scope", "ok", _signed(scope=scope), identity=_identity(scope=scope)),
        _look("with a scope of nothing", "ok", _signed(scope=[]), identity=_identity(scope=[])),
        _look("of the longest life", "ok", _signed(exp=_SECONDS - 60 + 28_800)),
        _look("last millisecond", "ok", _signed(exp=_SECONDS), now=NOW - 1),
        _look("issued this very moment", "ok", _signed(iat=_SECONDS)),
        _look("issued ahead within the skew", "ok", _signed(iat=_SECONDS + 5), skew=5000),
        _look("over within the skew", "ok", _signed(exp=_SECONDS - 4), skew=5000),
        _look(
            "cnf with EdDSA",
            "ok",
            _signed(cnf={"jwk": {**_JWK, "alg": "EdDSA"}}),
            identity=_identity(),
        ),
    ]


def _time_faults() -> list[Case]:
    return [
        _look("expired this very moment", _EXPIRED, _signed(exp=_SECONDS)),
        _look("expired", _EXPIRED, _signed(exp=_SECONDS - 1)),
        _look("expired beyond the skew", _EXPIRED, _signed(exp=_SECONDS - 5), skew=5000),
        _look("not valid yet", _BAD, _signed(iat=_SECONDS + 1)),
        _look("not valid yet beyond the skew", _BAD, _signed(iat=_SECONDS + 6), skew=5000),
        _look("longer life than the issuer may sign for", _BAD, _signed(exp=_SECONDS - 60 + 28_801)),
        _look("over before it began", _BAD, _signed(iat=_SECONDS - 5, exp=_SECONDS - 6)),
        _look("no exp", _BAD, _signed(exp=...)),
        _look("no iat", _BAD, _signed(iat=...)),
        _look("exp as text", _BAD, _signed(exp=str(_SECONDS + 60))),
        _look("exp as a float", _BAD, _signed(exp=_SECONDS + 60.0)),
        _look("iat as a boolean", _BAD, _signed(iat=True)),
        _look("negative iat", _BAD, _signed(iat=-1)),
        _look("exp beyond the range", _BAD, _signed(exp=2**43)),
    ]


def _header_faults() -> list[Case]:
    without_kid = {"alg": "Ed25519", "typ": "wit+jwt"}
    extra: dict[str, object] = {
        "jwk": {"kty": "OKP", "crv": "Ed25519", "x": b64(_OTHER)},
        "jku": "https://issuer.example/keys",
        "x5c": ["MIIB"],
        "x5u": "https://issuer.example/chain",
        "crit": ["exp"],
        "b64": False,
        "cty": "JWT",
        "zip": "DEF",
    }
    return [
        *(
            _look(f"alg {alg}", _BAD, _signed({**_HEADER, "alg": alg}), "the signature itself is Ed25519 and genuine")
            for alg in ("none", "None", "HS256", "RS256", "ES256", "Ed448", "ed25519", "")
        ),
        _look("alg none, no signature", _BAD, _unsigned({**_HEADER, "alg": "none"})),
        _look("no signature", _BAD, _unsigned(_HEADER)),
        _look("HS256 with the public key as the secret", _BAD, _keyed(_ISSUER)),
        *(_look(f"header {name}", _BAD, _signed({**_HEADER, name: value})) for name, value in extra.items()),
        _look("typ JWT", _BAD, _signed({**_HEADER, "typ": "JWT"})),
        _look("no typ", _BAD, _signed({"alg": "Ed25519", "kid": thumbprint(_ISSUER)})),
        _look("no kid", _BAD, _signed(without_kid)),
        _look("kid of nobody", _BAD, _signed({**_HEADER, "kid": "x"})),
        _look("kid as a number", _BAD, _signed({**_HEADER, "kid": 1})),
        _look("header is a list", _BAD, _signed(["Ed25519"])),
    ]


def _unsigned(header: object) -> str:
    return f"{b64(compact(header))}.{b64(compact(_claims()))}."


def _keyed(secret: bytes) -> str:
    text = f"{b64(compact({**_HEADER, 'alg': 'HS256'}))}.{b64(compact(_claims()))}"
    return f"{text}.{b64(hmac.digest(secret, text.encode(), hashlib.sha256))}"


def _key_faults() -> list[Case]:
    genuine = _signed()
    head, body, sealed = genuine.split(".")
    second = {**_HEADER, "kid": thumbprint(keypair("second issuer")[0])}
    own = {"iss": "another", "alg": "Ed25519"}
    return [
        _look(
            "issuer that nobody listed",
            _BAD,
            token({**_HEADER, "kid": thumbprint(_OTHER)}, _claims(iss="another"), _OTHER_SECRET),
        ),
        _look("listed kid, another's signature", _BAD, token(_HEADER, _claims(), _OTHER_SECRET)),
        _look("second issuer's key, first one's name", _BAD, token(second, _claims(), keypair("second issuer")[1])),
        _look("unknown iss", _BAD, _signed(iss=own["iss"])),
        _look("no iss", _BAD, _signed(iss=...)),
        _look("claims of another token", _BAD, f"{head}.{b64(compact(_claims(agent_id='codex')))}.{sealed}"),
        _look("a bit of the signature changed", _BAD, f"{head}.{body}.{'B' if sealed[0] == 'A' else 'A'}{sealed[1:]}"),
        _look("signature cut", _BAD, genuine[:-1]),
        _look("signature spelled otherwise", _BAD, genuine[:-1] + _sibling(genuine[-1])),
        _look("base64 padding", _BAD, genuine + "=="),
        _look("four parts", _BAD, genuine + ".x"),
        _look("two parts", _BAD, f"{head}.{body}"),
        _look("nothing", _BAD, ""),
        _look("only dots", _BAD, ".."),
        _look("white space around", _BAD, f" {genuine} "),
        _look("line feed at the end", _BAD, genuine + "\n"),
        _look("text in another script", _BAD, "\u00fc.\u00fc.\u00fc"),
        _look("longer than 4096 characters", _BAD, _signed(task="t" * 4000)),
        _look("claims are a list", _BAD, token(_HEADER, ["claude"], _ISSUER_SECRET)),
        _look("claims nested 1,000 deep", _BAD, _nested(1000)),
    ]


def _sibling(last: str) -> str:
    """Another last character of 64 bytes in base64url that a lax decoder reads as the same bytes."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return alphabet[alphabet.index(last) + 1]


def _nested(depth: int) -> str:
    text = f"{b64(compact(_HEADER))}.{b64(b'[' * depth + b']' * depth)}"
    return f"{text}.{b64(signature(_ISSUER_SECRET, text.encode()))}"


def _of_run(run_id: str) -> dict[str, object]:
    return {"run_id": run_id, "sub": f"spiffe://secret-broker.local/agent/claude/run/{run_id}"}


def _claim_faults() -> list[Case]:
    faults: dict[str, dict[str, object]] = {
        "sub of another agent": {"sub": "spiffe://secret-broker.local/agent/codex/run/run-1"},
        "sub of another run": {"sub": "spiffe://secret-broker.local/agent/claude/run/run-2"},
        "sub of another trust domain": {"sub": "spiffe://elsewhere.example/agent/claude/run/run-1"},
        "sub with a path behind": {"sub": "spiffe://secret-broker.local/agent/claude/run/run-1/x"},
        "no sub": {"sub": ...},
        "no agent_id": {"agent_id": ...},
        "no run_id": {"run_id": ...},
        "no jti": {"jti": ...},
        "agent that the issuer may not speak for": {
            "agent_id": "grok",
            "sub": "spiffe://secret-broker.local/agent/grok/run/run-1",
        },
        "agent id in upper case": {
            "agent_id": "Claude",
            "sub": "spiffe://secret-broker.local/agent/Claude/run/run-1",
        },
        "run id with a slash": {"run_id": "a/b", "sub": "spiffe://secret-broker.local/agent/claude/run/a/b"},
        "run id as a number": {"run_id": 1, "sub": "spiffe://secret-broker.local/agent/claude/run/1"},
        "run id of a static token": _of_run("static-k3v7qd2x"),
        "run id that begins like a static token's": _of_run("static-site"),
        "jti that begins like a static token's": {"jti": "static-k3v7qd2x"},
        "unknown claim": {"role": "admin"},
        "nbf, which this protocol does not know": {"nbf": _SECONDS - 60},
        "aud, which this protocol does not know": {"aud": "broker"},
        "jti of 65 characters": {"jti": "j" * 65},
        "empty jti": {"jti": ""},
        "task of 129 characters": {"task": "t" * 129},
        "task with a control character": {"task": "a\x1b[2Jb"},
        "empty task": {"task": ""},
        "task nil": {"task": None},
        "scope as text": {"scope": "openai.api_key"},
        "scope nil": {"scope": None},
        "scope with a number": {"scope": [1]},
        "scope with a pattern that is none": {"scope": ["git*"]},
        "scope of 65 patterns": {"scope": ["a"] * 65},
        "no cnf": {"cnf": ...},
        "cnf is text": {"cnf": "x"},
        "cnf with kid": {"cnf": {"kid": "x"}},
        "cnf with jwk and kid": {"cnf": {"jwk": _JWK, "kid": "x"}},
        "cnf of another curve": {"cnf": {"jwk": {**_JWK, "crv": "X25519"}}},
        "cnf of another type": {"cnf": {"jwk": {**_JWK, "kty": "EC"}}},
        "cnf without alg": {"cnf": {"jwk": {k: v for k, v in _JWK.items() if k != "alg"}}},
        "cnf with alg HS256": {"cnf": {"jwk": {**_JWK, "alg": "HS256"}}},
        "cnf with a private key": {"cnf": {"jwk": {**_JWK, "d": b64(bytes(32))}}},
        "cnf key of 31 bytes": {"cnf": {"jwk": {**_JWK, "x": b64(_RUN[:31])}}},
        "cnf key of 33 bytes": {"cnf": {"jwk": {**_JWK, "x": b64(_RUN + b"x")}}},
        "cnf key padded": {"cnf": {"jwk": {**_JWK, "x": b64(_RUN) + "="}}},
        "cnf key in plain base64": {"cnf": {"jwk": {**_JWK, "x": "+" * 43}}},
        "cnf key spelled otherwise": {"cnf": {"jwk": {**_JWK, "x": b64(_RUN)[:-1] + _sibling(b64(_RUN)[-1])}}},
        "cnf key as a number": {"cnf": {"jwk": {**_JWK, "x": 7}}},
    }
    return [_look(name, _BAD, _signed(**claims)) for name, claims in faults.items()]


def token_cases() -> list[Case]:
    """Every token case; all are verified against `ANCHORS`."""
    return _good() + _time_faults() + _header_faults() + _key_faults() + _claim_faults()
