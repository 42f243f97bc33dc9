"""Replay marks and rate limits on the queue, shared by all workers: one script call a batch."""

import hashlib
from collections.abc import Sequence
from importlib.resources import files

import msgspec
from redis.exceptions import NoScriptError

from broker_worker.core.errors import QueueError
from broker_worker.core.limits import Rate
from broker_worker.ports import AdmissionAsk, Limit, Verdict
from broker_worker.queue.connection import Command, QueueConnection

_SCRIPT = files("broker_worker.queue").joinpath("admission.lua").read_bytes()
_SHA = hashlib.sha1(_SCRIPT, usedforsecurity=False).hexdigest()
_ENCODE = msgspec.msgpack.Encoder().encode


class QueueAdmission:
    """Implements `ports.Admission` over one connection.

    Args:
        connection: an open connection that nobody reads from meanwhile.
    """

    def __init__(self, connection: QueueConnection) -> None:
        self._connection = connection

    async def admit(self, asks: Sequence[AdmissionAsk]) -> list[Verdict]:
        """Mark and count a batch of requests in one call, in order.

        Raises:
            QueueError: if the queue did not answer, or not as the script does; nothing may then be released.
        """
        keys, argument = pack_batch(asks)
        command: Command = ("EVALSHA", _SHA, len(keys), *keys, argument)
        (reply,) = await self._connection.call_all([command])
        if isinstance(reply, NoScriptError):
            reply = await self._connection.call("EVAL", _SCRIPT, *command[2:])
        if isinstance(reply, Exception):
            raise QueueError(f"the queue refuses to admit requests: {reply}") from reply
        return read_verdicts(asks, reply)


def pack_batch(asks: Sequence[AdmissionAsk]) -> tuple[list[str], bytes]:
    """The script's keys and its argument for a batch; limits that several asks share are listed once.

    Grants of one name may differ in their rates and still count against one state.
    """
    places = {key: place for place, key in enumerate(dict.fromkeys(ask.replay_key for ask in asks), 1)}
    keys = list(places)
    marks: list[tuple[int, list[str], list[str]]] = [(0, [], [])] * len(keys)
    rates: list[tuple[int, int, int]] = []
    index_of: dict[str, int] = {}
    rate_at: list[Rate] = []

    def index(limit: Limit) -> int:
        known = index_of.get(limit.key)
        if known is not None and rate_at[known - 1] is limit.rate:
            return known
        if known is None:
            keys.append(limit.key)
        place = len(keys) if known is None else rates[known - 1][0]
        rates.append((place, limit.rate.interval, limit.rate.tolerance))
        rate_at.append(limit.rate)
        index_of[limit.key] = len(rates)
        return len(rates)

    packed = []
    for ask in asks:
        place = places[ask.replay_key]
        keep_ms, ids, entries = marks[place - 1] if marks[place - 1][1] else (0, [], [])
        ids.append(ask.request_id.hex())  # the server's msgpack knows no byte strings
        entries.append(ask.entry_id.decode("ascii"))
        marks[place - 1] = (max(keep_ms, ask.keep_ms), ids, entries)
        names = [[index(limit) for limit in limits] for limits in ask.name_limits]
        packed.append((place, len(ids), ask.count, [index(limit) for limit in ask.limits], names))
    return keys, _ENCODE((marks, packed, rates))


def read_verdicts(asks: Sequence[AdmissionAsk], reply: object) -> list[Verdict]:
    """Read the script's answer.

    Raises:
        QueueError: if it is not one number an ask, and one a name of each admitted ask.
    """
    if not isinstance(reply, list) or not all(type(number) is int for number in reply):
        raise QueueError("the queue's answer to an admission is not a list of numbers")
    verdicts, numbers = [], iter(reply)
    try:
        for ask in asks:
            wait = next(numbers)
            names = tuple([next(numbers) for _ in ask.name_limits]) if wait == 0 else ()
            verdicts.append(Verdict(replay=wait < 0, wait_us=max(wait, 0), name_waits_us=names))
    except StopIteration:
        raise QueueError("the queue's answer to an admission is too short") from None
    if next(numbers, None) is not None or any(w < 0 for v in verdicts for w in v.name_waits_us):
        raise QueueError("the queue's answer to an admission does not fit its question")
    return verdicts
