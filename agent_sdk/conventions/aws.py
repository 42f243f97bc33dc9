"""What AWS's tools read from a `credential_process` (AWS SDKs and Tools Reference, "Process credential provider")."""

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from agent_sdk.errors import InvalidRequest
from agent_sdk.secret import Secret

_KEYS: Mapping[str, tuple[str, ...]] = {
    "AccessKeyId": ("AccessKeyId", "access_key_id", "aws_access_key_id", "access_key"),
    "SecretAccessKey": ("SecretAccessKey", "secret_access_key", "aws_secret_access_key", "secret_key"),
    "SessionToken": ("SessionToken", "session_token", "aws_session_token", "security_token"),
}
"""Each key of the answer, and the names that a vault may have for it: AWS's own, those of its files, and Vault's."""
_OBJECT = msgspec.json.Decoder(dict[str, Any])


def credential_of_one(secret: Secret) -> str:
    """The answer, from one secret that holds all parts as a JSON object.

    Raises:
        InvalidRequest: if the value is no JSON object, or a part is missing; it says which, and nothing of the value.
        LeaseExpired: if the value is over.
    """
    try:
        found = _OBJECT.decode(secret.reveal_bytes())
    except msgspec.MsgspecError:
        found = None
    if found is None:
        raise InvalidRequest(f"the value of {secret.name} is no JSON object with an access key and its secret")
    parts = {key: _part(found, names) for key, names in _KEYS.items()}
    for key in ("AccessKeyId", "SecretAccessKey"):
        if parts[key] is None:
            raise InvalidRequest(f"the value of {secret.name} has no {key} (nor {', '.join(_KEYS[key][1:])})")
    return _answer(parts, [secret])


def credential_of_parts(access_key_id: Secret, secret_access_key: Secret, session_token: Secret | None = None) -> str:
    """The answer, from a secret for each part.

    Raises:
        LeaseExpired: if a value is over.
        NotText: if one is not UTF-8.
    """
    parts = {"AccessKeyId": access_key_id.reveal(), "SecretAccessKey": secret_access_key.reveal()}
    used = [access_key_id, secret_access_key]
    if session_token is not None:
        parts["SessionToken"] = session_token.reveal()
        used.append(session_token)
    return _answer(parts, used)


def _part(found: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    value = next((found[name] for name in names if found.get(name)), None)
    return value if isinstance(value, str) else None


def _answer(parts: Mapping[str, str | None], used: list[Secret]) -> str:
    """AWS's tools ask again shortly before `Expiration`."""
    answer: dict[str, str | int] = {"Version": 1, **{key: value for key, value in parts.items() if value is not None}}
    ends = [secret.expires_at for secret in used if secret.expires_at is not None]
    if ends:
        answer["Expiration"] = min(ends).strftime("%Y-%m-%dT%H:%M:%SZ")
    return json.dumps(answer)
