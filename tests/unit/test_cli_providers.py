"""`secret-broker providers`: how the vaults are and what is left, without asking one of them."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from desk_workbench import write_files

from broker_worker.app.clock import SystemClock
from broker_worker.cli import main
from broker_worker.core.budget import Budget
from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.core.vault_state import FAILURES_TO_OPEN, admit, after_failure
from broker_worker.settings import Settings
from broker_worker.state.vault_states import VaultStates

AWAY = ProviderError(FailureKind.UNREACHABLE, "away", hint="look\x1b[2J")
REFUSED = ProviderError(FailureKind.UNAUTHENTICATED, "refused", hint="new token")
BROKER = """
    providers:
      - {type: onepassword, budget: {reads_per_hour: 100, reads_per_day: 1000, reserve_percent: 10}}
      - {type: env}
"""


@pytest.fixture
def states(tmp_path: Path) -> VaultStates:
    """The states of a home with two vaults."""
    write_files(tmp_path / "config", broker=BROKER, registry="secrets: {}")
    return VaultStates(Settings(home=tmp_path).vault_states_dir, SystemClock())


def shown(home: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["--home", str(home), "providers", *options])


def documents(home: Path, *options: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in shown(home, "--json", *options).stdout.splitlines()]


def test_vaults_that_nobody_asked_yet_serve(tmp_path: Path, states: VaultStates) -> None:
    """All of the budget is left, and looking leaves nothing behind."""
    onepassword, env = documents(tmp_path)
    assert (onepassword["ok"], onepassword["state"], onepassword["schemes"]) == (True, "serves", ["op"])
    assert onepassword["budget"]["hour"] == {"limit": 100, "left": 90, "left_for_critical": 100, "more_at": None}
    assert (env["ok"], env["budget"]) == (True, None)
    assert not Settings(home=tmp_path).vault_states_dir.exists()


def test_what_was_read_is_gone_from_both_windows(tmp_path: Path, states: VaultStates) -> None:
    """With the time at which there is more."""
    states.change("onepassword", lambda s, m: admit(s, m, (30,), budget=Budget(100, 1000, 10)))
    budget = documents(tmp_path)[0]["budget"]
    assert [budget[window]["left"] for window in ("hour", "day")] == [60, 870]
    assert budget["hour"]["left_for_critical"] == 70
    wait = budget["hour"]["more_at"] - SystemClock().now()
    assert 3_590_000 < wait <= 3_660_000
    output = shown(tmp_path).output
    assert "60 of 100 +10 critical, more in " in output
    assert "870 of 1000 +100 critical, more in 1d" in output


@pytest.mark.parametrize(
    ("failures", "state", "breaker"),
    [
        ([AWAY], "fails", "closed"),
        ([AWAY] * FAILURES_TO_OPEN, "left alone", "open"),
        ([REFUSED], "left alone", "open"),
    ],
    ids=["a failure", "an outage", "a refusal"],
)
def test_a_vault_in_trouble_says_why_and_until_when(
    tmp_path: Path, states: VaultStates, failures: list[ProviderError], state: str, breaker: str
) -> None:
    """The same for people, with what to do; whatever a text holds, a terminal obeys nothing of it."""
    for error in failures:
        states.change("onepassword", lambda s, m, error=error: (after_failure(s, m, error), None))  # type: ignore[misc]  # mypy has no type for the default
    found = documents(tmp_path)[0]
    assert (found["ok"], found["state"], found["breaker"]) == (False, state, breaker)
    assert (found["kind"], found["failures"], found["why"]) == (failures[0].kind, len(failures), str(failures[0]))
    assert (found["asked_again_at"] is not None) == (breaker == "open")
    result = shown(tmp_path)
    assert result.exit_code == 0
    assert f"onepassword: {failures[0]}, since 2" in result.output
    assert "  hint: " in result.output
    assert "\x1b" not in result.output


def test_a_state_that_cannot_be_read_is_told_with_what_follows(tmp_path: Path, states: VaultStates) -> None:
    """Of a vault with a budget only critical secrets are fetched."""
    states.change("onepassword", lambda s, m: (after_failure(s, m, AWAY), None))
    (Settings(home=tmp_path).vault_states_dir / "onepassword.json").write_text("{")
    found = documents(tmp_path)[0]
    assert (found["ok"], found["state"], found["budget"]) == (False, "unknown", None)
    assert "only critical secrets are fetched" in found["why"]
    assert "move it away" in found["hint"]


def test_a_check_asks_the_vaults(tmp_path: Path, states: VaultStates) -> None:
    """And its exit code is 1 if one does not serve: here the token is missing."""
    result = shown(tmp_path, "--check")
    assert result.exit_code == 1
    found = documents(tmp_path, "--check")
    assert [each["ok"] for each in found] == [False, True]
    assert "OP_SERVICE_ACCOUNT_TOKEN is not set" in found[0]["why"]
    assert "environment variables were read" in found[1]["asked"]
