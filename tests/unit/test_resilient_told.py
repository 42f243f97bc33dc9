"""What is said and kept of a vault in trouble: each change once, to whom it matters, and never a value."""

from pathlib import Path

from desk_workbench import ShiftedClock
from provider_conformance import CANARY, everything_said, failure_of
from resilient_workbench import AWAY, REFS, REFUSED, LendingVault, Vault, kinds
from structlog.testing import capture_logs
from vault_workbench import StateNotebook, hardened

from broker_worker.core.budget import Budget
from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.ports import Scope, ScopeReporter
from broker_worker.providers.governor import Governor
from broker_worker.providers.resilient import resilient
from broker_worker.state.vault_states import VaultStates


async def test_what_a_provider_sees_is_asked_where_it_can_tell() -> None:
    """It costs a read; other providers answer that they cannot."""
    states = StateNotebook()
    provider = hardened(LendingVault(), states, Budget(2, None, 50))
    assert isinstance(provider, ScopeReporter)
    assert await provider.visible(REFS, ()) == Scope("vaults", ("Private",), "narrow it")
    assert (await failure_of(provider.visible(REFS, ()))).kind is FailureKind.OVER_BUDGET
    assert await hardened(Vault()).visible(REFS, ()) is None


async def test_nothing_of_a_defect_is_repeated() -> None:
    """Neither in the error, nor what led to it, nor in the log."""
    vault = Vault([RuntimeError(f"it was {CANARY}")])
    with capture_logs() as lines:
        error = await failure_of(hardened(vault).get_many(REFS[:1]))
    assert CANARY not in everything_said(error) + repr(lines)
    assert [line["event"] for line in lines] == ["provider_defect", "vault_failed"]


async def test_a_vault_that_begins_to_fail_is_logged_once_and_a_refusal_each_time() -> None:
    """The operator sees what is wrong and what to do, again when the reason changes, and when it is over."""
    vault, states = Vault(), StateNotebook()
    provider = hardened(vault, states, deadline=0.5)
    odd = ProviderError(FailureKind.UNKNOWN, "odd")
    with capture_logs() as lines:
        for failure in (odd, odd, AWAY, REFUSED, REFUSED, None, None):
            vault.failure = failure
            await kinds(provider, REFS[:1])
            states.now += 3_600_000
    assert [(line["event"], line.get("kind"), line.get("hint")) for line in lines] == [
        ("vault_failed", "unknown", ""),
        ("vault_failed", "unreachable", "look"),
        ("vault_failed", "unauthenticated", "new token"),
        ("vault_failed", "unauthenticated", "new token"),
        ("vault_serves_again", None, None),
    ]


async def test_a_worker_says_what_another_found_out() -> None:
    """Once: its own log says why it does not ask."""
    states = StateNotebook()
    await kinds(hardened(Vault([REFUSED]), states), REFS[:1])
    vault = Vault()
    provider = hardened(vault, states)
    with capture_logs() as lines:
        for _ in range(3):
            assert await kinds(provider, REFS[:1]) == ["unauthenticated"]
    assert (vault.calls, len(lines)) == ([], 1)


async def test_a_budget_that_is_used_up_is_logged_once() -> None:
    """Not for every request that it costs its value."""
    provider = hardened(Vault(), StateNotebook(), Budget(2, None, 0))
    with capture_logs() as lines:
        for _ in range(5):
            await kinds(provider, REFS[:1])
    assert [line["event"] for line in lines] == ["vault_budget_used_up"]


async def test_health_does_not_ask_a_vault_that_refused_us() -> None:
    """A check that runs every minute must not burn what the breaker saves."""
    vault, states = Vault([REFUSED]), StateNotebook()
    provider = hardened(vault, states, Budget(100))
    assert (await provider.health()).ok
    await kinds(provider, REFS[:1])
    health = await provider.health()
    assert (health.ok, health.hint) == (False, "new token")
    assert "not asked again for 60 s" in health.detail


async def test_what_is_kept_on_disk_holds_neither_values_nor_references(tmp_path: Path) -> None:
    """After reads, failures and a refusal: counts, kinds and our own words."""
    folder = tmp_path / "vaults"
    vault = Vault([None, AWAY, AWAY, AWAY, REFUSED])
    vault.values[REFS[0]] = CANARY.encode()
    provider = resilient(vault, Governor("op", VaultStates(folder, ShiftedClock()), Budget(100)), backoff=0.002)
    for _ in range(3):
        await kinds(provider, REFS[:2])
    kept = (folder / "op.json").read_text()
    assert "unauthenticated" in kept
    assert CANARY not in kept
    assert "op://" not in kept
