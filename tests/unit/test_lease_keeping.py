"""A worker notes what it lends a moment after it did, and the rest when it stops."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path

import pytest
from desk_workbench import DeskBench, until
from people_desk import granted, notice, order, revoke

from broker_worker.core.leases import Holding
from broker_worker.pipeline.letters import Letter
from broker_worker.worker.lease_keeping import LeaseKeeping


class Notes:
    """Implements `ports.LeaseLog` in memory; a test puts what is to be inherited into `gone`."""

    def __init__(self) -> None:
        self.noted: list[Holding | str] = []
        self.gone: list[Holding] = []
        self.is_closed = False

    def note(self, news: Iterable[Holding | str]) -> None:
        assert not self.is_closed
        self.noted += news

    def inherit(self) -> Sequence[Holding]:
        found, self.gone = self.gone, []
        return found

    def close(self) -> None:
        self.is_closed = True


class Keeping:
    """A keeper that runs beside a desk, and the notices that it has sent."""

    def __init__(self, bench: DeskBench) -> None:
        self.log, self.letters, self.stopping = Notes(), list[Letter](), asyncio.Event()
        self.keeper = LeaseKeeping(self.log, bench.desk, self.letters.extend, bench.clock, self.stopping)


@pytest.fixture
def bench(tmp_path: Path) -> DeskBench:
    """A desk."""
    return DeskBench(tmp_path / "config")


@pytest.fixture
async def keeping(bench: DeskBench) -> AsyncIterator[Keeping]:
    """A keeper that runs until the test ends."""
    made = Keeping(bench)
    task = asyncio.create_task(made.keeper.run())
    yield made
    made.stopping.set()
    await task


async def test_what_begins_and_ends_is_noted_without_being_asked_for(bench: DeskBench, keeping: Keeping) -> None:
    """Once each, however often a lease is used."""
    run = bench.run(run_id="run-1")
    for _ in range(3):
        await granted(bench, run)
    (held,) = await until(lambda: keeping.log.noted)
    assert isinstance(held, Holding)
    assert held.run_id == "run-1"
    revoke(bench, order("run", "claude/run-1"))
    assert await until(lambda: keeping.log.noted[1:]) == [held.lease.lease_id]
    assert not bench.affairs.leases.book.news


async def test_what_was_not_noted_yet_is_when_the_worker_stops(bench: DeskBench) -> None:
    """Also what was released while it drained; then the log is left to others."""
    made = Keeping(bench)
    await granted(bench, bench.run())
    assert made.log.noted == []
    made.keeper.close()
    assert len(made.log.noted) == 1
    assert made.log.is_closed


async def test_who_holds_something_of_a_worker_that_is_gone_is_told(
    tmp_path: Path, bench: DeskBench, keeping: Keeping
) -> None:
    """What was revoked meanwhile ends with that."""
    gone = DeskBench(tmp_path / "gone")
    run = gone.run(run_id="run-1")
    await granted(gone, run)
    revoke(bench, order("run", "claude/run-1"))
    keeping.log.gone += [each for each in gone.affairs.leases.book.news if isinstance(each, Holding)]
    (letter,) = await until(lambda: keeping.letters)
    assert notice(run, letter).event == "run_revoked"
