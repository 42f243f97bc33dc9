"""Secret values in what a program prints: which forms are found, what stands in their place, what is held back."""

import base64
import html
import json
import re
import shlex
import textwrap
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agent_sdk.masking import Masker, masker, search

TOKEN = b"sk-proj-9aB3xK7qLm2Z"
ODD = "pä$$ \"w/o\\rd'&+~<9>\nsecond line `x`"
FORMS: dict[str, Callable[[str], str]] = {
    "the value": str,
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 without padding": lambda text: base64.b64encode(text.encode()).decode().rstrip("="),
    "url-safe base64": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
    "base64 of the value and a line end": lambda text: base64.b64encode(f"{text}\n".encode()).decode(),
    "lower hexadecimal digits": lambda text: text.encode().hex(),
    "upper hexadecimal digits": lambda text: text.encode().hex().upper(),
    "percent-encoded": lambda text: quote(text, safe=""),
    "percent-encoded but for slashes": quote,
    "percent-encoded, lower digits": lambda text: re.sub("%..", lambda code: code[0].lower(), quote(text, safe="")),
    "a form's field": quote_plus,
    "encodeURIComponent": lambda text: quote(text, safe="!'()*"),
    "JSON": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "JSON in ASCII": lambda text: json.dumps(text)[1:-1],
    "JSON of PHP": lambda text: json.dumps(text)[1:-1].replace("/", r"\/"),
    "JSON of Go": lambda text: json.dumps(text)[1:-1].translate({60: r"\u003c", 62: r"\u003e", 38: r"\u0026"}),
    "JSON in JSON": lambda text: json.dumps(json.dumps(text))[3:-3],
    "HTML": html.escape,
    "Python's repr": lambda text: repr(text)[1:-1],
    "Python's repr of bytes": lambda text: repr(text.encode())[2:-1],
    "a shell's quotes": lambda text: shlex.quote(text).strip("'"),
    "lines that end as a terminal ends them": lambda text: text.replace("\n", "\r\n"),
}


