"""One field of a secret that is a JSON object, the form in which AWS's console and its databases keep secrets."""

import json
from typing import Any, Final

import msgspec

from broker_worker.core.errors import FailureKind, ProviderError

_HINT: Final = "compare the reference's #field with the secret in AWS"


def field_of(text: str, field: str) -> bytes:
    """The value of a field: a text's characters; a number, `true` or `false` as it is written there.

    Args:
        text: the secret.
        field: the key of the object, as it stands there.

    Raises:
        ProviderError: `NOT_FOUND` if there is no such field or it is empty, `AMBIGUOUS` if a key is there twice,
            `BAD_REFERENCE` if the secret is no JSON object or the field is neither text nor number nor boolean.
    """
    raw = _read(text).get(field)
    if raw is None:
        raise ProviderError(FailureKind.NOT_FOUND, "the secret has no such field", hint=_HINT)
    value = bytes(raw)
    if value.startswith((b"{", b"[")):
        raise ProviderError(FailureKind.BAD_REFERENCE, "the field holds neither text nor number", hint=_HINT)
    if value in (b'""', b"null"):
        raise ProviderError(FailureKind.NOT_FOUND, "the secret's field is empty", hint="fill it in in AWS")
    return msgspec.json.decode(value, type=str).encode() if value.startswith(b'"') else value


def has_field(text: str, field: str) -> bool:
    """Whether the object has a field of that key.

    Raises:
        ProviderError: as for `field_of`, if the secret cannot be read.
    """
    return field in _read(text)


def with_field(text: str, field: str, value: bytes) -> str:
    """The object with a field replaced or added. All other values stay as they are written, digit by digit.

    Args:
        text: the secret.
        field: the key of the object.
        value: the field's text, in UTF-8.

    Raises:
        ProviderError: as for `field_of`, if the secret cannot be read; `UNKNOWN` if the value is no text.
    """
    try:
        encoded = msgspec.json.encode(value.decode())
    except UnicodeDecodeError:  # it holds the value: raised outside this block, so as not to become the context
        encoded = b""
    if not encoded:
        raise ProviderError(FailureKind.UNKNOWN, "a field of a JSON object can hold only text", hint="write UTF-8")
    return msgspec.json.encode({**_read(text), field: msgspec.Raw(encoded)}).decode()


def _read(text: str) -> dict[str, msgspec.Raw]:
    """The object's keys and, as they are written, its values."""
    repeated = False

    def look(pairs: list[tuple[str, Any]]) -> None:
        nonlocal repeated
        repeated = repeated or len({key for key, _ in pairs}) < len(pairs)

    try:
        json.loads(text, object_pairs_hook=look)
        fields = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except (ValueError, RecursionError):  # they hold the text, as above
        fields = None
    if fields is None:
        raise ProviderError(FailureKind.BAD_REFERENCE, "the secret is no JSON object and has no fields", hint=_HINT)
    if repeated:
        raise ProviderError(
            FailureKind.AMBIGUOUS, "the secret is a JSON object that has a key twice", hint="mend it in AWS"
        )
    return fields
