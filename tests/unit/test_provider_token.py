"""Service-account tokens: read strictly, and sent to 1Password's own hosts only."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.providers.service_account_token import (
    MAX_TOKEN,
    ServiceAccountToken,
    parse_service_account_token,
    require_1password_host,
)


def token(text: str | bytes) -> str:
    raw = text.encode() if isinstance(text, str) else text
    return "ops_" + base64.b64encode(raw).decode().rstrip("=")


def token_for(address: object) -> str:
    return token(json.dumps({"signInAddress": address, "secretKey": "A3-CANARY"}))


def refusal(text: str) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        parse_service_account_token(text)
    assert caught.value.kind is FailureKind.UNAUTHENTICATED
    assert caught.value.__context__ is None
    return caught.value


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("https://my.1password.com", "my.1password.com"),
        ("https://my.1password.com/", "my.1password.com"),
        ("my.1password.com", "my.1password.com"),
        ("https://example-team.1password.com", "example-team.1password.com"),
        ("https://example.1password.eu", "example.1password.eu"),
        ("https://example.1password.ca", "example.1password.ca"),
        ("https://example.ent.1password.com", "example.ent.1password.com"),
    ],
)
def test_hosts_of_1password_are_accepted(address: str, host: str) -> None:
    """Accounts of all regions and of the enterprise domain, with and without https://."""
    assert parse_service_account_token(token_for(address)).host == host


@pytest.mark.parametrize(
    "address",
    [
        "https://evil1password.com",
        "https://my.evil1password.com",
        "https://1password.com.evil.org",
        "https://my.1password.com.evil.org",
        "https://my.1password.community",
        "https://my.1passwordxcom",
        "https://1password.com",
        "https://.1password.com",
        "https://my..1password.com",
        "https://my.1password.com.",
        "http://my.1password.com",
        "ftp://my.1password.com",
        "//my.1password.com",
        "https:my.1password.com",
        "https:///my.1password.com",
        "https://my.1password.com:443",
        "https://my.1password.com:8443",
        "https://user@my.1password.com",
        "https://my.1password.com@evil.org",
        "https://my.1password.com:x@evil.org",
        "https://evil.org/my.1password.com",
        "https://evil.org/.1password.com",
        "https://evil.org?.1password.com",
        "https://evil.org#.1password.com",
        "https://evil.org\\.1password.com",
        "https://my.1password.com/path",
        "https://my.1password.com?x",
        "https://my.1password.com//",
        "https://MY.1password.com",
        "https://my.1PASSWORD.com",
        "https://my.1passwor\u0501.com",
        "https://my\uff0e1password.com",
        "https://my.1password.com\n",
        "https://my.1password.com\x00.evil.org",
        " https://my.1password.com",
        "https://-my.1password.com",
        "https://a.b.c.d.e.1password.com",
        "https://" + "a" * 64 + ".1password.com",
        "https://127.0.0.1",
        "https://localhost",
        "https://[::1]",
        "",
    ],
)
def test_other_servers_are_refused(address: str) -> None:
    """Look-alikes, ports, user names, paths, other schemes and local addresses are refused, and not repeated."""
    error = refusal(token_for(address))
    assert "not one of 1Password's" in str(error)
    assert not address.strip() or address not in str(error) + error.hint


@given(st.text(max_size=60))
def test_only_a_host_below_1password_passes(address: str) -> None:
    """Whatever passes is a plain host name below one of three domains."""
    try:
        host = require_1password_host(address)
    except ProviderError:
        return
    assert host.endswith((".1password.com", ".1password.ca", ".1password.eu"))


@given(st.from_regex(r"\A(https?://)?[a-z0-9@:/.\\?#-]{0,12}\.?1password\.(com|eu|ca)[a-z0-9@:/.\\?#-]{0,8}\Z"))
def test_what_passes_has_no_room_for_another_host(address: str) -> None:
    """Near misses: what passes is exactly an optional https://, the host and an optional slash."""
    try:
        host = require_1password_host(address)
    except ProviderError:
        return
    assert address in {host, f"{host}/", f"https://{host}", f"https://{host}/"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("eyJhbGciOi", "does not begin with ops_"),
        ("OPS_eyJ9", "does not begin with ops_"),
        ("ops_", "names no server"),
        ("ops_!!!", "names no server"),
        ("ops_e30=", "names no server"),
        ("ops_e3\n0", "names no server"),
        ("ops_a", "names no server"),
        (token("[]"), "names no server"),
        (token('"https://my.1password.com"'), "names no server"),
        (token("{}"), "names no server"),
        (token('{"signInAddress": null}'), "names no server"),
        (token('{"signInAddress": ["https://my.1password.com"]}'), "names no server"),
        (token('{"signInAddress": "https://my.1password.com"'), "names no server"),
        (token(b"\xff\xfe"), "names no server"),
        (token("[" * 5000), "names no server"),
        ("ops_" + "A" * MAX_TOKEN, "is too long"),
    ],
)
def test_what_is_no_token_is_refused(text: str, says: str) -> None:
    """Each malformed token ends in one typed error that says what is wrong and what to do."""
    error = refusal(text)
    assert says in str(error)
    assert error.hint


def test_repeated_address_is_refused() -> None:
    """Two addresses in one token are refused, so that no other parser can pick the one that was not checked."""
    refusal(token('{"signInAddress": "https://evil.org", "signInAddress": "https://my.1password.com"}'))
    refusal(token('{"signInAddress": "https://evil.org", "signIn\\u0041ddress": "https://my.1password.com"}'))


def test_white_space_around_a_token_is_dropped() -> None:
    """A token file that ends with a line feed works; the SDK gets the token alone."""
    text = token_for("https://my.1password.com")
    assert parse_service_account_token(f"  {text}\n") == ServiceAccountToken(text, "my.1password.com")


def test_token_is_never_shown() -> None:
    """Neither `repr` nor an error shows a part of the token."""
    text = token_for("https://my.1password.com")
    assert "ops_" not in repr(parse_service_account_token(text))
    bad = token('{"secretKey": "A3-CANARY"}')
    error = refusal(bad)
    assert "CANARY" not in repr(error)
    assert bad[4:] not in repr(error)


@given(st.binary(max_size=200))
def test_any_content_ends_in_a_typed_error(raw: bytes) -> None:
    """Arbitrary bytes in a token raise nothing but `ProviderError`."""
    refusal(token(raw))
