"""`broker.yaml`: cache, providers, and an address that only this host reaches."""

import pytest

from broker_worker.core.budget import Budget
from broker_worker.core.configuration import CacheSettings, ProviderSettings, ServerSettings
from broker_worker.core.errors import ConfigError
from broker_worker.core.policy import Origin
from broker_worker.core.references import SCHEMES
from broker_worker.files.broker import read_cache, read_providers, read_server
from broker_worker.files.sections import Section
from broker_worker.files.yaml_reader import parse_yaml


def document(text: str) -> Section:
    """The top level of a file with that text."""
    return Section(parse_yaml(text.encode(), "broker.yaml"), file="broker.yaml", origin="broker.yaml", what="top level")


def cache(text: str, without_maximum: int | None = 900) -> CacheSettings:
    """The cache settings of a file whose `cache` is that text."""
    return read_cache(document(f"cache: {text}").get("cache"), without_maximum=without_maximum)


def test_without_a_section_the_defaults_hold() -> None:
    """300 s, at most 900 s, ten thousand entries."""
    assert read_cache(None, without_maximum=None) == CacheSettings(300, 900, 10_000)


def test_every_setting_can_be_written() -> None:
    """All three keys."""
    text = "{default_ttl_seconds: 60, max_ttl_seconds: 120, max_entries: 5}"
    assert cache(text) == CacheSettings(60, 120, 5)


def test_no_maximum_is_written_as_none() -> None:
    """In any form of the files."""
    assert cache("{default_ttl_seconds: 3600, max_ttl_seconds: none}") == CacheSettings(3600, None, 10_000)


def test_a_maximum_below_the_default_life_lowers_it() -> None:
    """Whoever writes only a maximum means it."""
    assert cache("{max_ttl_seconds: 10}") == CacheSettings(10, 10, 10_000)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{default_ttl_seconds: 3600}", "`default_ttl_seconds`: 3600 is more than the maximum of 900"),
        (
            "{max_entries: 0}",
            "`max_entries`: found `0`, which YAML takes for a number, expected a whole number from 1 to 1000000",
        ),
        ("{max_ttl_seconds: 5m}", "`max_ttl_seconds`: found `5m`, expected a whole number from 1 to 31622400"),
        ("{max_entires: 5}", "`cache`: unknown key `max_entires`"),
        ("", "`cache`: found nothing, expected a mapping"),
    ],
)
def test_a_mistake_in_the_cache_section(text: str, message: str) -> None:
    """What was found and what was expected."""
    with pytest.raises(ConfigError) as caught:
        cache(text)
    assert str(caught.value) == f"broker.yaml:1: {message}"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "'::1'", "localhost"])
def test_the_server_is_on_loopback(host: str) -> None:
    """Every address that only this host reaches."""
    assert read_server(document(f"server: {{host: {host}, port: 7700}}").get("server")) == ServerSettings(
        host.strip("'"), 7700
    )


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "'::'", "10.0.0.1", "broker.example", "127.0.0.1.example", "localhost.example"]
)
def test_any_other_address_is_refused(host: str) -> None:
    """The broker never listens to a network."""
    with pytest.raises(ConfigError, match="expected a loopback address"):
        read_server(document(f"server: {{host: {host}}}").get("server"))


@pytest.mark.parametrize("port", ["0", "65536", "http", "'7700'"])
def test_a_port_is_a_number_in_range(port: str) -> None:
    """From 1 to 65535."""
    with pytest.raises(ConfigError, match="expected a whole number from 1 to 65535"):
        read_server(document(f"server: {{port: {port}}}").get("server"))


def test_a_provider_has_a_type_and_options() -> None:
    """Texts, whole numbers and booleans; the provider checks them."""
    text = "provider:\n  type: onepassword\n  token_env: TOKEN\n  batch: 50\n  strict: true\n"
    expected = ProviderSettings(
        "onepassword",
        {"token_env": "TOKEN", "batch": 50, "strict": True},
        Origin("broker.yaml", 2),
        Budget(1000, 1000, 10),
    )
    assert read_providers(document(text)) == (expected,)


