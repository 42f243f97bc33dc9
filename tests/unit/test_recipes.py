"""Recipes: what they look like, and that what is made after them is random enough and of the promised form."""

import re
import uuid

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from broker_worker.core.recipes import Recipe, parse_recipe
from broker_worker.pipeline.generating import generate


@pytest.mark.parametrize(
    ("recipe", "form"),
    [
        ("hex:32", r"[0-9a-f]{64}"),
        ("base64url:32", r"[A-Za-z0-9_-]{43}"),
        ("alnum:24", r"[A-Za-z0-9]{24}"),
        ("password:24", r"(?=.*[a-z])(?=.*[A-Z])(?=.*[0-9])(?=.*[!#%+,\-./:=?@^_~])[A-Za-z0-9!#%+,\-./:=?@^_~]{24}"),
    ],
)
def test_a_value_has_the_form_of_its_recipe(recipe: str, form: str) -> None:
    """Every time, and never twice the same."""
    made = [generate(parse_recipe(recipe)).decode() for _ in range(200)]
    assert all(re.fullmatch(form, value) for value in made)
    assert len(set(made)) == len(made)


def test_a_uuid_is_of_version_4() -> None:
    """RFC 9562, section 5.4."""
    made = uuid.UUID(generate(parse_recipe("uuid4")).decode())
    assert (made.version, made.variant) == (4, uuid.RFC_4122)


def test_keys_can_be_loaded() -> None:
    """PEM, PKCS #8, without a passphrase."""
    assert isinstance(load_pem_private_key(generate(parse_recipe("ed25519")), None), Ed25519PrivateKey)
    rsa = load_pem_private_key(generate(parse_recipe("rsa:2048")), None)
    assert isinstance(rsa, RSAPrivateKey)
    assert rsa.key_size == 2048


@pytest.mark.parametrize(
    "text",
    ["", "hex", "hex:", "hex:8", "hex:99999", "hex:032", "HEX:32", "hex:32 ", "uuid4:1", "ed25519:1", "rsa:1024",
     "rsa:2049", "rsa", "alnum:21", "password:19", "pin:4", "hex:32\n", "hex:٣٢"],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    """With what was expected, and without the text: it may be a value by mistake."""
    with pytest.raises(ValueError, match="expected") as caught:
        parse_recipe(text)
    assert not text or text not in str(caught.value) or text in {"hex", "rsa", "hex:", "password:19"[:8]}


def test_what_is_read_is_what_was_written() -> None:
    """Kind and size."""
    assert parse_recipe("base64url:16") == Recipe("base64url", 16)
