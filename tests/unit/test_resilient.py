"""A provider whose vault is slow, down, flapping or rationed, behind what all providers have in common."""

import asyncio
from pathlib import Path

import pytest
from desk_workbench import ShiftedClock, until
from provider_conformance import CANARY, everything_said, failure_of
from resilient_workbench import AWAY, REFS, REFUSED, LendingVault, MeteredVault, Vault, kinds
from structlog.testing import capture_logs
from vault_workbench import StateNotebook, hardened

from broker_worker.core.budget import Budget
from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.core.vault_state import FAILURES_TO_OPEN
from broker_worker.ports import DynamicProvider, Fetched
from broker_worker.providers.governor import Governor
from broker_worker.providers.resilient import ATTEMPTS, BATCH, resilient
from broker_worker.providers.vault_calls import CALLS_AT_ONCE
from broker_worker.state.vault_states import VaultStates


async def test_a_thousand_who_want_one_secret_ask_once() -> None:
    """Single flight: also for who comes while it is under way; who goes away stops nobody."""
    vault = Vault()
    vault.gate = asyncio.Event()
    provider = hardened(vault)
    calls = [asyncio.create_task(provider.get_many(REFS[:1])) for _ in range(1000)]
    await until(lambda: vault.calls)
    calls += [asyncio.create_task(provider.get_many(REFS[:2])) for _ in range(10)]
    calls[0].cancel()
    await until(lambda: len(vault.calls) == 2)
    vault.gate.set()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert all(isinstance(answer, dict) and isinstance(answer[REFS[0]], Fetched) for answer in answers[1:])
    assert vault.calls == [(REFS[0],), (REFS[1],)]


async def test_a_cold_start_goes_in_batches_and_within_the_budget() -> None:
    """Five hundred references are ten calls, four at a time; what the budget does not cover is told until when."""
    vault, states = MeteredVault(), StateNotebook()
    provider = hardened(vault, states, Budget(1000, None, 0))
    assert await kinds(provider, REFS) == ["value"] * 500
    assert [len(call) for call in vault.calls] == [BATCH] * 10
    assert (vault.most, states.reads("op")) == (CALLS_AT_ONCE, 510)
    answers = await provider.get_many(REFS)
    found = [answer for answer in answers.values() if isinstance(answer, Fetched)]
    over = [answer for answer in answers.values() if isinstance(answer, ProviderError)]
    assert (len(found), len(over)) == (480, 20)
    assert states.reads("op") <= 1000
    assert {error.kind for error in over} == {FailureKind.OVER_BUDGET}
    wait = over[0].retry_after
    assert wait is not None
    states.now += wait
    assert await kinds(provider, REFS[:20]) == ["value"] * 20


async def test_critical_references_come_first_and_have_the_reserve() -> None:
    """Wherever they stand among the others."""
    vault, states = Vault(), StateNotebook()
    provider = hardened(vault, states, Budget(10, None, 50), lambda ref: ref in REFS[18:20])
    found = await kinds(provider, REFS[:20])
    assert [index for index, kind in enumerate(found) if kind == "value"] == [0, 1, 2, 18, 19]
    assert set(found) == {"value", "over_budget"}
    assert await kinds(provider, REFS[18:20]) == ["value"] * 2
    assert await kinds(provider, REFS[:1]) == ["over_budget"]


async def test_a_read_that_fails_in_passing_is_tried_again() -> None:
    """Who asked does not notice, and each attempt is counted."""
    vault, states = Vault([AWAY, ProviderError(FailureKind.TIMEOUT, "slow")]), StateNotebook()
    provider = hardened(vault, states, Budget(100))
    assert await kinds(provider, REFS[:3]) == ["value"] * 3
    assert (len(vault.calls), states.reads("op"), states.breaker("op")) == (3, 9, "closed")


@pytest.mark.parametrize(
    "failure",
    [
        REFUSED,
        ProviderError(FailureKind.FORBIDDEN, "no"),
        ProviderError(FailureKind.RATE_LIMITED, "slow down"),
        ProviderError(FailureKind.RATE_LIMITED, "slow down", retry_after=3_600_000),
        ProviderError(FailureKind.UNKNOWN, "odd"),
        RuntimeError("a defect"),
    ],
    ids=lambda error: getattr(error, "kind", type(error).__name__),
)
async def test_what_would_not_help_is_not_repeated(failure: Exception) -> None:
    """A refusal, a defect, or a vault that names a wait beyond the deadline: one call."""
    vault = Vault([failure] * 5)
    assert "value" not in await kinds(hardened(vault), REFS[:1])
    assert len(vault.calls) == 1


