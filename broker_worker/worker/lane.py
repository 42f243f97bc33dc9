"""A lane: one connection over which entries come in, pass the desk and are answered.

A worker has three. Two main lanes take turns at the streams of active agents: while the answers of one are synced and
written, the other reads what came in meanwhile and computes. The side lane carries what must not wait for that: answers
whose values were fetched, entries of agents that are not watched, and what a dead worker left.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

from broker_worker.pipeline import Desk
from broker_worker.pipeline.writing import Writer
from broker_worker.ports import Answer, Clock, Entry
from broker_worker.queue.admission import QueueAdmission
from broker_worker.queue.connection import Command, QueueConnection
from broker_worker.queue.streams import ReplyWriter, check_replies
from broker_worker.worker.fetches import Fetches
from broker_worker.worker.writes import Writes

FEW = 4
"""After a larger batch nothing is looked for: under load the processor is needed by the server and by agents."""


class InHand:
    """The entries that this worker has taken and not yet finished."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, bytes], Entry] = {}
        self.is_empty = asyncio.Event()
        self.is_empty.set()

    def take(self, entries: Iterable[Entry]) -> None:
        """These are ours until they are put down."""
        for entry in entries:
            self._entries[entry.agent_id, entry.entry_id] = entry
        if self._entries:
            self.is_empty.clear()

    def put_down(self, entries: Iterable[Entry]) -> None:
        """These are finished, or to be claimed by whoever comes next."""
        for entry in entries:
            self._entries.pop((entry.agent_id, entry.entry_id), None)
        if not self._entries:
            self.is_empty.set()

    def keys(self) -> set[tuple[str, bytes]]:
        """Agent and entry id of all of them."""
        return set(self._entries)

    def older_than(self, received_us: int) -> list[Entry]:
        """Those that were read before a time on the monotonic clock."""
        return [entry for entry in self._entries.values() if entry.received_us < received_us]


class Lane:
    """Serves entries over one connection.

    Args:
        connection: an open connection that only this lane uses.
        desk: the gate.
        fetches: takes the requests that wait for a vault.
        writes: takes the requests that write to one.
        in_hand: the worker's unfinished entries.
        clock: the time.
        poll_us: how long to look for the replies to few answers again and again, before it sleeps, microseconds.
    """

    def __init__(
        self,
        connection: QueueConnection,
        desk: Desk,
        fetches: Fetches,
        writes: Writes,
        in_hand: InHand,
        clock: Clock,
        poll_us: int = 0,
    ) -> None:
        self.connection = connection
        self.poll_us = poll_us
        self._were_few = False
        self._desk = desk
        self._fetches = fetches
        self._writes = writes
        self._in_hand = in_hand
        self._clock = clock
        self.admission = QueueAdmission(connection)
        self._writer = ReplyWriter()

    async def serve(
        self,
        entries: Sequence[Entry],
        then: Callable[[], Command] | None = None,
        before_release: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Run entries through the desk and send what is settled.

        Args:
            entries: as read; they are in hand until they are answered.
            then: gives a command to send in the same write; its reply is left to be received.
            before_release: called when everything is decided and computed, before it is synced and sent.

        Raises:
            QueueError: if the connection broke; unanswered entries are put down, to be claimed again.
        """
        self._in_hand.take(entries)
        opened = None
        try:
            opened = self._desk.open(entries)
            served = await self._desk.serve(opened, self.admission, before_release)
        except BaseException:
            self._in_hand.put_down(entries if opened is None else opened.entries)
            raise
        self._fetches.add(served.waiting)
        self._writes.add(served.writes)
        await self.answer(served.answers, then)

    async def answer_fetched(self) -> None:
        """Settle and send what the vaults gave.

        Raises:
            QueueError: if the connection broke; unanswered entries are put down, to be claimed again.
        """
        ready = self._fetches.take_ready()
        if ready:
            try:
                answers = await self._desk.resume(ready, self.admission)
            except BaseException:
                self._in_hand.put_down([each.ask.entry for each in ready])
                raise
            await self.answer(answers)

    async def carry_writes(self, writer: Writer) -> None:
        """Begin the writes whose values are there, and send what came of those that have an outcome.

        Raises:
            QueueError: if the connection broke; unanswered entries are put down, to be claimed again.
        """
        made = self._writes.take_made()
        if made:
            try:
                begun, answers = await writer.begin(made, self.admission)
            except BaseException:
                self._writes.drop(made)
                self._in_hand.put_down([each.ask.entry for each in made])
                raise
            self._writes.start(begun)
            self._writes.drop([each for each in made if each not in begun])
            await self.answer(answers)
        finished = self._writes.take_finished()
        if finished:
            self._writes.drop(finished)
            await self.answer(writer.finish(finished))

    async def answer(self, answers: Sequence[Answer], then: Callable[[], Command] | None = None) -> None:
        """Send answers and acknowledge their entries.

        Raises:
            QueueError: if the connection broke or the server refused a write.
        """
        commands = self._writer.commands(answers, self._clock.now())
        try:
            self.connection.send(commands if then is None else [*commands, then()])
            are_few = 0 < len(answers) <= FEW
            poll_us = self.poll_us if are_few and self._were_few else 0
            self._were_few = are_few
            check_replies(commands, await self.connection.receive_many(len(commands), poll_us))
        finally:
            self._in_hand.put_down([answer.entry for answer in answers])
