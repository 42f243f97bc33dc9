"""Making providers from the operator's sections."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_worker.core.configuration import ProviderSettings
from broker_worker.core.errors import ConfigError, FailureKind, ProviderError
from broker_worker.core.policy import Origin
from broker_worker.core.references import SCHEMES, nearest_type
from broker_worker.ports import Fetched
from broker_worker.providers import schemes
from broker_worker.providers.local_vault import LocalVault, VaultKeys
from broker_worker.providers.options import Surroundings
from broker_worker.providers.schemes import make_providers
from broker_worker.providers.vault_format import KeyParameters

KEY = bytes(32)


def around(folder: Path = Path("/nowhere"), **environ: str) -> Surroundings:
    return Surroundings(folder / "local.vault", folder / "vault.key", lambda path: KEY, environ, lambda: 7)


NEEDED: dict[str, dict[str, Any]] = {"connect": {"url": "https://connect.example.com"}}
"""Options that a type cannot do without."""


def section(kind: str, line: int = 4, **options: Any) -> ProviderSettings:
    return ProviderSettings(kind, NEEDED.get(kind, {}) | options, Origin("broker.yaml", line))


def refusal(*sections: ProviderSettings) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        make_providers(sections, around())
    return caught.value


def test_the_table_serves_the_schemes_of_the_registry() -> None:
    """Every scheme that the registry accepts has its provider, of the type that the registry's check names."""
    made = make_providers([section(kind) for kind in SCHEMES.values()], around())
    assert {scheme: provider.name for scheme, provider in made.items()} == dict(SCHEMES)


def test_nothing_is_served_by_default() -> None:
    """Without a section there is no provider, not even for the environment."""
    assert make_providers([], around()) == {}


def test_unknown_type_is_refused_with_the_nearest() -> None:
    """A misspelled type is an error with its place and what was probably meant."""
    error = refusal(section("one_password"))
    assert str(error) == "broker.yaml:4: provider one_password: there is no such type"
    assert error.hint == "did you mean 'onepassword'?"


def test_two_sections_of_a_type_are_refused() -> None:
    """A scheme has one provider; the second section is the one that is named."""
    assert str(refusal(section("env", 4), section("env", 9))).startswith("broker.yaml:9:")