async def test_a_vault_that_says_when_is_asked_then(tmp_path: Path) -> None:
    """Its wait is kept to where the deadline allows it: on the host's clock, the breaker lets that very read try."""
    vault = Vault([ProviderError(FailureKind.RATE_LIMITED, "slow down", retry_after=20)])
    governor = Governor("op", VaultStates(tmp_path / "vaults", ShiftedClock()))
    assert await kinds(resilient(vault, governor), REFS[:1]) == ["value"]
    assert len(vault.calls) == 2


async def test_only_references_that_failed_in_passing_are_asked_again() -> None:
    """The others keep what they got; what does not pass keeps its own reason."""
    vault = Vault()
    vault.values[REFS[1]] = ProviderError(FailureKind.TIMEOUT, "this one is slow")
    vault.values[REFS[2]] = ProviderError(FailureKind.NOT_FOUND, "no such item")
    answers = await hardened(vault).get_many(REFS[:3])
    assert vault.calls == [tuple(REFS[:3]), *[(REFS[1],)] * (ATTEMPTS - 1)]
    assert isinstance(answers[REFS[0]], Fetched)
    assert [str(answers[ref]) for ref in REFS[1:3]] == ["this one is slow", "no such item"]


async def test_a_vault_that_is_down_is_left_alone_and_comes_back() -> None:
    """After five failures it is not asked for a second; then one call tries, and everybody is served again."""
    vault, states = Vault(), StateNotebook()
    provider = hardened(vault, states)
    vault.failure = AWAY
    assert await kinds(provider, REFS) == ["unreachable"] * 500
    made = len(vault.calls)
    assert made < FAILURES_TO_OPEN + CALLS_AT_ONCE, "not every batch need find it out"
    steps = states.steps
    error = await failure_of(provider.get_many(REFS[:1]))
    assert (len(vault.calls), error.retry_after, error.hint) == (made, 1_000, "look")
    assert states.steps == steps + 1, "whoever asks is told at once, not after trying again"
    states.now += 1_000
    vault.failure = None
    assert await kinds(provider, REFS) == ["value"] * 500
    assert states.breaker("op") == "closed"


async def test_fields_of_one_place_stay_in_one_batch() -> None:
    """A vault that makes credentials makes one for all that are asked of it at one time."""
    refs = [f"op://creds/{number}#{field}" for field in ("user", "password", "host") for number in range(30)]
    vault = Vault()
    vault.values = dict.fromkeys(refs, b"x")
    assert await kinds(hardened(vault), refs) == ["value"] * 90
    assert [len(call) for call in vault.calls] == [48, 42]
    places = [{ref.partition("#")[0] for ref in call} for call in vault.calls]
    assert places[0].isdisjoint(places[1])


async def test_one_batch_that_its_vault_chokes_on_costs_the_others_nothing() -> None:
    """Though it goes first and is tried again."""
    vault, states = Vault([AWAY] * ATTEMPTS), StateNotebook()
    found = await kinds(hardened(vault, states), REFS[:150])
    assert found == ["unreachable"] * BATCH + ["value"] * 100
    assert states.breaker("op") == "closed"


async def test_a_refusal_of_the_first_batch_spares_the_others() -> None:
    """A bad token is tried once, not ten times."""
    vault = Vault([REFUSED] * 10)
    assert await kinds(hardened(vault), REFS) == ["unauthenticated"] * 500
    assert len(vault.calls) == 1


async def test_one_reference_that_its_vault_cannot_give_costs_the_others_nothing() -> None:
    """Asked for by itself again and again, it does not open the breaker."""
    vault, states = Vault(), StateNotebook()
    vault.values[REFS[0]] = ProviderError(FailureKind.UNKNOWN, "no code could be made")
    provider = hardened(vault, states)
    for _ in range(5):
        assert await kinds(provider, REFS[:1]) == ["unknown"]
    assert states.breaker("op") == "closed"
    assert await kinds(provider, REFS[1:3]) == ["value"] * 2


async def test_a_vault_that_fails_each_reference_fails() -> None:
    """Also where its provider says so one by one."""
    vault, states = Vault(), StateNotebook()
    vault.values = dict.fromkeys(REFS[:2], ProviderError(FailureKind.RATE_LIMITED, "slow down"))
    assert await kinds(hardened(vault, states), REFS[:2]) == ["rate_limited"] * 2
    assert states.breaker("op") == "open"