@pytest.fixture(autouse=True, params=[True, False], ids=["hyperscan", "plain"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both searches behave alike."""
    if request.param and not search.HYPERSCAN:
        pytest.skip("the extra `masking` is not installed")
    monkeypatch.setattr(search, "HYPERSCAN", request.param)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_masked_whole(form: str) -> None:
    """Of each form nothing is left but the mask, and what is around it is untouched."""
    written = FORMS[form](ODD).encode()
    assert Masker({"db.password": ODD.encode()}).replace(b"<" + written + b">\n") == b"<[masked db.password]>\n"


def test_a_value_in_utf_16_is_masked() -> None:
    """As Windows writes it, and as PowerShell takes an encoded command."""
    found = Masker({"key": TOKEN})
    wide = TOKEN.decode().encode("utf-16-le")
    assert found.replace(b"\xff\xfe" + wide) == b"\xff\xfe[masked key]"
    assert found.replace(base64.b64encode(wide)) == b"[masked key]"


@pytest.mark.parametrize("before", [b"user", b"user:", b"user: "], ids=["4", "5", "6"])
@pytest.mark.parametrize("behind", [b"", b"\xff", b"\xffmore"])
def test_a_value_within_a_longer_encoded_text_is_masked(before: bytes, behind: bytes) -> None:
    """Wherever it begins in it, of the characters that it alone decides none is left."""
    written = base64.b64encode(before + TOKEN + behind)
    first, end = -(-8 * len(before) // 6), 8 * (len(before) + len(TOKEN)) // 6
    masked = Masker({"key": TOKEN}).replace(written)
    assert masked.startswith(written[:first] + b"[masked key]")
    assert masked.removeprefix(written[:first] + b"[masked key]") == (written[end:] if behind else b"")


@pytest.mark.parametrize("width", [64, 76])
def test_base64_in_lines_is_masked(width: int) -> None:
    """As coreutils and MIME break it, and as openssl does; also if each line stands alone."""
    value = "".join(map(chr, range(33, 123))).encode()
    lines = textwrap.wrap(base64.b64encode(value + b"\n").decode(), width)
    found = Masker({"key": value})
    assert found.replace("\n".join(lines).encode()) == b"[masked key]"
    assert found.replace("".join(f"log: {line}\n" for line in lines).encode()) == b"log: [masked key]\n" * len(lines)


def test_a_private_key_is_masked_as_a_whole_and_in_lines() -> None:
    """Each of its lines is masked where it stands alone; what all keys begin with is not."""
    key = generate_private_key(public_exponent=65537, key_size=1024)  # small: it only has to have lines
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    head, *lines, foot = pem.decode().splitlines()
    found = Masker({"tls.key": pem})
    assert found.replace(b"a" + pem) == b"a[masked tls.key]\n"
    numbered = "".join(f"{number} {line}\n" for number, line in enumerate([head, *lines, foot]))
    shown = found.replace(numbered.encode()).decode().splitlines()
    assert shown == [
        f"0 {head}",
        *(f"{n} [masked tls.key]" for n in range(1, len(lines) + 1)),
        f"{len(lines) + 1} {foot}",
    ]


def test_a_key_inside_a_json_value_is_masked_where_it_is_printed_as_lines() -> None:
    """A service account's file has its key with escaped line ends; a program prints it with real ones."""
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    found = Masker({"gcp": json.dumps({"type": "service_account", "private_key": pem.decode()}).encode()})
    head, secret, foot = pem.splitlines()
    assert found.replace(pem) == head + b"\n[masked gcp]\n" + foot + b"\n"
    assert secret not in found.replace(b"  " + secret)


def test_lines_that_only_give_a_file_its_shape_are_not_masked() -> None:
    """A configuration with a secret in it does not mask what all configurations have."""
    shape = "apiVersion: v1\nkind: Config\nclusters:\n- cluster:\npreferences: {}\n[default]\ncertificate: |-\n"
    found = Masker({"kube": f"{shape}    token: s3cr3t\n    data: aGVsbG8gd29ybGQ=\n".encode()})
    assert found.replace(f"{shape}\n".encode()) == f"{shape}\n".encode()
    assert found.replace(b"- token: s3cr3t\n- data: aGVsbG8gd29ybGQ=") == b"- [masked kube]\n- [masked kube]"


def test_a_line_end_at_the_end_of_a_value_does_not_matter() -> None:
    """The value is found without it, and lines are not glued together."""
    assert Masker({"key": TOKEN + b"\n"}).replace(TOKEN + b"\n" + TOKEN + b".") == b"[masked key]\n[masked key]."


def test_bytes_that_are_no_text_are_masked() -> None:
    """Zero bytes, and what is not UTF-8, as they are and encoded."""
    value = bytes([0, 0, 0, 0, 255, 10, 0, 200, 0, 7, 32])
    found = Masker({"raw": value})
    assert found.replace(b"x" + value + b"y") == b"x[masked raw]y"
    assert found.replace(value.hex().encode()) == b"[masked raw]"
    assert found.replace(bytes(4) + b"text" + bytes(9)) == bytes(4) + b"text" + bytes(9)


def test_what_would_garble_all_output_is_refused_and_named() -> None:
    """Short values, common words and runs of one character are not masked, and who asks is told which."""
    values = {
        "short": b"abc\n",
        "word": b"Localhost",
        "dashes": b"-----",
        "blank": b"   \n  ",
        "pin": b"4711",
        "key": TOKEN,
    }
    found = Masker(values)
    assert found.unmasked == ("short", "word", "dashes", "blank")
    assert found.replace(b"abc localhost ----- 4711") == b"abc localhost ----- [masked pin]"


def test_of_values_within_values_nothing_is_left() -> None:
    """The longest is named; of overlapping ones neither leaves a part."""
    found = Masker({"user": b"postgres://al", "url": b"postgres://al:hunter22@db", "tail": b"@db:5432/sales"})
    assert found.replace(b"to postgres://al:hunter22@db now") == b"to [masked url] now"
    assert found.replace(b"postgres://al:hunter23@db") == b"[masked user]:hunter23@db"
    assert found.replace(b"postgres://al:hunter22@db:5432/sales.") == b"[masked url]."


def test_only_what_may_be_a_beginning_is_held_back() -> None:
    """A prompt is shown at once; a beginning waits for the rest, and is shown if something else follows."""
    found = Masker({"key": TOKEN})
    assert (found.feed(b"Name: "), found.pending) == (b"Name: ", False)
    assert (found.feed(b"it is sk-pr"), found.pending) == (b"it is ", True)
    assert (found.feed(b"ivate "), found.pending) == (b"sk-private ", False)
    assert found.feed(TOKEN[:9]) == b""
    assert found.feed(TOKEN[9:] + b"\n") == b"[masked key]\n"


def test_a_beginning_is_shown_at_the_end_only_if_it_says_little() -> None:
    """Less than half of a form and at most twelve bytes; a longer one is masked, also at the end of a complete text."""
    found = Masker({"key": TOKEN, "long": b"Q" + TOKEN * 3})
    assert found.feed(b"a" + TOKEN[:9]) + found.flush() == b"a" + TOKEN[:9]
    assert not found.pending
    assert Masker({"key": TOKEN}).replace(b"a" + TOKEN[:10]) == b"a[masked key]"
    assert Masker({"long": TOKEN * 3}).replace(TOKEN[:12]) == TOKEN[:12]
    assert Masker({"long": TOKEN * 3}).replace(TOKEN[:13]) == b"[masked long]"


def test_a_slow_writer_does_not_get_a_value_past_a_flush() -> None:
    """What `flush` showed too early is still known: the rest is masked, however often there is silence."""
    found = Masker({"key": TOKEN})
    shown = b""
    for byte in TOKEN + b" done":
        shown += found.feed(bytes([byte])) + found.flush()
    assert shown == TOKEN[:9] + b"[masked key] done"


def test_a_beginning_that_was_masked_by_a_flush_is_masked_once() -> None:
    """The rest of it is swallowed; what follows is shown, also if the form does not come to its end."""
    found = Masker({"key": TOKEN})
    assert found.feed(TOKEN[:15]) + found.flush() == b"[masked key]"
    assert found.feed(TOKEN[15:] + b"x") == b"x"
    assert found.feed(TOKEN[:15]) + found.flush() == b"[masked key]"
    assert found.feed(b" is no key\n") == b" is no key\n"


def test_the_names_of_what_is_found_can_be_asked() -> None:
    """In the order of the masker; also of a beginning that would be masked."""
    found = Masker({"a": b"first-value", "b": b"second-value", "c": b"third-value"})
    assert found.finds(b"c" + b"third-value".hex().encode() + b" first-value") == ("a", "c")
    assert found.finds(b"nothing of secon") == ()
    assert found.finds(b"nothing of second-v") == ("b",)


def test_a_complete_text_does_not_disturb_the_stream() -> None:
    """`replace` and `finds` leave what is held back alone."""
    found = Masker({"key": TOKEN})
    assert found.feed(TOKEN[:10]) == b""
    assert found.replace(b"x" + TOKEN) == b"x[masked key]"
    assert found.feed(TOKEN[10:] + b".") == b"[masked key]."


def test_a_long_text_is_searched_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value across two pieces is found."""
    monkeypatch.setattr(masker, "_PIECE", 1000)
    text = b"." * 990 + TOKEN + b"." * 5000 + TOKEN
    assert Masker({"key": TOKEN}).replace(text) == text.replace(TOKEN, b"[masked key]")


def test_a_masker_shows_no_value() -> None:
    """Neither its `repr` nor that of what it is made of has a value or a form of one."""
    found = Masker({"key": TOKEN})
    found.feed(TOKEN[:-1])
    assert repr(found) == "<Masker of 1 value>"
    assert all(TOKEN[:8].decode() not in repr(part) for part in (found, found._index, found._index._needles))


def test_a_value_that_is_no_bytes_is_named_and_not_shown() -> None:
    """As `reveal()` gives it, say."""
    text: Any = "canary-7c1f0e"
    with pytest.raises(TypeError, match=r"as reveal_bytes\(\) gives them; a\.key is str") as caught:
        Masker({"a.key": text})
    assert text not in str(caught.value)


def test_nothing_to_mask_changes_nothing() -> None:
    """Without values all passes as it comes."""
    found = Masker({})
    assert (found.feed(b"all\x00of it"), found.flush(), found.finds(b"x")) == (b"all\x00of it", b"", ())


def test_a_processor_that_hyperscan_does_not_know_is_searched_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """Masking is slower then, and as right."""
    hyperscan = pytest.importorskip("hyperscan")

    def refuses(*_: object) -> None:
        raise hyperscan.ArchitectureError

    monkeypatch.setattr(search, "HYPERSCAN", True)
    monkeypatch.setattr(search, "HyperscanSearch", refuses)
    assert isinstance(search.search_for([TOKEN]), search.PlainSearch)
    assert Masker({"key": TOKEN}).replace(TOKEN) == b"[masked key]"
