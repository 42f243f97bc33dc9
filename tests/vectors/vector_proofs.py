"""Cases of proofs.json and static_tokens.json: what somebody shows who asks through another program."""

import base64
import hashlib
import hmac
import zlib
from typing import Any

from wire_reference import NOW, Case, b64, case, compact, keypair, seed, signature, token

_BAD, _EXPIRED = "unauthenticated/bad_proof", "expired/bad_proof"
_RUN, _RUN_SECRET = keypair("run a")
_OTHER, _OTHER_SECRET = keypair("run b")
_SECONDS = NOW // 1000
_GATEWAY = "http://127.0.0.1:7700/v1/secrets/resolve"
_AUDIENCES = [_GATEWAY, "http://127.0.0.1:7700"]
_TOKEN = "eyJhbGciOiJFZDI1NTE5In0.e30.c2lnbmVk"
_HEADER = {"alg": "Ed25519", "typ": "wpt+jwt"}


def _claims(**more: object) -> dict[str, Any]:
    claims = {"aud": _GATEWAY, "exp": _SECONDS + 60, "jti": "proof-1", "wth": _hash(_TOKEN)}
    return {key: value for key, value in {**claims, **more}.items() if value is not ...}


def _hash(text: str) -> str:
    return b64(hashlib.sha256(text.encode()).digest())


def _signed(header: object = None, **claims: object) -> str:
    return token(header or _HEADER, _claims(**claims), _RUN_SECRET)


def _look(name: str, expect: str, proof: str, comment: str = "", **more: object) -> Case:
    fields = {"now": NOW, "skew": 0, "token": _TOKEN, "run_public_key": _RUN, "audiences": _AUDIENCES, "proof": proof}
    return case(name, expect, comment, **{**fields, **more})


def _good() -> list[Case]:
    stated = {"jti": "proof-1", "expires_at": NOW + 60_000}
    return [
        _look("fewest claims", "ok", _signed(), claims=stated),
        _look("alg EdDSA, RFC 8037's name", "ok", _signed({**_HEADER, "alg": "EdDSA"}), claims=stated),
        _look("for the other audience", "ok", _signed(aud=_AUDIENCES[1]), claims=stated),
        _look("of the longest life", "ok", _signed(exp=_SECONDS + 300)),
        _look("of the longest life and the skew", "ok", _signed(exp=_SECONDS + 305), skew=5000),
        _look("last millisecond", "ok", _signed(exp=_SECONDS), now=NOW - 1),
        _look("over within the skew", "ok", _signed(exp=_SECONDS - 4), skew=5000),
        _look("jti of 64 characters", "ok", _signed(jti="j" * 64)),
    ]


def _claim_faults() -> list[Case]:
    faults: dict[str, dict[str, object]] = {
        "for nobody whom the verifier is": {"aud": "http://127.0.0.1:7701/v1/secrets/resolve"},
        "audience in capitals": {"aud": _GATEWAY.upper()},
        "audience with a query": {"aud": _GATEWAY + "?x"},
        "audiences as a list": {"aud": [_GATEWAY]},
        "no aud": {"aud": ...},
        "ends too late": {"exp": _SECONDS + 301},
        "exp as text": {"exp": str(_SECONDS + 60)},
        "exp as a float": {"exp": _SECONDS + 60.0},
        "exp as a boolean": {"exp": True},
        "negative exp": {"exp": -1},
        "exp beyond the range": {"exp": 2**43},
        "no exp": {"exp": ...},
        "empty jti": {"jti": ""},
        "jti of 65 characters": {"jti": "j" * 65},
        "jti with a control character": {"jti": "a\nb"},
        "jti as a number": {"jti": 7},
        "no jti": {"jti": ...},
        "of another token": {"wth": _hash("eyJhbGciOiJFZDI1NTE5In0.e30.b3RoZXI")},
        "hash in base64 with padding": {"wth": _hash(_TOKEN) + "="},
        "hash in hexadecimal": {"wth": hashlib.sha256(_TOKEN.encode()).hexdigest()},
        "hash that is no Unicode": {"wth": "\ud800"},
        "hash as a list": {"wth": [_hash(_TOKEN)]},
        "no wth": {"wth": ...},
        "iat, which this protocol does not know": {"iat": _SECONDS},
        "oth, hashes of other tokens": {"oth": {"cookie": _hash("a")}},
        "tth, the hash of a transaction token": {"tth": _hash("a")},
        "ath, which the draft no longer has": {"ath": _hash("a")},
    }
    cases = [_look(name, _BAD, _signed_ascii(**claims)) for name, claims in faults.items()]
    return [
        *cases,
        _look("expired this very moment", _EXPIRED, _signed(exp=_SECONDS)),
        _look("expired beyond the skew", _EXPIRED, _signed(exp=_SECONDS - 5), skew=5000),
        _look("ends too late beyond the skew", _BAD, _signed(exp=_SECONDS + 306), skew=5000),
        _look("for a token that is not ASCII", _BAD, _signed(wth=_hash("t\u00fcrkis")), token="t\u00fcrkis"),
        _look("no audience is the verifier's", _BAD, _signed(), audiences=[]),
    ]


