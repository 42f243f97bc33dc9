"""What a write to one field of an item or a secret means for leases on its other fields."""

import dataclasses
from pathlib import Path

import pytest
from desk_workbench import NOW, DeskBench
from writing_workbench import ask, bench_in

from agent_sdk.wire.messages import Renew
from broker_worker.core.configuration import Configuration
from broker_worker.core.places import changes_with, is_older
from broker_worker.ports import Fetched, WriteNote

HELD, WRITTEN = "openai.api_key", "made.written"


@pytest.fixture
def bench(tmp_path: Path) -> DeskBench:
    """A desk at which claude may write."""
    return bench_in(tmp_path)


def placed(bench: DeskBench, held: str, written: str) -> Configuration:
    """Files in which two names have these places."""
    desk = bench.desk
    entry = desk.configuration.registry[HELD]
    entries = (dataclasses.replace(entry, ref=held), dataclasses.replace(entry, name=WRITTEN, ref=written))
    desk.configuration = dataclasses.replace(desk.configuration, registry={each.name: each for each in entries})
    return desk.configuration


async def outcome(
    bench: DeskBench, held: str, written: str, *versions: str | None, late_ms: int = 0
) -> tuple[int, str]:
    """How many notices there are after a write beside a lease, and what comes of renewing it."""
    configuration, run = placed(bench, held, written), bench.run("codex")
    before, after = versions
    bench.clock.time = NOW + late_ms
    bench.desk.keep(held, Fetched(b"value", before), 600_000)
    lease = (await bench.ask_one(run, HELD)).lease
    assert lease is not None
    note = WriteNote("ab" * 16, "written", WRITTEN, written, NOW, version=after)
    letters = bench.affairs.superseding.note(note, configuration, bench.clock.time)
    return len(letters), (await ask(bench, run, Renew(lease))).outcome


@pytest.mark.parametrize(
    ("held", "written"),
    [
        ("connect://Agents/db/user", "connect://Agents/db/password"),
        ("op://Agents/DB/user", "op://agents/db/Login/password"),
        ("aws-sm://db#user", "aws-sm://db#password"),
        ("aws-sm://db?stage=AWSCURRENT#user", "aws-sm://db#password"),
        ("vault://secret/db#user", "vault://secret/db#password"),
    ],
)
async def test_a_field_beside_the_written_one_is_told_and_not_renewed(
    bench: DeskBench, held: str, written: str
) -> None:
    """Its version changed with the item's: what the run holds is of an older one."""
    assert await outcome(bench, held, written, "7", "8") == (1, "refused")


@pytest.mark.parametrize(
    ("held", "written", "versions"),
    [
        ("connect://Agents/other/user", "connect://Agents/db/password", ("7", "8")),
        ("op://Agents/db/user", "op://Agents/db/password", (None, None)),
        ("vault://secret/db?version=7#user", "vault://secret/db#password", ("7", "8")),
        ("aws-sm://db?version=0123456789abcdef0123456789abcdef#user", "aws-sm://db#password", ("v7", "v8")),
        ("aws-ssm:///db:7", "aws-ssm:///db", ("7", "8")),
    ],
)
async def test_what_did_not_change_goes_on(
    bench: DeskBench, held: str, written: str, versions: tuple[str | None, str | None]
) -> None:
    """Another item, a field whose vault tells no versions, one or one of a fixed version."""
    assert await outcome(bench, held, written, *versions) == (0, "granted")


@pytest.mark.parametrize(
    ("held", "written"),
    [
        ("vault://old/db#*", "vault://old/db#password"),
        ("aws-sm://db", "aws-sm://db#user"),
        ("aws-sm://db#user", "aws-sm://db"),
    ],
)
async def test_a_whole_changes_with_its_field_also_without_versions(bench: DeskBench, held: str, written: str) -> None:
    """And a field with the whole."""
    assert await outcome(bench, held, written, None, None) == (1, "refused")


async def test_a_newer_version_of_somebody_else_s_is_renewed(bench: DeskBench) -> None:
    """Changed in the vault itself since: it is not what was written, and not older."""
    assert await outcome(bench, "vault://kv/db#a", "vault://kv/db#a", "9", "8", late_ms=60_000) == (0, "granted")


@pytest.mark.parametrize("versions", [("7", "8"), ("v7", "v8"), (None, None)])
async def test_a_host_that_was_kept_in_the_dark_does_not_renew_what_it_served_meanwhile(
    bench: DeskBench, versions: tuple[str | None, str | None]
) -> None:
    """Leases that it opened long after the write, on its old copy, end like those from before."""
    bench.affairs.superseding.poll(bench.desk.configuration, NOW - 1_000)
    place = "connect://Agents/db/password"
    assert await outcome(bench, place, place, *versions, late_ms=120_000) == (1, "refused")


def test_versions_are_compared_only_where_they_are_counted() -> None:
    """Nothing is guessed of others."""
    assert is_older("9", "10") is True
    assert is_older("10", "9") is False
    for one, other in (("a", "10"), ("10", None), (None, "1"), ("１", "2"), ("9" * 19, "1")):  # noqa: RUF001  # no digit of ours
        assert is_older(one, other) is None
    assert not changes_with("aws-sm://db", "aws-sm://other", versioned=True)
