"""A lane that breaks: what it had goes to whoever claims it, and nothing of another lane's."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from desk_ports import LocalAdmission
from desk_workbench import DeskBench

from broker_worker.core.errors import QueueError
from broker_worker.ports import Entry
from broker_worker.queue.connection import Command
from broker_worker.worker.fetches import Fetches
from broker_worker.worker.lane import InHand, Lane
from broker_worker.worker.writes import Writes


class OneWay:
    """A connection that takes every command and answers each with an OK."""

    def send(self, commands: Sequence[Command]) -> None:
        """Take commands."""

    async def receive_many(self, count: int, _poll_us: int = 0) -> list[bytes]:
        """Answer them."""
        return [b"OK"] * count


class Lanes:
    """A desk, and what its lanes share."""

    def __init__(self, bench: DeskBench) -> None:
        self.bench = bench
        self.in_hand = InHand()
        self._fetches = Fetches({"local": bench.vault}, bench.desk.keep)
        self._writes = Writes({"local": bench.vault}, self._fetches.done)
        self._known = bench.run()

    async def serve(self, *entries: Entry, breaks: bool = False, before_release: Any = None) -> None:
        """Serve entries over a lane of their own."""
        connection: Any = OneWay()
        lane: Any = Lane(connection, self.bench.desk, self._fetches, self._writes, self.in_hand, self.bench.clock)
        lane.admission = LocalAdmission(self.bench.clock.monotonic_us)
        lane.admission.is_away = breaks
        await lane.serve(entries, before_release=before_release)

    async def entry(self, name: str = "openai.api_key") -> Entry:
        """A request of a run that is known."""
        if not self.bench.sink.records:
            await self.bench.ask(self._known, "openai.api_key")
        return self.bench.entry(self._known, None, name)

    @property
    def held(self) -> set[bytes]:
        """The ids of the entries in hand."""
        return {entry_id for _, entry_id in self.in_hand.keys()}  # noqa: SIM118  # it is no dict


@pytest.fixture
def lanes(tmp_path: Path) -> Lanes:
    """Lanes of a desk with a vault."""
    return Lanes(DeskBench(tmp_path))


async def test_a_lane_that_breaks_puts_down_its_own_only(lanes: Lanes) -> None:
    """What the other lane is about to answer is not claimed and answered once more."""
    ours, theirs = await lanes.entry(), await lanes.entry()
    held_meanwhile = set[bytes]()

    async def break_the_other() -> None:
        with pytest.raises(QueueError):
            await lanes.serve(theirs, breaks=True)
        held_meanwhile.update(lanes.held)

    await lanes.serve(ours, before_release=break_the_other)
    assert held_meanwhile == {ours.entry_id}
    assert not lanes.held


async def test_a_lane_that_breaks_keeps_what_waits_to_be_proved(lanes: Lanes) -> None:
    """A stranger's message that is not opened yet is not read anew by the worker that has it."""
    strangers = [lanes.bench.entry(lanes.bench.run(), None, "openai.api_key") for _ in range(3)]
    with pytest.raises(QueueError):
        await lanes.serve(*strangers, breaks=True)
    assert lanes.held == {entry.entry_id for entry in strangers[1:]}


async def test_a_lane_that_breaks_keeps_what_waits_for_a_vault(lanes: Lanes) -> None:
    """It is answered when the vault gave the value, over any connection."""
    waits = await lanes.entry("anthropic.api_key")
    await lanes.serve(waits)
    with pytest.raises(QueueError):
        await lanes.serve(await lanes.entry(), breaks=True)
    assert lanes.held == {waits.entry_id}


async def test_what_a_defect_keeps_from_being_opened_is_put_down(lanes: Lanes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else could claim what a worker says it works on."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    entry = await lanes.entry()
    monkeypatch.setattr(lanes.bench.desk.opener, "open", fail)
    with pytest.raises(ZeroDivisionError):
        await lanes.serve(entry)
    assert not lanes.held
