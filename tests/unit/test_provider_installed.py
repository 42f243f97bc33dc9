"""Provider types of other packages: found by name, imported only when configured; a failure says whose it is."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from installed_packages import install, install_example

from broker_worker.core.configuration import CacheSettings, Configuration, ProviderSettings, SecretEntry
from broker_worker.core.errors import ConfigError
from broker_worker.core.policy import Origin, Policy
from broker_worker.providers.env import EnvProvider
from broker_worker.providers.options import Surroundings
from broker_worker.providers.plugin import ProviderKind
from broker_worker.providers.schemes import check_configuration, make_providers

KIND = """
from broker_worker.providers.plugin import FailureKind, Health, ProviderError, ProviderKind

class Keys:
    name = "keys"
    async def get_many(self, refs): return {{}}
    async def put(self, ref, value, *, expected=None): return None
    async def health(self): return Health(True, "well")
    async def close(self): pass

KIND = ProviderKind("keys://NAME", {check}, ("path",), {make})
"""
GOOD = KIND.format(check="str.islower", make="lambda options, around: Keys()")
AROUND = Surroundings(Path("/v"), Path("/k"), lambda path: bytes(32), {}, lambda: 0)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed packages; what was imported from it is forgotten in the end."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    before = set(sys.modules)
    yield site
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(site)):
            del sys.modules[name]


def section(kind: str, **options: Any) -> ProviderSettings:
    """A section of `broker.yaml`."""
    return ProviderSettings(kind, options, Origin("broker.yaml", 4))


def refusal(kind: str, **options: Any) -> ConfigError:
    """What is said of a section."""
    with pytest.raises(ConfigError) as caught:
        make_providers([section(kind, **options)], AROUND)
    assert str(caught.value).startswith(f"broker.yaml:4: provider {kind}: ")
    assert caught.value.hint
    assert caught.value.__context__ is None
    return caught.value


def with_references(kind: str, *references: str) -> Configuration:
    """A configuration with one section and a secret for each reference."""
    lines = [(f"s{n}", ref, Origin("secrets.yaml", n + 2)) for n, ref in enumerate(references)]
    entries = {name: SecretEntry(name, ref, None, origin) for name, ref, origin in lines}
    return Configuration(Policy({}), entries, CacheSettings(), (), (section(kind),), digest="")


def test_a_type_of_a_package_serves_the_scheme_of_its_name(site: Path) -> None:
    """The entry point's name is the type in `broker.yaml` and the scheme."""
    install(site, "broker-keys", {"keys": "broker_keys:KIND"}, broker_keys=GOOD)
    made = make_providers([section("keys", path="/x"), section("env")], AROUND)
    assert {scheme: provider.name for scheme, provider in made.items()} == {"keys": "keys", "env": "env"}


def test_only_a_configured_type_is_imported(site: Path) -> None:
    """A package that is installed and not used runs nothing of its code, and one that is broken breaks nothing."""
    install(site, "broker-keys", {"keys": "broker_keys:KIND", "more": "broker_more:KIND"}, broker_keys=GOOD)
    install(site, "broker-broken", {"broken": "broker_broken:KIND"}, broker_broken="raise RuntimeError")
    assert set(make_providers([section("env")], AROUND)) == {"env"}
    assert not {"broker_keys", "broker_more", "broker_broken"} & set(sys.modules)
    make_providers([section("keys")], AROUND)
    assert {"broker_keys", "broker_more", "broker_broken"} & set(sys.modules) == {"broker_keys"}


@pytest.mark.parametrize(
    ("target", "text", "says"),
    [
        ("nothing_here:KIND", "", "broker-keys 1.0 cannot be loaded: the module nothing_here is missing"),
        ("broker_keys:KIND", "", "broker-keys 1.0 cannot be loaded: AttributeError"),
        ("broker_keys:KIND", "raise RuntimeError('canary')", "broker-keys 1.0 cannot be loaded: RuntimeError"),
        ("broker_keys:KIND", "import sys; sys.exit('canary')", "broker-keys 1.0 cannot be loaded: SystemExit"),
        ("broker_keys:KIND", "KIND = (", "broker-keys 1.0 cannot be loaded: SyntaxError"),
        ("broker_keys:KIND", "KIND = 'canary'", "broker-keys 1.0 gives a str, expected a ProviderKind"),
        ("broker_keys:KIND", GOOD.replace('("path",)', '"path"'), "broker-keys 1.0 cannot be loaded: TypeError"),
        ("broker_keys:KIND", GOOD.replace("str.islower", "None"), "broker-keys 1.0 cannot be loaded: TypeError"),
        ("broker_keys:KIND", GOOD.replace('name = "keys"', 'name = "local"'), "it is no provider of this name"),
        ("broker_keys:KIND", GOOD.replace("async def health", "def health"), "it is no provider of this name"),
        ("broker_keys:KIND", GOOD.replace("Keys()", "None"), "broker-keys 1.0 made no provider: AttributeError"),
        ("broker_keys:KIND", GOOD.replace("Keys()", "1 / 0"), "broker-keys 1.0 made no provider: ZeroDivisionError"),
    ],
)
def test_a_package_that_cannot_be_used_is_named(site: Path, target: str, text: str, says: str) -> None:
    """With its version and what went wrong, but not with its own words."""
    install(site, "broker-keys", {"keys": target}, broker_keys=text)
    error = refusal("keys")
    assert says in str(error)
    assert "canary" not in str(error) + error.hint


