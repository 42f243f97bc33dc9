"""Entries that a worker took and did not finish: another one claims them when it has been silent for too long."""

from collections.abc import Collection, Sequence

from redis.exceptions import ResponseError

from agent_sdk.wire import keynames
from broker_worker.core.errors import QueueError
from broker_worker.ports import Entry
from broker_worker.queue.connection import Command, QueueConnection
from broker_worker.queue.streams import MAX_DELIVERIES, MissingGroupError, as_entry, is_missing

IDLE_MS = 3_000
"""How long an entry must have been left alone before it is claimed, ms; workers say about once a second which
entries they still work on."""
_COUNT = 64


async def hold(connection: QueueConnection, consumer: str, entries: Collection[Entry]) -> None:
    """Say that this worker still works on entries, so that nobody claims them.

    Raises:
        QueueError: if the connection broke.
    """
    by_agent: dict[str, list[bytes]] = {}
    for entry in entries:
        by_agent.setdefault(entry.agent_id, []).append(entry.entry_id)
    commands: list[Command] = [
        ("XCLAIM", keynames.requests(agent), keynames.GROUP, consumer, 0, *ids, "JUSTID")
        for agent, ids in by_agent.items()
    ]
    await connection.call_all(commands)


async def claim(
    connection: QueueConnection,
    consumer: str,
    agents: Sequence[str],
    held: Collection[tuple[str, bytes]],
    received_us: int,
) -> list[Entry]:
    """Claim what was left alone for too long.

    Args:
        connection: an open connection that nobody reads from meanwhile.
        consumer: this worker's name in the consumer group.
        agents: whose streams.
        held: agent and entry id of what this worker itself still works on.
        received_us: the time on the monotonic clock.

    Returns:
        The claimed entries; one that was delivered too often comes with a fault.

    Raises:
        MissingGroupError: if a stream or its group is gone.
        QueueError: if the connection broke or the server refuses.
    """
    asked: list[Command] = [
        ("XPENDING", keynames.requests(a), keynames.GROUP, "IDLE", IDLE_MS, "-", "+", _COUNT) for a in agents
    ]
    claims: list[tuple[str, dict[bytes, int]]] = []
    for agent, reply in zip(agents, await connection.call_all(asked), strict=True):
        if isinstance(reply, ResponseError):
            if is_missing(reply):
                raise MissingGroupError("a request stream has lost its consumer group")
            raise QueueError(f"the queue refuses XPENDING: {reply}") from reply
        deliveries = {row[0]: row[3] for row in reply if (agent, row[0]) not in held}
        if deliveries:
            claims.append((agent, deliveries))
    commands: list[Command] = [
        ("XCLAIM", keynames.requests(agent), keynames.GROUP, consumer, IDLE_MS, *deliveries)
        for agent, deliveries in claims
    ]
    entries = []
    for (agent, deliveries), reply in zip(claims, await connection.call_all(commands), strict=True):
        for found in reply if isinstance(reply, list) else ():
            if found:
                entry = as_entry(agent, found[0], found[1], received_us)
                if deliveries.get(entry.entry_id, 0) >= MAX_DELIVERIES:
                    entry.fault = "delivered_too_often"
                entries.append(entry)
    return entries
