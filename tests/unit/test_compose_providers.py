"""How providers are wired: each wrapped once, with its budget, its credential and the secrets that are critical."""

from pathlib import Path

import pytest
from desk_workbench import write_files
from fake_vault import FakeVault

from broker_worker.app import vaults
from broker_worker.app.clock import SystemClock
from broker_worker.app.reloading import _keeps_less
from broker_worker.app.vaults import CriticalReferences, providers_of
from broker_worker.core.configuration import Configuration
from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.files.configuration import load_configuration
from broker_worker.ports import Fetched
from broker_worker.settings import Settings

BROKER = "provider: {type: env, budget: {reads_per_hour: 10, reserve_percent: 50}}"
REFS = [f"env://K{number}" for number in range(20)]


def loaded(folder: Path, critical: str, max_stale: str = "0", broker: str = BROKER) -> Configuration:
    """Files whose twenty secrets are in the environment; one of them is critical."""
    lines = "".join(
        f"  k.n{n}: {{ref: 'env://K{n}', critical: {'true' if ref == critical else 'false'}, max_stale: {max_stale}}}\n"
        for n, ref in enumerate(REFS)
    )
    policy = "agents: {claude: {allow: [{pattern: k.**}]}}"
    return load_configuration(
        write_files(folder / "config", broker=broker, registry=f"secrets:\n{lines}", policy=policy)
    )


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A home, with a value for each reference."""
    for ref in REFS:
        monkeypatch.setenv(ref.removeprefix("env://"), "value")
    return Settings(home=tmp_path)


async def test_the_files_decide_what_is_read_and_what_is_critical(settings: Settings) -> None:
    """The budget of the section, its reserve for the entry that says so; a reload makes another one critical."""
    configuration = loaded(settings.home, REFS[19])
    critical = CriticalReferences(configuration)
    provider = providers_of(configuration, settings, SystemClock(), critical)["env"]
    answers = await provider.get_many(REFS)
    assert [ref for ref in REFS if isinstance(answers[ref], Fetched)] == [*REFS[:4], REFS[19]]
    over = answers[REFS[5]]
    assert isinstance(over, ProviderError)
    assert over.kind is FailureKind.OVER_BUDGET
    critical.replace(loaded(settings.home, REFS[7]))
    assert isinstance((await provider.get_many([REFS[7]]))[REFS[7]], Fetched)
    with pytest.raises(ProviderError):
        await provider.get_many([REFS[19]])
    assert (settings.vault_states_dir / "env.json").exists()


async def test_the_next_process_goes_on_with_the_same_budget(settings: Settings) -> None:
    """Here another set of providers on the same home."""
    configuration = loaded(settings.home, "")
    for expected in (5, 0):
        provider = providers_of(configuration, settings, SystemClock())["env"]
        try:
            answers = await provider.get_many(REFS)
        except ProviderError:
            answers = {}
        assert sum(isinstance(answer, Fetched) for answer in answers.values()) == expected
        await provider.close()


def test_a_provider_of_two_schemes_is_wrapped_once(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its breaker, budget and turns are those of one vault."""
    vault = FakeVault(name="env")
    monkeypatch.setattr(vaults, "make_providers", lambda sections, around: {"one": vault, "two": vault})
    found = providers_of(loaded(settings.home, ""), settings, SystemClock())
    assert found["one"] is found["two"]


@pytest.mark.parametrize(("before", "after", "less"), [("1h", "0", True), ("1h", "5m", True), ("1h", "2h", False)])
def test_a_reload_that_allows_less_staleness_forgets_values(
    tmp_path: Path, before: str, after: str, less: bool
) -> None:
    """Nothing stays in memory for longer than an entry now allows; otherwise a reload costs no reads."""
    assert _keeps_less(loaded(tmp_path, "", before), loaded(tmp_path, "", after)) is less
