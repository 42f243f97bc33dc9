"""The breaker of a vault, its budget and its own time, as functions of values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import json

from broker_worker.core.budget import DAY_MS, HOUR_MS, Budget
from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.core.vault_state import (
    FAILURES_TO_OPEN,
    PROBE_MS,
    Moment,
    VaultState,
    admit,
    after_failure,
    after_success,
    breaker_of,
    new_state,
    time_in,
)

WALL = 1_800_000_000_000
AWAY = ProviderError(FailureKind.UNREACHABLE, "away", hint="look")
REFUSED = ProviderError(FailureKind.UNAUTHENTICATED, "refused", hint="new token")
LIMITED = ProviderError(FailureKind.RATE_LIMITED, "slow down")


class Vault:
    """A state and a clock that a test turns."""

    def __init__(self) -> None:
        self.ms = 0
        self.state = new_state(self.moment, bytes(16))

    @property
    def moment(self) -> Moment:
        return Moment(WALL + self.ms, self.ms, "boot")

    def ask(self, *costs: int, **how: object) -> int | ProviderError:
        self.state, outcome = admit(self.state, self.moment, costs or (1,), **how)  # type: ignore[arg-type]  # as given
        return outcome

    def wait(self) -> int | None:
        """How long it is left alone; None if it may be asked."""
        outcome = admit(self.state, self.moment, (1,))[1]
        return outcome.retry_after if isinstance(outcome, ProviderError) else None

    def fail(self, error: ProviderError = AWAY, credential: str = "") -> None:
        self.state = after_failure(self.state, self.moment, error, credential)


def test_a_vault_that_was_never_asked_is_asked() -> None:
    """And nothing is noted by that where there is no budget."""
    vault = Vault()
    before = vault.state
    assert vault.ask() == 1
    assert vault.state is before
    assert breaker_of(before, vault.moment) == "closed"


def test_failures_in_a_row_open_it_and_one_call_tries_again() -> None:
    """Until then it is asked; afterwards it waits, lets one try, and closes when that succeeds."""
    vault = Vault()
    for _ in range(FAILURES_TO_OPEN - 1):
        vault.fail()
        assert vault.wait() is None
    vault.fail()
    assert (vault.wait(), breaker_of(vault.state, vault.moment)) == (1_000, "open")
    vault.ms += 999
    assert vault.wait() == 1
    vault.ms += 1
    assert breaker_of(vault.state, vault.moment) == "half-open"
    assert vault.ask() == 1
    assert isinstance(vault.ask(), ProviderError), "a second one tried at the same time"
    vault.state = after_success(vault.state, vault.moment)
    assert [vault.ask(), vault.ask()] == [1, 1]


def test_waits_double_up_to_a_minute() -> None:
    """A call that tries and fails opens it again at once, for longer."""
    vault, waits = Vault(), []
    for _ in range(FAILURES_TO_OPEN - 1):
        vault.fail()
    for _ in range(8):
        vault.fail()
        waits.append(vault.wait())
        vault.ms += vault.wait() or 0
        assert vault.ask() == 1
    assert waits == [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]


@pytest.mark.parametrize("error", [REFUSED, LIMITED], ids=lambda error: str(error.kind))
def test_a_refusal_opens_it_at_once_for_a_minute_up_to_an_hour(error: ProviderError) -> None:
    """A bad token is tried about once an hour in the end."""
    vault, waits = Vault(), []
    for _ in range(8):
        vault.fail(error)
        waits.append(vault.wait())
        vault.ms += vault.wait() or 0
        assert vault.ask() == 1
    assert waits == [60_000 * factor for factor in (1, 2, 4, 8, 16, 32, 60, 60)]


def test_a_refusal_of_a_vault_that_nobody_rations_waits_like_an_outage() -> None:
    """At once, but only up to a minute: a key that was put right is noticed soon."""
    vault, waits = Vault(), []
    for _ in range(8):
        vault.state = after_failure(vault.state, vault.moment, REFUSED, is_rationed=False)
        waits.append(vault.wait())
        vault.ms += vault.wait() or 0
        assert vault.ask() == 1
    assert waits == [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]


def test_a_vault_that_says_for_how_long_is_believed_up_to_a_day() -> None:
    """To the millisecond, so that a read which waits for it is the one that tries."""
    for named, waits in ((5_000, 5_000), (1, 1), (0, 1), (10 * DAY_MS, DAY_MS)):
        vault = Vault()
        vault.fail(ProviderError(FailureKind.RATE_LIMITED, "slow down", retry_after=named))
        assert vault.wait() == waits


def test_calls_that_fail_together_wait_once() -> None:
    """What was under way when it opened changes nothing, unless it found out something worse."""
    vault = Vault()
    for _ in range(FAILURES_TO_OPEN + 5):
        vault.fail()
    assert vault.wait() == 1_000
    vault.fail(REFUSED)
    assert vault.wait() == 60_000
    vault.fail(AWAY)
    vault.fail(REFUSED)
    assert vault.wait() == 60_000


def test_another_credential_ends_the_wait_of_a_refused_one() -> None:
    """The same one does not, and one that is not known does not either."""
    vault = Vault()
    vault.fail(REFUSED, "0123")
    assert isinstance(vault.ask(credential="0123"), ProviderError)
    assert isinstance(vault.ask(credential=""), ProviderError)
    assert vault.ask(credential="4567") == 1
    assert vault.state.trouble is None


def test_a_call_that_tries_and_never_ends_is_followed_by_another() -> None:
    """Its process may have died."""
    vault = Vault()
    vault.fail(REFUSED)
    vault.ms += 60_000
    assert vault.ask() == 1
    vault.ms += PROBE_MS - 1
    assert vault.wait() == 1
    vault.ms += 1
    assert vault.ask() == 1


@pytest.mark.parametrize(
    "kind", [FailureKind.NOT_FOUND, FailureKind.FORBIDDEN, FailureKind.READ_ONLY, FailureKind.CONFLICT]
)
def test_an_answer_that_nobody_likes_is_an_answer(kind: FailureKind) -> None:
    """A vault that says no serves."""
    vault = Vault()
    vault.fail()
    vault.fail(ProviderError(kind, "no"))
    assert vault.state.trouble is None


def test_as_many_references_as_the_budget_allows() -> None:
    """The longest beginning that fits; none fits: why, and until when."""
    vault, budget = Vault(), Budget(10, None, 20)
    assert vault.ask(3, 5, 7, 9, budget=budget) == 3
    outcome = vault.ask(2, 3, budget=budget)
    assert isinstance(outcome, ProviderError)
    assert outcome.kind is FailureKind.OVER_BUDGET
    assert (
        str(outcome) == "the budget of reads is used up: 8 an hour, 20 % of the budget being kept for critical secrets"
    )
    assert outcome.retry_after is not None
    assert vault.ask(2, 3, 4, budget=budget, critical=True) == 2
    vault.ms += outcome.retry_after
    assert vault.ask(2, 3, budget=budget) == 2


def test_a_call_that_may_not_be_made_costs_nothing() -> None:
    """Neither reads nor the chance to try."""
    vault, budget = Vault(), Budget(10, None, 0)
    vault.fail(REFUSED)
    assert isinstance(vault.ask(1, budget=budget), ProviderError)
    vault.ms += 60_000
    assert isinstance(vault.ask(11, budget=budget), ProviderError)
    assert vault.state.reads == {}
    assert vault.ask(1, budget=budget) == 1


CLOCK_STEPS = st.lists(
    st.tuples(st.integers(0, 2 * HOUR_MS), st.integers(-400 * DAY_MS, 400 * DAY_MS), st.integers(1, 5)), max_size=30
)


@given(CLOCK_STEPS)
def test_setting_the_clock_neither_refills_a_budget_nor_blocks_it(steps: list[tuple[int, int, int]]) -> None:
    """Within one boot, whatever people do to the wall clock, the same reads are admitted as if they had not."""

    def admitted(*, is_set: bool) -> list[bool]:
        state, elapsed, shift, found = new_state(Moment(WALL, 500, "b"), b""), 0, 0, []
        for later, step, cost in steps:
            elapsed, shift = elapsed + later, shift + step if is_set else 0
            moment = Moment(max(0, WALL + elapsed + shift), 500 + elapsed, "b")
            state, outcome = admit(state, moment, (cost,), budget=Budget(9, 20, 10))
            found.append(isinstance(outcome, int))
        return found

    assert admitted(is_set=True) == admitted(is_set=False)


@given(st.lists(st.tuples(st.integers(0, DAY_MS), st.integers(0, 2**40), st.booleans()), max_size=20))
def test_time_never_goes_back_and_never_runs_ahead_over_restarts(steps: list[tuple[int, int, bool]]) -> None:
    """Also where nothing tells boots apart: a host that was restarted counts less time than passed, never more."""
    state, wall, monotonic, real = new_state(Moment(WALL, 1_000, ""), b""), WALL, 1_000, WALL
    for elapsed, uptime, is_restart in steps:
        wall, real = wall + elapsed, real + elapsed
        monotonic = min(uptime, elapsed) if is_restart else monotonic + elapsed
        moment = Moment(wall, monotonic, "")
        now = time_in(state, moment)
        assert state.at <= now <= real
        state = VaultState(now, moment, "")


@given(st.lists(st.sampled_from([AWAY, REFUSED, LIMITED, None]), max_size=12), st.integers(0, HOUR_MS))
def test_a_state_survives_its_file(outcomes: list[ProviderError | None], later: int) -> None:
    """What is written is what is read, so a restart changes nothing."""
    vault = Vault()
    for outcome in outcomes:
        vault.ms += later
        vault.ask(2, budget=Budget(5, 9))
        if outcome is None:
            vault.state = after_success(vault.state, vault.moment)
        else:
            vault.fail(outcome, "abcd")
        assert json.decode(json.encode(vault.state), type=VaultState) == vault.state


@pytest.mark.parametrize("boot", ["boot", "another"])
def test_time_stands_still_where_a_clock_was_set_back(boot: str) -> None:
    """Else reads that were counted would be in the future, and count for longer than their hour."""
    state = VaultState(WALL, Moment(WALL, 1_000, "boot"), "")
    assert time_in(state, Moment(WALL - HOUR_MS, 500, boot)) == WALL
