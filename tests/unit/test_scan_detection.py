"""What counts as a plaintext secret, and that nothing which can stand in a file breaks the scanner."""

import base64
import re
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scan_maker import HEX, Maker

from agent_sdk.scan.checks import has_base62_checksum, is_bech32
from agent_sdk.scan.detection import find_secrets
from agent_sdk.scan.finding import findings_of
from agent_sdk.scan.match import Match
from agent_sdk.scan.named_values import judge
from agent_sdk.scan.reading import as_text

M = Maker(5)
PASSWORD = M.password()
MANY = [f"ab://b:{number * 0x9E3779B97F4A7C15 % 2**64:016x}@c".encode() for number in range(50_000)]
_PIECES = st.sampled_from(
    [
        *(
            b"password",
            b"=",
            b": ",
            b'"',
            b"'",
            b"\\",
            b"://",
            b"@",
            b"-----BEGIN RSA PRIVATE KEY-----",
            b"sk-",
            b"ghp_",
        ),
        *(b"eyJ", b".", b"Bearer ", b"\n", b"\r\n", b"key", b"\xff\xfe", b"\0", b"a" * 40, b"auth", b"--token ", b"Q~"),
        b"kind: Secret\ndata:\n  a: ",
    ]
)


def kinds(text: str, name: str = "") -> list[str]:
    """What is found in a text."""
    return [match.kind for match in find_secrets(text.encode(), name)]


@given(
    st.lists(_PIECES | st.binary(max_size=30), max_size=40),
    st.sampled_from(["", ".env", "a.py", ".netrc", "x/.pgpass"]),
)
@settings(max_examples=150)
def test_any_bytes_are_scanned(pieces: list[bytes], name: str) -> None:
    """Whatever stands in a file, matches lie within it, are not empty, and do not overlap."""
    text = b"".join(pieces)
    end = 0
    for match in find_secrets(text, name):
        assert end <= match.start < match.end <= len(text)
        end = match.end


@pytest.mark.parametrize(
    "text",
    [
        b"-----BEGIN RSA PRIVATE KEY-----\n" * 20_000,
        b"password=" + b"a" + b"A1" * 400_000 + b"!",
        b"secret: aa" + b"12" * 40 + b"!\n" + b"token: aa" + b"AB" * 40 + b"!9",
        b"kind: Secret\ndata:\n" + b" " * 300_000 + b"\r",
        b"key=" * 20_000,
        b"http://" * 50_000 + b":" * 50_000,
        b"eyJ" + b"a" * 500_000 + b".eyJ",
        b"\n".join(MANY),
        b" ".join(MANY),
    ],
    ids=["blocks", "run", "digits", "spaces", "keys", "urls", "token", "lines", "line"],
)
def test_hostile_texts_end(text: bytes) -> None:
    """No text takes more than its size is worth, or the test's time is over."""
    list(findings_of(find_secrets(text, ".env"), text, ".env", b"salt"))


def test_an_allowed_line_is_let_through() -> None:
    """The comment counts on its line and on no other."""
    text = f"DB_PASSWORD={PASSWORD} # secret-scan: allow\nMAIL_PASSWORD={PASSWORD}\n"
    assert [match.start for match in find_secrets(text.encode(), ".env")] == [text.rindex(PASSWORD)]


def test_a_token_with_a_wrong_checksum_is_none() -> None:
    """GitHub's and npm's say by their last digits that they were issued; a typing error or an example does not."""
    token = M.checked("ghp_")
    assert kinds(token) == ["github-token"]
    assert kinds(token[:-1] + ("0" if token[-1] != "0" else "1")) == []
    assert has_base62_checksum(b"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")


def test_bech32_is_checked() -> None:
    """The key of age's own documents counts, and a changed digit does not (BIP 173)."""
    key = b"AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX"
    assert is_bech32(key)
    assert not is_bech32(key.replace(b"Q4EGAEX", b"Q4EGAEZ"))


@pytest.mark.parametrize(
    "value",
    [
        *("your-key-here", "xxxxxxxxxxxx", "${DB_PASSWORD}", "{{ db_password }}", "secret://db.password", "changeme"),
        *("op://Agents/DB/password", "<password>", "$DB_PASSWORD", "password123", "…", "process.env.DB_PASSWORD"),
        "$2b$12$EixZaYVK1fsbw1ZfbX3OXePaWxn96p36WQoeG6Lruj3vjPGga31lW",
        "arn:aws:secretsmanager:eu-west-1:1:secret:a",
    ],
)
def test_what_stands_for_a_secret_is_none(value: str) -> None:
    """Templates, references, hashes and examples are no findings, even in an env file."""
    assert kinds(f"DB_PASSWORD={value}\n", ".env") == []


