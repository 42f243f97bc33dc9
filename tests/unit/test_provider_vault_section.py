"""The section of a Vault, and what its references may be."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_worker.core.configuration import ProviderSettings
from broker_worker.core.errors import ConfigError, ProviderError
from broker_worker.core.policy import Origin
from broker_worker.core.references import check_reference
from broker_worker.ports import DynamicProvider
from broker_worker.providers import schemes
from broker_worker.providers.options import Surroundings
from broker_worker.providers.schemes import make_providers
from broker_worker.providers.vault import section as vault_section
from broker_worker.providers.vault.place import Place, read_place


def make(**options: Any) -> Any:
    around = Surroundings(Path("/x"), Path("/y"), lambda _: bytes(32), {}, lambda: 7)
    return make_providers([ProviderSettings("vault", options, Origin("broker.yaml", 9))], around)["vault"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"url": "https://vault.example:8200"},
        {"url": "https://vault.example/"},
        {"url": "https://[2001:db8::1]:8200"},
        {"url": "http://127.0.0.1:8200"},
        {"url": "http://localhost:8200"},
        {"url": "http://[::1]:8200"},
        {"url": "http://vault.internal:8200", "allow_plain_http": True},
        {"namespace": "team-a/prod/", "ca_file": "/etc/vault/ca.pem", "timeout_seconds": 5, "lease_seconds": 600},
        {"auth": "token", "token_env": "MY_TOKEN"},
        {"auth": "token", "token_file": "/run/token"},
        {"auth": "approle", "role_id": "r-1", "secret_id_file": "/run/secret", "auth_mount": "ci/approle"},
        {"auth": "kubernetes", "role": "broker"},
        {"auth": "jwt", "role": "broker", "jwt_file": "/run/jwt"},
    ],
)
def test_what_can_be_meant_makes_a_provider(options: dict[str, Any]) -> None:
    """Nothing is contacted or read for that; it makes and takes back credentials."""
    assert isinstance(make(**options), DynamicProvider)


@pytest.mark.parametrize(
    ("options", "says", "hint"),
    [
        ({"adress": "https://vault.example"}, "unknown option 'adress'", "it takes url"),
        ({"url": "vault.example:8200"}, "url is not the address of a server", "https://vault.example:8200"),
        ({"url": "ftp://vault.example"}, "url is not the address", "https://"),
        ({"url": "https://"}, "url is not the address", "https://"),
        ({"url": "https://user:hunter2@vault.example"}, "url is not the address", "https://"),
        ({"url": "https://vault.example/v1"}, "url is not the address", "https://"),
        ({"url": "https://vault.example?x=1"}, "url is not the address", "https://"),
        ({"url": "https://vault.example#x"}, "url is not the address", "https://"),
        ({"url": "https://vault.example:99999"}, "url is not the address", "https://"),
        ({"url": "https://vault.example:0"}, "url is not the address", "https://"),
        ({"url": "https://[::1"}, "url is not the address", "https://"),
        ({"url": "https://vault.exa\x00mple"}, "url is not the address", "https://"),
        ({"url": 8200}, "url is not the address", "https://"),
        ({"url": "http://vault.example:8200"}, "would send token and secrets unencrypted", "allow_plain_http: true"),
        ({"url": "http://127.0.0.1.evil.example"}, "unencrypted", "https://"),
        ({"url": "http://10.0.0.1"}, "unencrypted", "https://"),
        ({"url": "http://10.0.0.1", "allow_plain_http": False}, "unencrypted", "https://"),
        ({"url": "http://10.0.0.1", "allow_plain_http": "yes"}, "neither true nor false", "leave it out"),
        ({"ca_file": "ca.pem"}, "ca_file is not an absolute path", "from / on"),
        ({"namespace": "../other"}, "namespace is not a path", "team-a"),
        ({"namespace": "a\r\nX-Vault-Token: b"}, "namespace is not a path", "team-a"),
        ({"auth": "userpass"}, "auth is not a known method", "token, approle, kubernetes, jwt"),
        ({"auth": True}, "auth is not a known method", "token, approle"),
        ({"role": "r"}, "role has no meaning with `auth: token`", "`auth: kubernetes`"),
        ({"auth": "jwt", "role": "r", "token_file": "/x"}, "token_file has no meaning", "`auth: token`"),
        ({"auth": "approle"}, "role_id is missing", "role-id"),
        ({"auth": "approle", "role_id": "a b"}, "role_id is not the id of a role", "role-id"),
        ({"auth": "approle", "role_id": "r", "auth_mount": "/a"}, "auth_mount is not a path", "approle"),
        (
            {"auth": "approle", "role_id": "r", "secret_id_env": "A", "secret_id_file": "/b"},
            "both secret_id_env",
            "one",
        ),
        ({"auth": "approle", "role_id": "r", "secret_id_env": "hunter2"}, "not the name of an environment", "upper"),
        ({"auth": "kubernetes"}, "role is missing", "auth/kubernetes"),
        ({"auth": "jwt", "role": "r"}, "jwt_file is missing", "the file"),
        ({"token_env": "A", "token_file": "/b"}, "both token_env and token_file", "keep one"),
        ({"token_env": "hvs.hunter2"}, "token_env is not the name", "not the value"),
        ({"timeout_seconds": 0}, "timeout_seconds is not", "for 10"),
        ({"lease_seconds": 0}, "lease_seconds is not", "for 3600"),
    ],
)
def test_wrong_options_are_named_with_their_place(options: dict[str, Any], says: str, hint: str) -> None:
    """Each with file and line, what was expected and what to do; no value is repeated."""
    with pytest.raises(ConfigError) as caught:
        make(**options)
    error = caught.value
    assert str(error).startswith("broker.yaml:9: provider vault: ")
    assert says in str(error)
    assert hint in error.hint
    assert "hunter2" not in str(error) + error.hint


def test_missing_hvac_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an optional part."""
    monkeypatch.setattr(schemes, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        make()
    assert "hvac is not installed" in str(caught.value)
    assert "its extra `vault`" in caught.value.hint


@given(st.sampled_from(vault_section.OPTIONS), st.text(max_size=12) | st.integers() | st.booleans())
def test_any_option_makes_a_provider_or_a_config_error(option: str, value: str | int | bool) -> None:
    """Arbitrary values raise nothing but `ConfigError`."""
    for auth in ("token", "approle", "kubernetes", "jwt"):
        try:
            make(**{"auth": auth, "role_id": "r", "jwt_file": "/j", option: value})
        except ConfigError:
            continue


# --- references ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "place"),
    [
        ("vault://secret/app#key", Place("secret/app", None, "key")),
        ("vault://secret/app?version=3#key", Place("secret/app", 3, "key")),
        ("vault://team/kv/my app/db.prod#user name", Place("team/kv/my app/db.prod", None, "user name")),
        ("vault://database/creds/role#username", Place("database/creds/role", None, "username")),
        ("vault://secret/app#*", Place("secret/app", None, "*")),
        ("vault://secret/app#a#b?c/d", Place("secret/app", None, "a#b?c/d")),
        ("vault://secret/..app/a..b#key", Place("secret/..app/a..b", None, "key")),
        ("vault://secret/auth/sys#key", Place("secret/auth/sys", None, "key")),
    ],
)
def test_references_name_path_version_and_field(reference: str, place: Place) -> None:
    """As they are written; nothing is normalised."""
    assert check_reference(reference) == reference
    assert read_place(reference) == place


