"""Fields of Vault's secrets as values, and values as fields: texts of 1 byte to 128 KiB."""

import json

from agent_sdk.wire.messages import MAX_VALUE
from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.ports import Fetched
from broker_worker.providers.vault.engines import Secret
from broker_worker.providers.vault.failures import unreadable_answer
from broker_worker.providers.vault.place import WHOLE


def value_of(secret: Secret, field: str, lasts: float | None) -> Fetched | ProviderError:
    """The value of a field.

    Args:
        secret: what was read.
        field: the field's name, or `WHOLE` for a JSON object of all, with sorted keys.
        lasts: for how many seconds from now on a credential lives; None without an end.
    """
    content = dict(secret.fields) if field == WHOLE else secret.fields.get(field)
    if field == WHOLE:
        content = json.dumps(content, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    if content is None or content == "":
        state = "is empty" if content == "" else "is not there"
        hint = "`vault kv get` shows the fields that a path has"
        return ProviderError(FailureKind.NOT_FOUND, f"the field {state}", hint=hint)
    if not isinstance(content, str):
        return ProviderError(
            FailureKind.BAD_REFERENCE,
            "the field holds a number, a truth value or a structure, and only texts are served",
            hint="store it as a text, or take the whole secret as JSON with `#*`",
        )
    try:
        value = content.encode()
    except UnicodeEncodeError:
        return unreadable_answer()
    if len(value) > MAX_VALUE:
        return ProviderError(
            FailureKind.TOO_LARGE, f"the value has {len(value)} bytes; at most {MAX_VALUE} are allowed"
        )
    lasts_ms = None if secret.lease_id is None or lasts is None else int(max(0.0, lasts) * 1000)
    return Fetched(value, secret.version, secret.lease_id, lasts_ms)


def text_of(value: bytes) -> str:
    """A value as the text that a field holds.

    Raises:
        ProviderError: if it is empty, too large or no text.
    """
    if not 0 < len(value) <= MAX_VALUE:
        raise ProviderError(FailureKind.TOO_LARGE, f"the value has {len(value)} bytes; 1 to {MAX_VALUE} are allowed")
    try:
        return value.decode()
    except UnicodeDecodeError:
        pass  # raised below, outside this block: the exception holds the value
    raise ProviderError(
        FailureKind.UNKNOWN, "Vault holds texts, and the value is not UTF-8", hint="encode it, for example in base64"
    )