@pytest.mark.parametrize(
    "name",
    [
        "password_file",
        "TOKEN_URL",
        "max_tokens",
        "secret_name",
        "api_key_id",
        "PUBLIC_KEY",
        "primary_key",
        "csrf_token",
    ],
)
def test_names_beside_secrets_are_innocent(name: str) -> None:
    """A random value does not make a secret of what is named as something else."""
    assert judge(name.encode(), M.some(HEX, 40).encode(), is_setting=True) is None


def test_programs_need_literals() -> None:
    """In a program a name that is given another name is no secret; in a configuration it may be."""
    assert kinds(f"password = {PASSWORD}\n", "a.py") == []
    assert kinds(f"password = {PASSWORD}\n", "a.ini") == ["password"]
    assert kinds(f'password = "{PASSWORD}"\n', "a.py") == ["password"]


def test_protected_keys_are_not_plaintext() -> None:
    """A private key that a passphrase protects is no finding, in PEM or in OpenSSH's form; one without is."""

    def openssh(cipher: bytes) -> str:
        raw = b"openssh-key-v1\0" + struct.pack(">I", len(cipher)) + cipher + M.random.randbytes(300)
        body = base64.encodebytes(raw).decode()
        return f"-----BEGIN OPENSSH PRIVATE KEY-----\n{body}-----END OPENSSH PRIVATE KEY-----\n"

    assert kinds(openssh(b"none")) == ["private-key"]
    assert kinds(openssh(b"aes256-ctr")) == []
    assert kinds(M.pem("ENCRYPTED PRIVATE KEY")) == []


def test_place_is_told_in_characters() -> None:
    """Line and column count from 1, in characters, in UTF-8 as in Latin-1."""
    for encoding in ("utf-8", "latin-1"):
        raw = f"# äö\nü={M.some(HEX, 4)} DB_PASSWORD={PASSWORD}\n".encode(encoding)
        (found,) = findings_of(find_secrets(raw, ".env"), raw, ".env", b"salt")
        assert (found.line, found.column) == (2, 20)


@given(
    st.lists(st.sampled_from(["DB_PASSWORD=x ", "ä", "\n", "\n\n", "x "]), max_size=12),
    st.sampled_from(["utf-8", "latin-1"]),
)
@settings(max_examples=60)
def test_places_are_those_that_an_editor_shows(pieces: list[str], encoding: str) -> None:
    """Also of many on one line, and behind characters of several bytes."""
    text = "".join(pieces)
    raw = text.encode(encoding)
    starts = [found.start() for found in re.finditer(b"DB_", raw)]
    found = findings_of((Match("password", at, at + 3, is_specific=False) for at in starts), raw, "", b"")
    lines = text.split("\n")
    expected = [(row, at.start() + 1) for row, line in enumerate(lines, 1) for at in re.finditer("DB_", line)]
    assert [(each.line, each.column) for each in found] == expected


def test_utf16_is_read_by_its_mark() -> None:
    """What PowerShell writes is found too; other binary content is not looked at."""
    text = f"DB_PASSWORD={PASSWORD}\r\n"
    for encoding in ("utf-16", "utf-16-be", "utf-8-sig"):
        raw = text.encode(encoding)
        read = as_text(b"\xfe\xff" + raw if encoding == "utf-16-be" else raw)
        assert read is not None
        assert [match.kind for match in find_secrets(read, ".env")] == ["password"]
    assert as_text(b"\x7fELF\0\0") is None


def test_a_finding_says_nothing_of_its_value() -> None:
    """Equal values have equal fingerprints under one salt, other ones under another, and `repr` shows none."""
    raw = f"DB_PASSWORD={PASSWORD}\n".encode()
    (match,) = find_secrets(raw, ".env")
    one, again, other = (next(findings_of([match], raw, ".env", salt)) for salt in (b"a", b"a", b"b"))
    assert one.fingerprint == again.fingerprint != other.fingerprint
    assert PASSWORD not in repr(one)
    assert one.fingerprint not in repr(one)
