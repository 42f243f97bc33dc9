"""The commands of the request and reply streams, and how their replies read (docs/protocol.md)."""

from collections.abc import Iterable, Sequence
from typing import Any

from redis.exceptions import ResponseError

from agent_sdk.wire import keynames
from agent_sdk.wire.errors import WireError
from broker_worker.core.errors import QueueError
from broker_worker.ports import Answer, Entry
from broker_worker.queue.connection import Command, QueueConnection

BATCH = 256
"""How many entries one read takes, all watched agents together."""
REPLIES_KEPT = 4096
"""Length of a reply stream: eight times what one client may have in flight."""
IN_FLIGHT = 512
"""How many requests one client may have in flight: so many replies are kept, however large they are."""
REPLIES_BYTES = 16 * 1024 * 1024
"""A reply stream is shorter if its replies would take more than this: one run with a large value must not fill the
server's memory."""
CHANNEL_MS = 20 * 60 * 1000
"""A reply stream on which nobody was answered for this long is dropped, ms."""
CHANNEL_REFRESH_MS = 60 * 1000
AHEAD_MS = 24 * 3600 * 1000
"""An entry id this far ahead of the clock was written to end its stream, ms."""
STREAM_BYTES = 64 * 1024 * 1024
"""How much memory an agent's request stream may take before it is cut down."""
MAX_DELIVERIES = 5
"""An entry that so many workers took and did not finish is given up."""


def read_command(consumer: str, agents: Sequence[str], block_ms: int | None) -> Command:
    """Read what is new on the agents' streams, fairly: no agent gets more of a batch than its share.

    Args:
        consumer: this worker's name in the consumer group.
        agents: whose streams; at least one.
        block_ms: how long to wait if nothing is there; None to return at once.
    """
    share = max(1, BATCH // len(agents))
    block: Command = () if block_ms is None else ("BLOCK", block_ms)
    keys = [keynames.requests(agent) for agent in agents]
    return (
        *("XREADGROUP", "GROUP", keynames.GROUP, consumer, "COUNT", share),
        *block,
        *("STREAMS", *keys, *[">"] * len(keys)),
    )


def read_entries(reply: Any, received_us: int) -> list[Entry]:
    """The entries of a read's reply.

    Raises:
        MissingGroupError: if a stream or its consumer group is gone.
        QueueError: if the server refused the read otherwise.
    """
    if reply is None:
        return []
    if isinstance(reply, ResponseError):
        if is_missing(reply):
            raise MissingGroupError("a request stream has lost its consumer group")
        if str(reply).startswith("UNBLOCKED"):
            return []
        raise QueueError(f"the queue refuses to be read: {reply}") from reply
    entries = []
    try:
        for key, found in reply:
            agent = keynames.agent_of_requests(key.decode())
            entries += [as_entry(agent, entry_id, fields, received_us) for entry_id, fields in found]
    except (WireError, TypeError, ValueError, AttributeError):
        raise QueueError("the queue's answer is not that of request streams") from None
    return entries


class MissingGroupError(QueueError):
    """A request stream or its consumer group does not exist: the queue was wiped, or something else has its name."""


def is_missing(error: ResponseError) -> bool:
    """Whether the server says that a stream, or its consumer group, is not there."""
    return str(error).startswith(("NOGROUP", "WRONGTYPE"))


def is_taken(reply: object) -> bool:
    """Whether the server says that what has a stream's name is no stream."""
    return isinstance(reply, ResponseError) and str(reply).startswith("WRONGTYPE")


def as_entry(agent: str, entry_id: bytes, fields: list[bytes] | None, received_us: int) -> Entry:
    """One entry; it has a fault unless it has exactly the one field of a request."""
    if fields is not None and len(fields) == 2 and fields[0] == keynames.MESSAGE_FIELD:
        return Entry(agent, entry_id, fields[1], received_us)
    return Entry(agent, entry_id, b"", received_us, fault="not_one_field")


def is_far_ahead(entry_id: bytes, now: int) -> bool:
    """Whether an entry id was made to end its stream: no later id could be written soon."""
    return int(entry_id.partition(b"-")[0]) > now + AHEAD_MS


def group_commands(agents: Iterable[str]) -> list[Command]:
    """Make sure that each agent has a request stream with the consumer group, from its first entry on."""
    return [("XGROUP", "CREATE", keynames.requests(a), keynames.GROUP, "0", "MKSTREAM") for a in agents]


async def trim_overfull(connection: QueueConnection, agents: Sequence[str]) -> dict[str, int]:
    """Cut down streams that take too much of the server's memory: whoever fills its stream loses its own requests.

    The queue's users cannot be kept from filling a stream that they may write to, and a server without memory serves
    nobody.

    Returns:
        How many entries each of these agents lost.

    Raises:
        QueueError: if the connection broke.
    """
    cut: dict[str, int] = {}
    full = list(agents)
    for kept in (BATCH, 0):  # the newest may still be answered in time, if they are not what is too large
        full = await _overfull(connection, full)
        trims: list[Command] = [("XTRIM", keynames.requests(agent), "MAXLEN", kept) for agent in full]
        for agent, count in zip(full, await connection.call_all(trims), strict=True):
            if isinstance(count, int) and count:
                cut[agent] = cut.get(agent, 0) + count
    return cut


async def _overfull(connection: QueueConnection, agents: Sequence[str]) -> list[str]:
    """Those of the agents whose streams take too much memory."""
    asked: list[Command] = [("MEMORY", "USAGE", keynames.requests(agent), "SAMPLES", 5) for agent in agents]
    usage = await connection.call_all(asked)
    return [a for a, used in zip(agents, usage, strict=True) if isinstance(used, int) and used > STREAM_BYTES]


class ReplyWriter:
    """Makes the commands that send answers and acknowledge their entries.

    An acknowledged entry is deleted as well: what was asked need not lie on the queue longer than it must.
    """

    def __init__(self) -> None:
        self._refreshed: dict[str, int] = {}

    def commands(self, answers: Sequence[Answer], now: int) -> list[Command]:
        """The commands for a batch of answers.

        Args:
            answers: in any order.
            now: the time, ms since the epoch.
        """
        commands: list[Command] = []
        done: dict[str, list[bytes]] = {}
        for answer in answers:
            done.setdefault(answer.entry.agent_id, []).append(answer.entry.entry_id)
            if answer.envelope is not None:
                stream = answer.reply_stream
                kept = min(REPLIES_KEPT, max(IN_FLIGHT, REPLIES_BYTES // len(answer.envelope)))
                commands.append(("XADD", stream, "MAXLEN", "~", kept, "*", keynames.MESSAGE_FIELD, answer.envelope))
                if now - self._refreshed.get(stream, 0) > CHANNEL_REFRESH_MS:
                    self._refreshed[stream] = now
                    commands.append(("PEXPIRE", stream, CHANNEL_MS))
        for agent, ids in done.items():
            key = keynames.requests(agent)
            commands += [("XACK", key, keynames.GROUP, *ids), ("XDEL", key, *ids)]
        if len(self._refreshed) > 4 * REPLIES_KEPT:
            self._refreshed = {s: at for s, at in self._refreshed.items() if now - at <= CHANNEL_REFRESH_MS}
        return commands


def check_replies(commands: Sequence[Command], replies: Sequence[Any]) -> None:
    """Make sure that everything was written.

    Raises:
        QueueError: naming the first command that the server refused; entries that were not acknowledged will be
            claimed and answered again.
    """
    for command, reply in zip(commands, replies, strict=True):
        if isinstance(reply, Exception):
            raise QueueError(f"the queue refuses {command[0]!r}: {reply}") from reply