@pytest.mark.parametrize(
    ("kind", "options", "says", "hint"),
    [
        ("onepassword", {"token_evn": "X"}, "unknown option 'token_evn'", "did you mean 'token_env'?"),
        ("local", {"passphrase": "hunter2 hunter2"}, "unknown option 'passphrase'", "did you mean 'passphrase_env'?"),
        ("env", {"prefix": "X"}, "unknown option 'prefix'", "it takes no options"),
        ("onepassword", {"server": "https://evil.org"}, "unknown option 'server'", "it takes token_env"),
        ("onepassword", {"unsafe_check_address_for_tests": "x"}, "unknown option", "it takes token_env"),
        ("onepassword", {"token_env": "A", "token_file": "/b"}, "both token_env and token_file", "keep one"),
        ("onepassword", {"token_env": "ops_eyJ!"}, "token_env is not the name", "not the value"),
        ("onepassword", {"token_env": "ops_eyJzaWduSW5BZGRyZXNz"}, "token_env is not the name", "in upper case"),
        ("onepassword", {"token_env": 5}, "token_env is not the name", "OP_SERVICE_ACCOUNT_TOKEN"),
        ("onepassword", {"token_file": "relative/token"}, "token_file is not an absolute path", "from / on"),
        ("onepassword", {"token_file": ""}, "token_file is not an absolute path", "from / on"),
        ("onepassword", {"token_file": "/a\x00b"}, "token_file is not an absolute path", "from / on"),
        ("onepassword", {"timeout_seconds": 0}, "timeout_seconds is not a whole number from 1 to 60", "for 10"),
        ("onepassword", {"timeout_seconds": 61}, "timeout_seconds is not", "for 10"),
        ("onepassword", {"timeout_seconds": True}, "timeout_seconds is not", "for 10"),
        ("onepassword", {"timeout_seconds": "10"}, "timeout_seconds is not", "for 10"),
        ("onepassword", {"versions": "yes"}, "versions is neither true nor false", "leave it out for false"),
        ("connect", {"url": 5}, "url, the address of the Connect server, is no text", "https://connect.example.com"),
        ("connect", {"url": ""}, "url, the address of the Connect server, is no text", "https://connect.example.com"),
        ("connect", {"url": "connect.internal:8080"}, "expected an address such as", "write it as https://"),
        ("connect", {"url": "http://connect:8080"}, "url: expected https", "allow_plain_http: true"),
        ("connect", {"url": "https://a.example/v1/"}, "expected the address without /v1", "write it as"),
        ("connect", {"url": "https://u:p@a.example"}, "expected no user or password", "write it as"),
        ("connect", {"allow_plain_http": 1}, "allow_plain_http is neither true nor false", "for false"),
        ("connect", {"token_env": "A", "token_file": "/b"}, "both token_env and token_file", "keep one"),
        ("connect", {"token": "x" * 9}, "unknown option 'token'", "did you mean 'token_"),
        ("connect", {"ca_file": "ca.pem"}, "ca_file is not an absolute path", "from / on"),
        ("connect", {"timeout_seconds": 61}, "timeout_seconds is not", "for 10"),
        ("local", {"path": "vault"}, "path is not an absolute path", "from / on"),
        ("local", {"key_file": True}, "key_file is not an absolute path", "from / on"),
        ("local", {"passphrase_env": "correct horse"}, "passphrase_env is not the name", "not the value"),
        ("aws-sm", {"regoin": "eu-central-1"}, "unknown option 'regoin'", "did you mean 'region'?"),
        ("aws-sm", {"access_key": "AKIAIOSFODNN7EXAMPLE"}, "unknown option", "it takes region"),
        ("aws-sm", {"region": "Frankfurt"}, "region is not an AWS region", "eu-central-1"),
        ("aws-sm", {"region": "eu-central-1.evil.org"}, "region is not an AWS region", "eu-central-1"),
        ("aws-ssm", {"region": 5}, "region is not an AWS region", "eu-central-1"),
        ("aws-ssm", {"profile": "a b"}, "profile is not a profile's name", "~/.aws/config"),
        ("aws-ssm", {"profile": True}, "profile is not a profile's name", "~/.aws/config"),
        ("aws-sm", {"timeout_seconds": 61}, "timeout_seconds is not", "for 10"),
        ("aws-sm", {"endpoint_url": "http://vault.example.org"}, "endpoint_url is not https://", "for AWS itself"),
        ("aws-sm", {"endpoint_url": "http://127.0.0.1.evil.org"}, "endpoint_url is not https://", "for AWS itself"),
        ("aws-sm", {"endpoint_url": "http://127.0.0.1@evil.org"}, "endpoint_url is not https://", "for AWS itself"),
        ("aws-sm", {"endpoint_url": "https://user:pass@example.org"}, "endpoint_url is not", "for AWS itself"),
        ("aws-sm", {"endpoint_url": "https://example.org/path"}, "endpoint_url is not", "for AWS itself"),
        ("aws-sm", {"endpoint_url": "https://example.org?query"}, "endpoint_url is not", "for AWS itself"),
        ("aws-sm", {"endpoint_url": "https://example.org:0"}, "endpoint_url is not", "for AWS itself"),
        ("aws-sm", {"endpoint_url": "https://example.org:65536"}, "endpoint_url is not", "for AWS itself"),
        ("aws-sm", {"endpoint_url": "https://example.org\n"}, "endpoint_url is not", "for AWS itself"),
        ("aws-sm", {"endpoint_url": "ftp://127.0.0.1"}, "endpoint_url is not", "for AWS itself"),
        ("aws-sm", {"endpoint_url": ""}, "endpoint_url is not", "for AWS itself"),
    ],
)
def test_wrong_options_are_named_with_their_place(kind: str, options: dict[str, Any], says: str, hint: str) -> None:
    """Each wrong option is an error with file and line, what was expected and what to do; no value is repeated."""
    error = refusal(section(kind, **options))
    assert str(error).startswith(f"broker.yaml:4: provider {kind}: ")
    assert says in str(error)
    assert hint in error.hint
    values = [value for value in options.values() if isinstance(value, str) and value]
    assert not any(value in str(error) for value in values if len(value) > 2)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("Vault", "vault"),
        ("AWS-SM", "aws-sm"),
        ("op", "onepassword"),
        ("1password", "onepassword"),
        ("onepasword", "onepassword"),
        ("openbao", "vault"),
        ("ssm", "aws-ssm"),
        ("aws", "aws-sm"),
        ("conect", "connect"),
        ("command", "exec"),
        ("keepass", None),
    ],
)
def test_the_nearest_type_is_what_people_mean(written: str, meant: str | None) -> None:
    """Misspelled, in other letters, or by the name that it has elsewhere."""
    assert nearest_type(written) == meant