@pytest.mark.parametrize(
    "path",
    [
        "",
        "secret",
        "secret#key",
        "secret/app",
        "secret/app#",
        "secret/app# key",
        "secret/app#ke\ny",
        "secret/app#k\u202ey",
        "/secret/app#key",
        "secret//app#key",
        "secret/app/#key",
        "secret/../sys/seal#key",
        "secret/./app#key",
        "secret/.../app#key",
        "../secret/app#key",
        "secret/%2e%2e/sys#key",
        "secret/a\\b#key",
        "secret/a\x00b#key",
        "secret/ app#key",
        "secret/app #key",
        "secret/äpp#key",
        "secret/app?version=0#key",
        "secret/app?version=01#key",
        "secret/app?version=-1#key",
        "secret/app?version=#key",
        "secret/app?version=9999999999#key",
        "secret/app?version=1&x=2#key",
        "secret/app?list=true#key",
        "secret/app?#key",
        "sys/seal-status#sealed",
        "auth/token/lookup-self#id",
        "AUTH/token/lookup-self#id",
        "identity/oidc/token/a#token",
        "cubbyhole/a#b",
        "secret/app#" + "x" * 129,
    ],
)
def test_what_could_leave_its_mount_or_mean_two_things_is_no_reference(path: str) -> None:
    """Refused when the file is read, and once more by the provider."""
    with pytest.raises(ValueError, match="form vault://"):
        check_reference(f"vault://{path}")
    with pytest.raises(ProviderError):
        read_place(f"vault://{path}")


@given(st.text(alphabet="sec/.%\\ ?#=version1*\x00", max_size=30))
def test_what_passes_stays_below_its_mount(path: str) -> None:
    """Whatever passes has at least two parts, none empty, none of dots only, and a field."""
    try:
        place = read_place(f"vault://{path}")
    except ProviderError:
        return
    parts = place.path.split("/")
    assert len(parts) >= 2
    assert all(part.strip(". ") == part.strip(" ") or part.strip(".") for part in parts)
    assert not set(place.path) & set("%\\?#\x00")
    assert place.field
