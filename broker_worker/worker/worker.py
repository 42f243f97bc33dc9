"""One worker process's loops around the desk."""

import asyncio
import contextlib
import functools
import os
import random
import secrets
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from pathlib import Path

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from agent_sdk.wire import keynames
from broker_worker.core.errors import AuditError, QueueError
from broker_worker.core.hot_set import NOBODY, HotSet
from broker_worker.pipeline import Desk, records
from broker_worker.pipeline.session import start_session
from broker_worker.pipeline.writing import Writer
from broker_worker.ports import Clock, Entry, LeaseLog
from broker_worker.queue.claims import claim, hold
from broker_worker.queue.connection import Command, QueueConnection
from broker_worker.queue.streams import (
    MissingGroupError,
    check_replies,
    group_commands,
    is_far_ahead,
    is_taken,
    read_command,
    read_entries,
    trim_overfull,
)
from broker_worker.queue.upkeep import leave, mend
from broker_worker.worker.control_tail import ControlTail, ReadReport
from broker_worker.worker.fetches import Fetches
from broker_worker.worker.lane import FEW, InHand, Lane
from broker_worker.worker.lease_keeping import LeaseKeeping
from broker_worker.worker.readers import Reader, Readers
from broker_worker.worker.writes import Writes

MAIN_LANES = 2
"""One reads and computes while the other's answers are written."""
HAND_OVER = 16
"""A batch of this size or more lets the other lane read before it is released; below, the way round costs more."""
BLOCK_MS = 1_000
POLL_US = 300
"""How long a worker looks for what comes next when it serves few requests, before it sleeps, microseconds. Not where
there is only one processor (docs/adr/0040)."""
SLICES = 10
"""The sweep looks at a tenth of the agents ten times a second, so that many agents never cost one long pause."""
SLICE_SECONDS = 0.1
HOLD_AFTER_US = 1_000_000
STUCK_SECONDS = 10.0
"""A connection on which nothing came back for this long is given up."""
DRAIN_SECONDS = 8.0
HEAR_SECONDS = 3.0
_BACKOFF = (0.05, 2.0)