def test_missing_sdk_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without onepassword-sdk the section is an error that says how to get it."""
    monkeypatch.setattr(schemes, "find_spec", lambda name: None)
    error = refusal(section("onepassword"))
    assert "onepassword-sdk is not installed" in str(error)
    assert "its extra `onepassword`" in error.hint


@pytest.mark.parametrize("kind", ["aws-sm", "aws-ssm"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"region": "us-gov-west-1", "profile": "team/agents", "timeout_seconds": 60},
        {"endpoint_url": "https://vpce-0a1b.secretsmanager.eu-central-1.vpce.amazonaws.com"},
        {"endpoint_url": "http://127.0.0.1:4566"},
        {"endpoint_url": "http://[::1]:4566"},
        {"endpoint_url": "http://localhost"},
    ],
)
def test_aws_is_reached_by_its_own_names_or_safely(kind: str, options: dict[str, Any]) -> None:
    """Without options AWS's own configuration counts; another address is one with TLS, or on this host."""
    assert make_providers([section(kind, **options)], around())[kind].name == kind


def test_missing_boto3_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without boto3 the section is an error that says how to get it."""
    monkeypatch.setattr(schemes, "find_spec", lambda name: None)
    error = refusal(section("aws-sm"))
    assert "boto3 is not installed" in str(error)
    assert "its extra `aws`" in error.hint


def test_boto3_is_not_loaded_before_it_is_needed() -> None:
    """It would cost every worker its memory, also those that use other vaults; making the provider loads it neither."""
    script = (
        "import sys; from pathlib import Path\n"
        "from broker_worker.core.configuration import ProviderSettings\n"
        "from broker_worker.core.policy import Origin\n"
        "import broker_worker.cli.worker\n"
        "from broker_worker.app import vaults\n"
        "sections = [ProviderSettings(kind, {}, Origin('broker.yaml', 1)) for kind in ('aws-sm', 'aws-ssm')]\n"
        "around = vaults.Surroundings(Path('/v'), Path('/k'), lambda path: b'', {}, lambda: 0)\n"
        "print(len(vaults.make_providers(sections, around)), sorted({'boto3', 'botocore'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "2 []\n"


def test_connect_without_an_address_is_refused() -> None:
    """There is no default: where the token goes is the operator's to say."""
    with pytest.raises(ConfigError) as caught:
        make_providers([ProviderSettings("connect", {}, Origin("broker.yaml", 4))], around())
    assert str(caught.value) == "broker.yaml:4: provider connect: url, the address of the Connect server, is missing"


@pytest.mark.parametrize(
    "options",
    [
        {"url": "http://127.0.0.1:8080"},
        {"url": "http://localhost:8080/"},
        {"url": "http://[::1]:8080"},
        {"url": "http://onepassword-connect:8080", "allow_plain_http": True},
        {"url": "https://gateway.example.com/connect", "token_file": "/run/secrets/token"},
    ],
)
def test_connect_addresses_that_can_be_meant(options: dict[str, Any]) -> None:
    """Plain HTTP goes to this host, or where the operator says so."""
    assert make_providers([section("connect", **options)], around())["connect"].name == "connect"


def test_connects_client_is_not_loaded_before_it_is_needed() -> None:
    """A worker that uses other vaults does not pay for an HTTP client, nor for what jobs and `up` need."""
    script = "import sys; import broker_worker.cli.worker\nprint(bool({'httpx', 'rq'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "False\n"


async def test_connects_missing_token_is_named() -> None:
    """The variable's name, and what to do."""
    provider = make_providers([section("connect", token_env="MY_TOKEN")], around())["connect"]
    health = await provider.health()
    assert health.detail == "the Connect access token is missing: MY_TOKEN is not set"
    assert "token_file" in health.hint