def _signed_ascii(**claims: object) -> str:
    """Signed claims whose JSON escapes what UTF-8 cannot say."""
    if claims.get("wth") != "\ud800":
        return _signed(**claims)
    text = compact(_claims(wth="?")).replace(b'"?"', b'"\\ud800"')
    return _raw(_HEADER, text)


def _raw(header: object, claims: bytes) -> str:
    signing_input = f"{b64(compact(header))}.{b64(claims)}"
    return f"{signing_input}.{b64(signature(_RUN_SECRET, signing_input.encode()))}"


def _form_faults() -> list[Case]:
    genuine = _signed()
    head, body, sealed = genuine.split(".")
    extra: dict[str, object] = {
        "kid": "x",
        "jwk": {"kty": "OKP", "crv": "Ed25519", "x": b64(_OTHER)},
        "crit": ["exp"],
        "b64": False,
    }
    hmac_input = f"{b64(compact({**_HEADER, 'alg': 'HS256'}))}.{body}"
    return [
        *(
            _look(f"alg {alg}", _BAD, _signed({**_HEADER, "alg": alg}), "the signature itself is Ed25519 and genuine")
            for alg in ("none", "HS256", "RS256", "ES256", "Ed448", "ed25519", "")
        ),
        _look("no signature", _BAD, f"{head}.{body}."),
        _look(
            "HS256 with the public key as the secret",
            _BAD,
            f"{hmac_input}.{b64(hmac.digest(_RUN, hmac_input.encode(), hashlib.sha256))}",
        ),
        *(_look(f"header {name}", _BAD, _signed({**_HEADER, name: value})) for name, value in extra.items()),
        _look("typ JWT", _BAD, _signed({**_HEADER, "typ": "JWT"})),
        _look("typ of an identity token", _BAD, _signed({**_HEADER, "typ": "wit+jwt"})),
        _look("no typ", _BAD, _signed({"alg": "Ed25519"})),
        _look("signed by another run", _BAD, token(_HEADER, _claims(), _OTHER_SECRET)),
        _look("shown with another run's key", _BAD, genuine, run_public_key=_OTHER),
        _look("claims of another proof", _BAD, f"{head}.{b64(compact(_claims(jti='proof-2')))}.{sealed}"),
        _look("base64 padding", _BAD, genuine + "=="),
        _look("line feed at the end", _BAD, genuine + "\n"),
        _look("two parts", _BAD, f"{head}.{body}"),
        _look("nothing", _BAD, ""),
        _look("text in another script", _BAD, "\u00fc.\u00fc.\u00fc"),
        _look("longer than 2048 characters", _BAD, _signed(jti="j" * 2048)),
        _look("claims are a list", _BAD, token(_HEADER, ["aud"], _RUN_SECRET)),
    ]


def proof_cases() -> list[Case]:
    """Every case of proofs.json."""
    return _good() + _claim_faults() + _form_faults()


_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_BAD_TOKEN = "unauthenticated/bad_token"


def _digits(number: int, width: int) -> str:
    return "".join(_DIGITS[number // 62**place % 62] for place in reversed(range(width)))


def _static(entropy: bytes) -> str:
    name = base64.b32encode(entropy[:5]).decode().lower()
    head = f"sbt_{name}_{_digits(int.from_bytes(entropy[5:], 'big'), 43)}"
    return head + _digits(zlib.crc32(head.encode()), 6)


def _minted(name: str, entropy: bytes) -> Case:
    text = _static(entropy)
    digest = hashlib.sha256(text.encode()).digest()
    return case(name, "ok", entropy=entropy, text=text, token_id=text[4:12], digest=digest)


def static_token_cases() -> list[Case]:
    """Every case of static_tokens.json."""
    text = _static(seed("static token") + b"12345")
    swapped = text[:20] + text[21] + text[20] + text[22:]
    assert swapped != text
    faults = {
        "nothing": "",
        "only the beginning": "sbt_",
        "two characters swapped": swapped,
        "another id": f"sbt_{'a' * 8}{text[12:]}",
        "id in capitals": f"sbt_{text[4:12].upper()}{text[12:]}",
        "last character missing": text[:-1],
        "one character more": text + "0",
        "white space before": " " + text,
        "line feed at the end": text + "\n",
        "another beginning": "sbx" + text[3:],
        "no checksum": text[:-6],
        "checksum of nothing": text[:-6] + "000000",
        "digits of another script": text[:-1] + "\u0661",
        "an identity token": "eyJhbGciOiJFZDI1NTE5In0.e30.c2lnbmVk",
    }
    return [
        _minted("of zeros", bytes(37)),
        _minted("of ones", b"\xff" * 37),
        _minted("of a seed", seed("static token") + b"12345"),
        *(case(name, _BAD_TOKEN, text=bad) for name, bad in faults.items()),
    ]