def test_an_error_that_the_package_means_is_its_own(site: Path) -> None:
    """`Options.refuse` gives its message the section's place; a failure of another kind names the package as well."""
    refusing = KIND.format(check="str.islower", make="lambda options, around: options.path('path', None) and 1 / 0")
    install(site, "broker-keys", {"keys": "broker_keys:KIND"}, broker_keys=refusing)
    assert str(refusal("keys", path="relative")) == "broker.yaml:4: provider keys: path is not an absolute path"
    assert refusal("keys", pth="/x").hint == "did you mean 'path'?"
    failing = "def make(options, around): raise ProviderError(FailureKind.UNKNOWN, 'no daemon')\n" + KIND.format(
        check="str.islower", make="make"
    )
    install(site, "broker-other", {"other": "broker_other:KIND"}, broker_other=failing)
    assert "broker-other 1.0 made no provider: no daemon" in str(refusal("other"))


@pytest.mark.parametrize("kind", ["local", "env", "onepassword"])
def test_a_built_in_type_stays_built_in(site: Path, kind: str) -> None:
    """Who offers one of its name is named, and only where that type is configured."""
    install(site, "broker-shadow", {kind: "broker_shadow:KIND"}, broker_shadow=GOOD)
    assert "broker-shadow 1.0 offers this built-in type as well" in str(refusal(kind))
    other = "env" if kind != "env" else "local"
    assert set(make_providers([section(other)], AROUND)) == {other}
    assert "broker_shadow" not in sys.modules


def test_a_built_in_scheme_cannot_be_offered(site: Path) -> None:
    """`op` is a scheme here, so it is nobody's type."""
    install(site, "broker-shadow", {"op": "broker_shadow:KIND", "Bad Name": "broker_shadow:KIND"}, broker_shadow=GOOD)
    for kind in ("op", "Bad Name"):
        assert "there is no such type" in str(refusal(kind))
    assert "broker_shadow" not in sys.modules


def test_two_packages_of_one_type_are_both_named(site: Path) -> None:
    """Which of the two is meant is the operator's to say."""
    install(site, "broker-keys", {"keys": "broker_keys:KIND"}, broker_keys=GOOD)
    install(site, "keys-again", {"keys": "broker_keys:KIND"})
    message = str(refusal("keys"))
    assert "broker-keys 1.0" in message
    assert "keys-again 1.0" in message
    assert "broker_keys" not in sys.modules


def test_an_unknown_type_is_answered_with_what_is_installed(site: Path) -> None:
    """The nearest, built in or not."""
    install(site, "broker-keys", {"keepass": "broker_keys:KIND"}, broker_keys=GOOD)
    assert refusal("keepas").hint == "did you mean 'keepass'?"
    assert "keepass" in refusal("quite-another").hint


def test_references_are_checked_by_the_package(site: Path) -> None:
    """With the line of the registry; the reference is not repeated, and who says so is named."""
    install(site, "broker-keys", {"keys": "broker_keys:KIND"}, broker_keys=GOOD)
    check_configuration(with_references("keys", "keys://fine", "env://X"))
    with pytest.raises(ConfigError) as caught:
        check_configuration(with_references("keys", "keys://fine", "keys://C4NARY"))
    assert str(caught.value) == "secrets.yaml:3: secret `s1`: the reference is not of the form keys://NAME"
    assert caught.value.hint == "so says broker-keys 1.0"


@pytest.mark.parametrize("check", ["lambda path: 1 / 0", "lambda path: 'yes'", "lambda path: None"])
def test_a_check_that_does_not_say_yes_says_no(site: Path, check: str) -> None:
    """Whatever a check does other than answer True refuses the reference."""
    text = KIND.format(check=check, make="lambda options, around: Keys()")
    install(site, "broker-keys", {"keys": "broker_keys:KIND"}, broker_keys=text)
    with pytest.raises(ConfigError, match=r"secrets.yaml:2: secret `s0`: ") as caught:
        check_configuration(with_references("keys", "keys://C4NARY"))
    assert "broker-keys 1.0" in str(caught.value) + caught.value.hint
    assert "C4NARY" not in str(caught.value) + str(caught.value.__context__)


def test_the_example_is_as_short_as_it_is_said_to_be(site: Path) -> None:
    """At most 60 lines, whose kind is what the packaging says."""
    install_example(site)
    assert len((site / "broker_mounted.py").read_text().splitlines()) <= 60
    made = make_providers([section("mounted", folder="/run/secrets")], AROUND)
    assert made["mounted"].name == "mounted"


def test_a_kind_checks_itself() -> None:
    """What is no kind fails where its author sees it."""
    with pytest.raises(TypeError, match="expected functions"):
        ProviderKind("x://", True, (), lambda options, around: EnvProvider({}))  # type: ignore[arg-type]  # the point
