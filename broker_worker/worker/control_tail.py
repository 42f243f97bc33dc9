"""A worker's ear for people: approvals, decisions, revocations and reports, beside the requests."""

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import structlog
from redis.exceptions import ResponseError

from agent_sdk.wire import keynames
from agent_sdk.wire.audit import AuditRecord
from broker_worker.core.approvals import ApprovalRequest
from broker_worker.core.control import write_message
from broker_worker.core.errors import AuditError
from broker_worker.pipeline import Desk
from broker_worker.pipeline.letters import Letter
from broker_worker.pipeline.session import Nonces
from broker_worker.pipeline.writing import Writer
from broker_worker.ports import Clock
from broker_worker.queue.open_approvals import close_command, how_many, open_command
from broker_worker.queue.pipelines import execute
from broker_worker.queue.upkeep import clear_unusable
from broker_worker.worker.outbox import Outbox

POLL_SECONDS = 0.25
"""How often the broker's own files are looked at."""
STREAM_LENGTH = 10_000
"""How many entries the approvals and control streams keep, about."""
_PAGE = 500
_AT_ONCE = 16
"""How many entries are taken before everybody else has a turn; each may cost a signature check and a sync."""
_BLOCK_MS = 1_000
_REPORTS = 64
_CLAIM_EVERY, _CLAIM_IDLE_MS = 40, 10_000
"""Every so many polls, reports are claimed that another worker took and did not finish."""
_MEND_EVERY = 20
"""Every so many polls, streams are looked at to which nobody can write any more."""

_log = structlog.get_logger()
ReadReport = Callable[[bytes, Callable[[AuditRecord], object]], None]
"""Has a report of the job process recorded, if it is one and was not recorded before."""