_log = structlog.get_logger()


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Worker:
    """Serves the request streams until it is told to stop.

    Args:
        name: this worker's name, stable over restarts.
        url: the queue, with the broker's login.
        desk: the gate.
        fetches: asks the vaults.
        writer: begins and ends writes.
        writes: has the vaults store values.
        lease_log: keeps what runs hold for the workers that come after.
        hot_set: the agents, and which of them are watched.
        identity_seed: certifies session keys.
        read_report: has an authentic report of the job process recorded.
        clock: the time.
    """

    def __init__(
        self,
        *,
        name: str,
        url: str,
        desk: Desk,
        fetches: Fetches,
        writer: Writer,
        writes: Writes,
        lease_log: LeaseLog,
        hot_set: HotSet,
        identity_seed: bytes,
        read_report: ReadReport,
        clock: Clock,
    ) -> None:
        self.consumer = f"{name}-{secrets.token_hex(4)}"
        self._name = name
        self._url = url
        self._desk = desk
        self._fetches = fetches
        self._writer = writer
        self._writes = writes
        self._hot_set = hot_set
        self._identity_seed = identity_seed
        self._clock = clock
        self._in_hand = InHand()
        self._stopping = asyncio.Event()
        self._control = Redis.from_url(url, client_name=f"{self.consumer}-control", socket_timeout=5.0)
        self._readers = Readers(self._control)
        self._desk_turn = asyncio.Lock()
        self._poll_us = POLL_US if processors() > 1 else 0
        self._ended_streams: set[str] = set()
        self._taken_names: set[str] = set()
        self._tail = ControlTail(self._control, self.consumer, desk, writer, read_report, clock, self._stopping)
        self._keeping = LeaseKeeping(lease_log, desk, self._tail.send, clock, self._stopping)
        self.ready = asyncio.Event()

    async def run(self) -> None:
        """Serve until `stop` is called, then finish what is in hand."""
        try:
            async with asyncio.TaskGroup() as group:
                background = [
                    group.create_task(self._fetches.run()),
                    group.create_task(self._writes.run()),
                    group.create_task(self._repeat(self._listen)),
                    group.create_task(self._repeat(self._side_lane)),
                    group.create_task(self._repeat(self._tick)),
                    group.create_task(self._repeat(self._tail.look)),
                    group.create_task(self._repeat(self._tail.listen)),
                    group.create_task(self._repeat(self._tail.attend)),
                    group.create_task(self._repeat(self._keeping.run)),
                    group.create_task(self._end_reads_at_stop()),
                ]
                await self._hear_people_first()
                async with asyncio.TaskGroup() as lanes:
                    for _ in range(MAIN_LANES):
                        lanes.create_task(self._repeat(self._main_lane))
                await self._drain()
                for task in background:
                    task.cancel()
        finally:
            self._keeping.close()
            with contextlib.suppress(RedisError, OSError):
                await self._control.aclose()

    async def _hear_people_first(self) -> None:
        """Know what people decided before anything is served, so that nobody is asked twice; not longer than that."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._tail.caught_up.wait(), HEAR_SECONDS)

    def stop(self) -> None:
        """Read nothing more; `run` returns when what is in hand is finished, or after some seconds."""
        self._stopping.set()

    def set_agents(self, agents: Iterable[str]) -> None:
        """Serve these agents from now on; a stream that is missing is made by the next read or sweep."""
        self._hot_set.replace(agents)

    async def _repeat(self, loop: Callable[[], Awaitable[None]]) -> None:
        """Run a loop, and again after a growing pause whenever the queue went away; end when it returns."""
        pause, longest = _BACKOFF
        while not self._stopping.is_set():
            started = self._clock.monotonic_us()
            try:
                await loop()
            except Exception as error:  # noqa: BLE001  # a defect must not end the worker
                if self._clock.monotonic_us() - started > STUCK_SECONDS * 1e6:
                    pause = _BACKOFF[0]
                self._report(loop.__name__.strip("_"), error, round(pause, 2))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), pause * random.uniform(0.7, 1.3))  # noqa: S311  # jitter
                pause = min(pause * 2, longest)

    @staticmethod
    def _report(loop: str, error: Exception, pause: float) -> None:
        if isinstance(error, QueueError | RedisError | OSError):
            _log.warning("queue_away", what=loop, error=str(error), pause=pause)
        elif isinstance(error, AuditError):
            _log.error("audit_unavailable", what=loop, error=str(error), hint=error.hint)
        else:  # of a foreign error only the type and the place: its text may repeat what it was given
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(place.filename).name}:{place.lineno}"
            _log.error("defect", what=loop, error=type(error).__name__, at=where, pause=pause)

    @contextlib.asynccontextmanager
    async def _lane(self, suffix: str, poll_us: int = 0) -> AsyncIterator[Lane]:
        """A lane on a connection of its own, with a guard against replies that never come."""
        connection = QueueConnection(self._url, f"{self.consumer}-{suffix}")
        guard = asyncio.create_task(connection.guard(STUCK_SECONDS))
        try:
            await connection.open()
            yield Lane(connection, self._desk, self._fetches, self._writes, self._in_hand, self._clock, poll_us)
        finally:
            guard.cancel()
            await connection.close()

    async def _main_lane(self) -> None:
        """Block on the active agents' streams whenever it is this lane's turn."""
        async with self._lane("main", self._poll_us) as lane:
            agents = self._hot_set.agents
            await self._ensure_groups(lane.connection, agents)
            await leave(lane.connection, "", agents)
            self._ended_streams |= agents
            reader = self._readers.add(lane.connection.client_id)
            try:
                while not self._stopping.is_set():
                    await self._take_turns(lane, reader)
                while self._desk.opener.has_cold:
                    await lane.serve([])
            finally:
                self._readers.remove(reader)

    async def _take_turns(self, lane: Lane, reader: Reader) -> None:
        """Read and serve until a batch is large enough to let the other lane read before this one is released.

        So a batch is what came in while the one before it was computed: the more load, the fewer syncs a request.
        """
        await self._desk_turn.acquire()
        has_turn = True

        async def hand_over() -> None:
            nonlocal has_turn
            has_turn = False
            reader.watched = ()
            self._desk_turn.release()
            await asyncio.sleep(0)  # the other lane's read is on its way before this batch is synced

        next_read = functools.partial(self._next_read, reader)
        try:
            lane.connection.send([next_read()])
            self.ready.set()
            poll_us = 0
            while has_turn and not self._stopping.is_set():
                entries = await self._read(lane, poll_us)
                poll_us = lane.poll_us if 0 < len(entries) <= FEW else 0
                if len(entries) >= HAND_OVER:
                    await lane.serve(entries, before_release=hand_over)
                elif entries or self._desk.opener.has_cold:
                    await lane.serve(entries, next_read)
                else:
                    lane.connection.send([next_read()])
            if has_turn:
                reader.watched = ()
                await lane.serve(await self._read(lane))
        finally:
            reader.watched = ()
            if has_turn:
                self._desk_turn.release()

    async def _read(self, lane: Lane, poll_us: int = 0) -> Sequence[Entry]:
        """What the read that was sent brought."""
        try:
            reply = await lane.connection.receive(poll_us)
            entries = read_entries(reply, self._clock.monotonic_us())
        except MissingGroupError:
            _log.warning("groups_missing", hint="the queue lost them; they are made again")
            await self._ensure_groups(lane.connection, self._hot_set.agents)
            entries = []
        self._note_activity(entries)
        return entries

    def _next_read(self, reader: Reader) -> Command:
        """Read the watched agents' streams; wait for something only if nothing else is to be done."""
        reader.watched = self._hot_set.watched()
        if self._taken_names:
            reader.watched = tuple(a for a in reader.watched if a not in self._taken_names) or (NOBODY,)
        block = None if self._desk.opener.has_cold or self._stopping.is_set() else BLOCK_MS
        return read_command(self.consumer, reader.watched, block)

    def _note_activity(self, entries: Sequence[Entry]) -> None:
        """Keep watching whoever wrote, and notice who ended its stream with a huge entry id."""
        now = self._clock.now()
        last_of_agent = {entry.agent_id: entry.entry_id for entry in entries}
        for agent, entry_id in last_of_agent.items():
            self._hot_set.touch(agent, now)
            if is_far_ahead(entry_id, now):
                self._ended_streams.add(agent)

    async def _ensure_groups(self, connection: QueueConnection, agents: Iterable[str]) -> None:
        """Make what is missing; leave aside agents whose stream's name something else has."""
        names = [NOBODY, *agents]
        commands = group_commands(names)
        replies = await connection.call_all(commands)
        for agent, reply in zip(names[1:], replies[1:], strict=True):
            if not is_taken(reply):
                self._taken_names.discard(agent)
            elif agent not in self._taken_names:
                self._taken_names.add(agent)
                key = keynames.requests(agent)
                _log.error("not_a_stream", key=key, hint="this agent cannot be served until that key is deleted")
        check_replies(commands, [None if str(r).startswith("BUSYGROUP") or is_taken(r) else r for r in replies])
        if is_taken(replies[0]):
            raise QueueError(f"{keynames.requests(NOBODY)} is not a stream", hint="delete that key")

    async def _side_lane(self) -> None:
        """Answer what was fetched; sweep for missed doorbells, entries of dead workers and ended streams."""
        async with self._lane("side") as lane:
            part, sweep_at = 0, 0
            while True:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._fetches.done.wait(), SLICE_SECONDS)
                await lane.answer_fetched()
                await lane.carry_writes(self._writer)
                if self._clock.monotonic_us() >= sweep_at:
                    sweep_at = self._clock.monotonic_us() + int(SLICE_SECONDS * 1e6)
                    part = (part + 1) % SLICES
                    await self._sweep(lane, sorted(self._hot_set.agents)[part::SLICES])

    async def _sweep(self, lane: Lane, agents: Sequence[str]) -> None:
        """Look after a part of the agents; within a second all of them had their turn."""
        now_us, connection = self._clock.monotonic_us(), lane.connection
        await hold(connection, self.consumer, self._in_hand.older_than(now_us - HOLD_AFTER_US))
        if self._stopping.is_set():
            return
        await self._mend(connection)
        taken = self._taken_names.intersection(agents)
        if taken:
            await self._ensure_groups(connection, taken)
        agents = [agent for agent in agents if agent not in self._taken_names]
        if not agents:
            return
        try:
            entries = await claim(connection, self.consumer, agents, self._in_hand.keys(), now_us)
            unwatched = [agent for agent in agents if not self._readers.cover(agent)]
            if unwatched:
                (reply,) = await connection.call_all([read_command(self.consumer, unwatched, None)])
                entries += read_entries(reply, self._clock.monotonic_us())
        except MissingGroupError:
            await self._ensure_groups(connection, agents)
            return
        self._note_activity(entries)
        if entries:
            await lane.serve(entries)
            await self._readers.watch({entry.agent_id for entry in entries} & self._hot_set.agents - self._taken_names)
        for agent, count in (await trim_overfull(connection, agents)).items():
            _log.warning("stream_overfull", agent=agent, dropped=count)
            with contextlib.suppress(AuditError):  # the log has it; the next batch will meet the same disk
                self._desk.record(records.unauthenticated(agent, "stream_overfull", self._clock.now(), count))

    async def _mend(self, connection: QueueConnection) -> None:
        """Look after the streams of agents that rang or wrote a huge id, and at the start after all of them."""
        suspects, self._ended_streams = self._ended_streams, set()
        if suspects:
            mended, later = await mend(connection, suspects, self._clock.now())
            self._ended_streams.update(later)
            for agent in mended:
                _log.warning("stream_mended", agent=agent, hint="this agent wrote an entry id far ahead of the clock")

    async def _listen(self) -> None:
        """Hear the doorbells of agents that are not watched."""
        async with self._control.pubsub() as bells:
            await bells.psubscribe(keynames.EVERY_DOORBELL)
            while not self._stopping.is_set():  # redis-py may swallow a cancellation
                message = await bells.get_message(ignore_subscribe_messages=True, timeout=1.0)
                if message is not None:
                    agent = keynames.agent_of_doorbell(message["channel"].decode("ascii", "replace"))
                    if agent in self._hot_set.agents:
                        self._ended_streams.add(agent)
                        self._hot_set.touch(agent, self._clock.now())
                        await self._readers.watch({agent} - self._taken_names)

    async def _end_reads_at_stop(self) -> None:
        await self._stopping.wait()
        await self._readers.end_all()

    async def _tick(self) -> None:
        """Four times a second: ends, deadlines, counts, the session key."""
        while True:
            await asyncio.sleep(0.25)
            now = self._clock.now()
            self._hot_set.cool(now)
            self._fetches.give_up_overdue(now)
            if self._desk.session.is_over(now):
                self._desk.session = start_session(self._identity_seed, self._name, now, secrets.token_bytes(32))
            try:
                self._desk.tick()
            except AuditError as error:
                _log.error("audit_unavailable", error=str(error), hint=error.hint)

    async def _drain(self) -> None:
        """Wait for vaults that still have to answer, then leave the consumer groups in which nothing is left."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._in_hand.is_empty.wait(), DRAIN_SECONDS)
        with contextlib.suppress(QueueError):
            async with self._lane("leaving") as lane:
                await leave(lane.connection, self.consumer, self._hot_set.agents)