async def test_local_section_opens_the_homes_vault(tmp_path: Path) -> None:
    """Without options the local provider uses the vault and the key file of the home."""
    place = around(tmp_path)
    LocalVault(place.vault_file, VaultKeys(lambda: KEY, lambda: None)).create(KeyParameters.of_key_file())
    provider = make_providers([section("local")], place)["local"]
    assert await provider.put("local://a", b"1") == "1"
    assert await provider.get_many(["local://a"]) == {"local://a": Fetched(b"1", "1")}


async def test_local_section_may_name_other_files(tmp_path: Path) -> None:
    """`path`, `key_file` and `passphrase_env` are used in place of the home's."""
    asked: list[Path] = []

    def load(path: Path) -> bytes:
        asked.append(path)
        return KEY

    place = Surroundings(tmp_path / "x", tmp_path / "y", load, {}, lambda: 7)
    LocalVault(tmp_path / "v", VaultKeys(lambda: KEY, lambda: None)).create(KeyParameters.of_key_file())
    options: dict[str, Any] = {"path": str(tmp_path / "v"), "key_file": str(tmp_path / "k")}
    provider = make_providers([section("local", **options)], place)["local"]
    assert (await provider.health()).ok
    assert asked == [tmp_path / "k"]


async def test_passphrase_comes_from_the_variable_named(tmp_path: Path) -> None:
    """A vault with a passphrase opens with the variable that the section names."""
    parameters = KeyParameters.of_passphrase(passes=1, memory_kib=8192)
    LocalVault(tmp_path / "local.vault", VaultKeys(lambda: KEY, lambda: "x" * 12)).create(parameters)
    place = around(tmp_path, MY_PASSPHRASE="x" * 12)
    with_it = make_providers([section("local", passphrase_env="MY_PASSPHRASE")], place)["local"]
    without = make_providers([section("local")], place)["local"]
    assert (await with_it.health()).ok
    assert (await without.health()).hint == "set SECRET_BROKER_VAULT_PASSPHRASE"


async def test_missing_token_is_a_health_problem_not_a_crash() -> None:
    """Without the token's variable the provider is made, says what is missing, and refuses."""
    provider = make_providers([section("onepassword")], around())["op"]
    health = await provider.health()
    assert not health.ok
    assert "OP_SERVICE_ACCOUNT_TOKEN is not set" in health.detail
    assert "before the broker starts" in health.hint
    with pytest.raises(ProviderError) as caught:
        await provider.get_many(["op://a/b/c"])
    assert caught.value.kind is FailureKind.UNAUTHENTICATED


async def test_token_file_must_be_private(tmp_path: Path) -> None:
    """A token file that others may read is refused with how to mend it."""
    file = tmp_path / "token"
    file.touch(0o644)
    file.chmod(0o644)
    provider = make_providers([section("onepassword", token_file=str(file))], around())["op"]
    health = await provider.health()
    assert "0644" in health.detail
    assert "chmod 600" in health.hint


async def test_operators_token_cannot_name_another_server() -> None:
    """A provider made from operator settings holds tokens against 1Password's hosts: there is no way around it."""
    token = "ops_eyJzaWduSW5BZGRyZXNzIjoiaHR0cDovLzEyNy4wLjAuMToxIn0"
    provider = make_providers([section("onepassword")], around(OP_SERVICE_ACCOUNT_TOKEN=token))["op"]
    assert "names a server that is not one of 1Password's" in (await provider.health()).detail


@given(
    st.sampled_from(list(SCHEMES.values())),
    st.dictionaries(
        st.sampled_from(
            ["token_env", "token_file", "timeout_seconds", "path", "key_file", "passphrase_env", "url", "ca_file", "x"]
        ),
        st.text(max_size=8) | st.integers() | st.booleans(),
        max_size=3,
    ),
)
def test_any_options_make_a_provider_or_a_config_error(kind: str, options: dict[str, Any]) -> None:
    """Arbitrary options raise nothing but `ConfigError`."""
    try:
        made = make_providers([section(kind, **options)], around())
    except ConfigError:
        return
    assert len(made) == 1