class ControlTail:
    """Reads what people decided, and tells runs what follows from it.

    Args:
        client: a client of the queue that returns bytes, for blocking reads too.
        consumer: this process's name in the consumer group of reports.
        desk: the gate; it takes what is read.
        writer: hears of writes.
        read_report: has an authentic report of the job process recorded.
        clock: the time.
        stopping: set when the worker stops.
    """

    def __init__(
        self,
        client: Any,  # redis-py's types leave open what a reply is
        consumer: str,
        desk: Desk,
        writer: Writer,
        read_report: ReadReport,
        clock: Clock,
        stopping: asyncio.Event,
    ) -> None:
        self._client = client
        self._consumer = consumer
        self._desk = desk
        self._writer = writer
        self._read_report = read_report
        self._clock = clock
        self._stopping = stopping
        self._last = {keynames.APPROVALS: "0", keynames.CONTROL: "0"}
        self._outbox = Outbox(client, lambda: desk.session, Nonces(secrets.token_bytes))
        self._to_send = asyncio.Event()
        desk.affairs.on_asked = self._to_send.set
        self._polls = 0
        self._acting = asyncio.Lock()
        self.caught_up = asyncio.Event()
        """Set when everything that people decided so far is known."""

    async def _catch_up(self) -> None:
        """Read both streams to their ends, requests first: decisions are about them."""
        for stream in self._last:
            while found := await self._client.xread({stream: self._last[stream]}, count=_PAGE):
                await self._take(found)
        self._desk.affairs.close_settled(self._desk.configuration, self._clock.now())
        self.caught_up.set()

    async def listen(self) -> None:
        """Take what comes until the worker stops.

        Raises:
            RedisError: if the queue is away; call it again, it goes on where it was.
        """
        await self._catch_up()
        while not self._stopping.is_set():  # redis-py may swallow a cancellation
            found = await self._client.xread(dict(self._last), count=_PAGE, block=_BLOCK_MS)
            if found:
                await self._take(found)
                await self._act()
            elif await self._is_wiped():
                self._last = dict.fromkeys(self._last, "0")
                self._desk.affairs.ask_again()

    async def look(self) -> None:
        """Look at the broker's files and settle what is due, until the worker stops.

        It never waits for the queue: whoever owns that could otherwise hold up a revocation by answering late.
        """
        while not self._stopping.is_set():
            desk = self._desk
            try:
                self._outbox.add(desk.affairs.poll(desk.configuration, self._clock.now()))
                self._outbox.add(self._writer.poll())
            except AuditError as error:
                _log.error("audit_unavailable", error=str(error), hint=error.hint)
            if self._outbox:
                self._to_send.set()
            await asyncio.sleep(POLL_SECONDS)

    def send(self, letters: Iterable[Letter]) -> None:
        """Have notices put onto the queue."""
        self._outbox.add(letters)
        self._to_send.set()

    async def attend(self) -> None:
        """Put requests and notices onto the queue, and take reports, until the worker stops.

        Raises:
            RedisError: if the queue is away; what was to be sent is kept.
        """
        while not self._stopping.is_set():
            self._polls += 1
            if self._polls % _MEND_EVERY == 1:
                await self._mend()
            try:
                await self._act()
            finally:
                await self._take_reports()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._to_send.wait(), POLL_SECONDS)
            self._to_send.clear()

    async def _mend(self) -> None:
        """Remove what has our streams' names and takes no entry any more; nothing that stood there counts by that."""
        for stream in self._last:
            if await clear_unusable(self._client, stream, self._clock.now()):
                self._last[stream] = "0"
                self._desk.affairs.ask_again()
                _log.error("stream_cleared", key=stream, hint="somebody wrote what makes the stream unusable")

    async def _act(self) -> None:
        """Put onto the queue what waits for that, each thing once."""
        async with self._acting:
            await self._close_approvals()  # first: who is told may ask for something else at once
            await self._outbox.send_some()
            if self._outbox:
                self._to_send.set()  # next time: what people are asked and what they order must not wait for all
            await self._publish()

    async def _close_approvals(self) -> None:
        closed = self._desk.affairs.approvals.waiting.closed
        for approval_id, key in list(closed.items()):
            with contextlib.suppress(ResponseError):  # something else has that name: nothing is counted there
                await self._client.execute_command(*close_command(key, approval_id))
            closed.pop(approval_id, None)

    async def _publish(self) -> None:
        affairs = self._desk.affairs
        for request in list(affairs.unpublished.values()):
            await self._publish_request(request)
        written = affairs.superseding.unpublished
        for write_id, signed in list(written.items()):
            fields = {keynames.MESSAGE_FIELD: write_message(signed)}
            await self._client.xadd(keynames.CONTROL, fields, maxlen=STREAM_LENGTH, approximate=True)
            written.pop(write_id, None)

    async def _publish_request(self, request: ApprovalRequest) -> None:
        """Show people a request, unless it is too much for its run by now."""
        affairs, configuration, now = self._desk.affairs, self._desk.configuration, self._clock.now()
        waiting = affairs.approvals.waiting
        again = waiting.again(request, configuration, now)
        if not how_many(again, await self._client.execute_command(*open_command(again))):
            affairs.give_up(request)
            return
        fields: Any = {keynames.MESSAGE_FIELD: affairs.signed(request)}
        async with self._client.pipeline(transaction=False) as pipeline:
            pipeline.xadd(keynames.APPROVALS, fields, maxlen=STREAM_LENGTH, approximate=True)
            pipeline.execute_command(*open_command(waiting.shown(request, configuration, now)))
            await execute(pipeline)
        affairs.published(request, configuration)

    async def _take(self, found: Sequence[tuple[bytes, list[tuple[bytes, dict[bytes, bytes]]]]]) -> None:
        desk, affairs = self._desk, self._desk.affairs
        is_behind = any(key.decode() == keynames.APPROVALS and len(entries) >= _PAGE for key, entries in found)
        for key, entries in found:
            stream = key.decode()
            if stream == keynames.CONTROL and is_behind:
                continue  # a decision may be about a request that was not read yet; it is read again
            for number, (entry_id, fields) in enumerate(entries):
                if number % _AT_ONCE == _AT_ONCE - 1:
                    await asyncio.sleep(0)
                raw = fields.get(keynames.MESSAGE_FIELD, b"")
                self._last[stream] = entry_id.decode("ascii")  # first: what cannot be taken must not come for ever
                if stream == keynames.APPROVALS:
                    affairs.take_request(raw, self._clock.now())
                else:
                    self._outbox.add(affairs.take_control(raw, desk.configuration, self._clock.now()))

    async def _is_wiped(self) -> bool:
        """Whether a stream ends before what was read: the queue was wiped, and begins anew."""
        for stream, last in self._last.items():
            newest = await self._client.xrevrange(stream, count=1)
            if last != "0" and (not newest or _place(newest[0][0]) < _place(last.encode())):
                return True
        return False

    async def _take_reports(self) -> None:
        """Record what the job process tells; exactly one worker takes each report."""
        try:
            found = await self._client.xreadgroup(
                keynames.GROUP, self._consumer, {keynames.REPORTS: ">"}, count=_REPORTS
            )
        except ResponseError:  # the group is missing, or was lost
            with contextlib.suppress(ResponseError):
                await self._client.xgroup_create(keynames.REPORTS, keynames.GROUP, id="0", mkstream=True)
            return
        for _, entries in found or ():
            await self._record_reports(entries)
        if self._polls % _CLAIM_EVERY == 0:
            _, entries, *_ = await self._client.xautoclaim(
                keynames.REPORTS, keynames.GROUP, self._consumer, min_idle_time=_CLAIM_IDLE_MS, count=_REPORTS
            )
            await self._record_reports(entries)

    async def _record_reports(self, entries: Iterable[tuple[bytes, dict[bytes, bytes] | None]]) -> None:
        for entry_id, fields in entries:
            self._read_report((fields or {}).get(keynames.MESSAGE_FIELD, b""), self._desk.record)
            await self._client.xack(keynames.REPORTS, keynames.GROUP, entry_id)
            await self._client.xdel(keynames.REPORTS, entry_id)


def _place(entry_id: bytes) -> tuple[int, int]:
    milliseconds, _, number = entry_id.partition(b"-")
    return int(milliseconds), int(number or 0)