async def test_a_hanging_vault_ends_at_the_deadline_and_is_left_alone() -> None:
    """Every call, also those that wait for their turn; when five have hung, it is not asked any more."""
    vault, states = Vault(), StateNotebook()
    vault.gate = asyncio.Event()
    provider = hardened(vault, states, deadline=0.05)
    found = await asyncio.gather(*(kinds(provider, [ref]) for ref in REFS[:20]))
    assert found == [["timeout"]] * 20
    assert vault.most == CALLS_AT_ONCE
    assert vault.under_way == 0
    for ref in REFS[20 : 20 + FAILURES_TO_OPEN]:
        assert await kinds(provider, [ref]) == ["timeout"]
    assert states.breaker("op") == "open"
    made = len(vault.calls)
    assert await kinds(provider, REFS[30:31]) == ["timeout"]
    assert len(vault.calls) == made


async def test_a_write_is_tried_once() -> None:
    """Whatever happens: nobody knows whether it arrived. It is counted, and a vault in trouble is not written to."""
    vault, states = Vault(), StateNotebook()
    provider = hardened(vault, states, Budget(100), deadline=0.5)

    async def hang() -> str | None:
        await asyncio.Event().wait()
        return None

    vault.putting = hang
    assert (await failure_of(provider.put(REFS[0], b"v"))).kind is FailureKind.TIMEOUT
    assert vault.puts == [REFS[0]]

    async def stored() -> str | None:
        return "8"

    vault.putting = stored
    assert await provider.put(REFS[0], b"v", expected="7") == "8"
    assert states.reads("op") == 4

    async def refuse() -> str | None:
        raise REFUSED

    vault.putting = refuse
    assert (await failure_of(provider.put(REFS[0], b"v"))).kind is FailureKind.UNAUTHENTICATED
    assert (await failure_of(provider.put(REFS[0], b"v"))).retry_after == 60_000
    assert len(vault.puts) == 3


async def test_a_credential_can_always_be_given_back() -> None:
    """Whatever the breaker and the budget say; only of a provider that takes it, which can be asked by its type."""
    vault, states = LendingVault(), StateNotebook()
    provider = hardened(vault, states, Budget(1, None, 0), deadline=0.5)
    assert isinstance(provider, DynamicProvider)
    assert not isinstance(hardened(Vault()), DynamicProvider)
    vault.failures = [REFUSED]
    await kinds(provider, REFS[:1])
    await provider.revoke("lease-1")
    assert vault.revoked == "lease-1"
    for failure, kind in ((AWAY, FailureKind.UNREACHABLE), (RuntimeError(CANARY), FailureKind.UNKNOWN)):
        vault.failure = failure
        error = await failure_of(provider.revoke("lease-2"))
        assert error.kind is kind
        assert CANARY not in everything_said(error)


async def test_a_read_that_makes_a_credential_is_not_repeated() -> None:
    """It may have made one that nobody would take back."""
    vault = LendingVault([AWAY, AWAY])
    assert await kinds(hardened(vault), REFS[:1]) == ["unreachable"]
    assert len(vault.calls) == 1


@pytest.mark.parametrize("kind", [FailureKind.CONFLICT, FailureKind.READ_ONLY, FailureKind.TOO_LARGE])
async def test_what_is_about_a_write_is_no_failure_of_the_vault(kind: FailureKind) -> None:
    """An agent that writes what is there already fills no log."""

    async def refuse() -> str | None:
        raise ProviderError(kind, "there is one already")

    vault = Vault()
    vault.putting = refuse
    with capture_logs() as lines:
        error = await failure_of(hardened(vault).put(REFS[0], b"v"))
    assert (error.kind, lines) == (kind, [])


async def test_a_name_that_is_missing_is_no_failure_of_its_vault() -> None:
    """That is in the audit, and `doctor` lists it; a log line an unknown name would be an agent's to fill."""
    with capture_logs() as lines:
        assert await kinds(hardened(Vault()), ["op://v/missing/f"]) == ["not_found"]
    assert lines == []


async def test_closing_tells_who_waits() -> None:
    """Nobody waits for a provider that is gone, and the vault's provider is closed."""
    vault = Vault()
    vault.gate = asyncio.Event()
    provider = hardened(vault)
    call = asyncio.create_task(kinds(provider, REFS[:1]))
    await until(lambda: vault.calls)
    await provider.close()
    assert await call == ["unreachable"]
    assert vault.is_closed
