"""Budgets and refusals over real processes: all workers of a home together, and those that come after them."""

import asyncio
import json
import sys
from pathlib import Path

from click.testing import CliRunner
from desk_workbench import write_files

from broker_worker.cli import main
from broker_worker.settings import Settings

_SCRIPT = Path(__file__).with_name("vault_process.py")


async def asking(home: Path, failure: str, attempts: int) -> tuple[int, str]:
    """A process that asks: how often it reached the vault, and why not otherwise."""
    folder = Settings(home=home).vault_states_dir
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(_SCRIPT), str(folder), failure, str(attempts), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    calls, why = output.decode().split("\n")[-2].split()
    return int(calls), why


def listed(home: Path) -> dict[str, object]:
    """What `secret-broker providers` says of it."""
    write_files(
        home / "config", broker="provider: {type: onepassword, budget: {reads_per_hour: 100}}", registry="secrets: {}"
    )
    (home / "state" / "vaults" / "op.json").rename(home / "state" / "vaults" / "onepassword.json")
    result = CliRunner().invoke(main, ["--home", str(home), "providers", "--json"])
    assert result.exit_code == 0, result.output
    found: dict[str, object] = json.loads(result.output)
    return found


async def test_processes_together_keep_to_one_budget(tmp_path: Path) -> None:
    """Three that ask for fifty each reach the vault a hundred times; one that starts later does not any more."""
    outcomes = await asyncio.gather(*(asking(tmp_path, "", 50) for _ in range(3)))
    assert sum(calls for calls, _ in outcomes) == 100
    assert "over_budget" in {why for _, why in outcomes}
    assert await asking(tmp_path, "", 3) == (0, "over_budget")
    budget = listed(tmp_path)["budget"]
    assert isinstance(budget, dict)
    assert budget["hour"]["left"] == 0


async def test_a_crash_loop_with_a_bad_token_tries_it_once(tmp_path: Path) -> None:
    """However often a worker is started again within the minute, and however many of them there are."""
    assert await asking(tmp_path, "unauthenticated", 20) == (1, "unauthenticated")
    outcomes = await asyncio.gather(*(asking(tmp_path, "unauthenticated", 20) for _ in range(2)))
    assert outcomes == [(0, "unauthenticated")] * 2
    found = listed(tmp_path)
    assert (found["ok"], found["state"], found["kind"], found["why"]) == (
        False,
        "left alone",
        "unauthenticated",
        "made up",
    )
