"""A write of one field drops copies of everything that the same secret has."""

import dataclasses
from pathlib import Path

import pytest
from desk_workbench import NOW, DeskBench
from writing_workbench import bench_in

from broker_worker.core.configuration import SecretEntry
from broker_worker.ports import Fetched, WriteNote


@pytest.fixture
def bench(tmp_path: Path) -> DeskBench:
    """A desk at which claude may write."""
    return bench_in(tmp_path)


async def test_the_whole_is_dropped_with_a_field(bench: DeskBench) -> None:
    """From memory, and with what the sealed cache would restore."""
    desk, whole = bench.desk, "aws-sm://db"
    origin = desk.configuration.registry["openai.api_key"].origin
    entries = (
        SecretEntry("db.password", f"{whole}#password", None, origin),
        SecretEntry("db.all", whole, None, origin),
    )
    configuration = dataclasses.replace(desk.configuration, registry={entry.name: entry for entry in entries})
    desk.keep(whole, Fetched(b"{}", "v1"), 600_000)
    note = WriteNote("ab" * 16, "written", "db.password", f"{whole}#password", NOW, version="v2")
    bench.affairs.superseding.note(note, configuration, NOW)
    assert bench.cache.get(whole, 600_000, NOW) is None
    assert bench.affairs.leases.written_at(whole) == NOW