def test_a_type_may_be_that_of_an_installed_package() -> None:
    """Whether there is such a package is found out by who makes providers: reading files imports nobody's code."""
    text = "provider: {type: keepass, database: /srv/team.kdbx}"
    expected = ProviderSettings("keepass", {"database": "/srv/team.kdbx"}, Origin("broker.yaml", 1))
    assert read_providers(document(text)) == (expected,)


def test_several_providers_are_a_list() -> None:
    """One of each type."""
    found = read_providers(document("providers:\n  - type: local\n  - type: env\n"))
    assert [provider.type for provider in found] == ["local", "env"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "provider: {type: OnePassword}",
            "broker.yaml:1: `type`: found `OnePassword`, expected "
            + " or ".join(f"`{kind}`" for kind in SCHEMES.values()),
        ),
        (
            "provider: {type: op}",
            "broker.yaml:1: `type`: found `op`, expected " + " or ".join(f"`{kind}`" for kind in SCHEMES.values()),
        ),
        ("provider: {token_env: C4NARY}", "broker.yaml:1: `provider`: the key `type` is missing"),
        ("provider: c4nary", "broker.yaml:1: `provider`: found a text, expected a mapping"),
        (
            "provider: {type: local, x: [c4nary]}",
            "broker.yaml:1: `x`: found a list, expected a text, a whole number, true or false",
        ),
        (
            "provider: {type: local, x: 1.5}",
            "broker.yaml:1: `x`: found a number, expected a whole number from 0 to 2147483648",
        ),
        ("provider: {type: local, x: on}", "broker.yaml:1: `x`: found a boolean, expected true or false"),
        (
            "provider: {type: local}\nproviders: []",
            "broker.yaml:2: top level: `provider` and `providers` both stand here",
        ),
        (
            "providers:\n  - type: env\n  - type: env",
            "broker.yaml:3: entry of `providers`: a second provider of type `env`",
        ),
    ],
)
def test_a_mistake_in_a_provider_s_section_never_repeats_an_option(text: str, message: str) -> None:
    """A token that somebody wrote there does not reach the terminal."""
    with pytest.raises(ConfigError) as caught:
        read_providers(document(text))
    assert str(caught.value) == message
    assert "c4nary" not in (str(caught.value) + caught.value.hint).lower()


def budget(text: str, kind: str = "onepassword") -> Budget | None:
    """The budget of a provider whose section has that text below `budget`."""
    (provider,) = read_providers(document(f"provider:\n  type: {kind}\n  budget: {text}\n"))
    assert "budget" not in provider.options
    return provider.budget


def test_a_budget_is_read_with_its_reserve() -> None:
    """One window or both; a tenth is kept for critical secrets where nothing else is written."""
    assert budget("{reads_per_hour: 1000, reads_per_day: 5000, reserve_percent: 25}") == Budget(1000, 5000, 25)
    assert budget("{reads_per_day: 5000}") == Budget(None, 5000, 10)
    assert budget("{reads_per_hour: 7, reserve_percent: 0}", "local") == Budget(7, None, 0)


def test_without_a_budget_onepassword_has_that_of_the_smallest_plan() -> None:
    """The other providers have none; `none` is written out."""
    text = "providers: [{type: onepassword}, {type: local}, {type: env}]"
    assert [provider.budget for provider in read_providers(document(text))] == [Budget(1000, 1000, 10), None, None]
    assert budget("none") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "`budget`: a budget without a limit"),
        ("{reserve_percent: 5}", "`budget`: a budget without a limit"),
        ("1000", "`budget`: found `1000`, which YAML takes for a number, expected a mapping"),
        ("{reads_per_minute: 5}", "`budget`: unknown key `reads_per_minute`"),
        (
            "{reads_per_hour: 0}",
            "`reads_per_hour`: found `0`, which YAML takes for a number, expected a whole number from 1 to 1000000000",
        ),
        ("{reads_per_day: many}", "`reads_per_day`: found `many`, expected a whole number from 1 to 1000000000"),
        (
            "{reads_per_day: 5, reserve_percent: 91}",
            "`reserve_percent`: found `91`, which YAML takes for a number, expected a whole number from 0 to 90",
        ),
    ],
)
def test_a_mistake_in_a_budget_has_its_line(text: str, message: str) -> None:
    """What was found and what was expected."""
    with pytest.raises(ConfigError) as caught:
        budget(text)
    assert str(caught.value) == f"broker.yaml:3: {message}"
