"""Replay marks and rate limits on the queue, shared by all workers: one script call a batch."""

import hashlib
from collections.abc import Awaitable, Iterator, Sequence
from functools import cache
from importlib.resources import files

import msgspec
from redis.exceptions import NoScriptError

from agent_sdk.wire.keynames import LIMITS_LATEST, LIMITS_SET_BACK
from broker_worker.core.errors import QueueError
from broker_worker.ports import AdmissionAsk, Limit, OpenAsk, Verdict
from broker_worker.queue.connection import Command, QueueConnection
from broker_worker.queue.open_approvals import how_many, open_command

_SCRIPT = files("broker_worker.queue").joinpath("admission.lua").read_bytes()
_SHA = hashlib.sha1(_SCRIPT, usedforsecurity=False).hexdigest()
_ENCODE = msgspec.msgpack.Encoder().encode
_DROPPED, _REPLAY, _NEW, _AGAIN = -2, -1, 0, 1

Groups = list[list[AdmissionAsk]]


class QueueAdmission:
    """Implements `ports.Admission` over one connection.

    Args:
        connection: an open connection that nobody reads from meanwhile.
    """

    def __init__(self, connection: QueueConnection) -> None:
        self._connection = connection

    def admit(self, asks: Sequence[AdmissionAsk]) -> Awaitable[list[Verdict]]:
        """Mark and count a batch of requests in one call; those that count alike, in order.

        Returns:
            The verdicts, to be awaited once; the question is on its way already.

        Raises:
            QueueError: if the queue did not answer, or not as the script does; nothing may then be released.
        """
        groups = group(asks)
        command: Command = ("EVALSHA", _SHA, *pack_batch(groups))
        self._connection.send([command])
        return self._verdicts(asks, groups, command)

    async def _verdicts(self, asks: Sequence[AdmissionAsk], groups: Groups, command: Command) -> list[Verdict]:
        reply = await self._connection.receive()
        if isinstance(reply, NoScriptError):
            reply = await self._connection.call("EVAL", _SCRIPT, *command[2:])
        if isinstance(reply, Exception):
            raise QueueError(f"the queue refuses to admit requests: {reply}") from reply
        if reply == all_admitted(groups):  # what nearly always comes
            return [_admitted(len(ask.name_limits)) for ask in asks]
        verdicts = read_verdicts(groups, reply)
        return [verdicts[id(ask)] for ask in asks]

    async def open_approvals(self, asks: Sequence[OpenAsk]) -> list[int]:
        """Count new approvals of runs; see `ports.Admission.open_approvals`.

        Raises:
            QueueError: if the queue did not answer, or not as the script does; nobody may then be asked.
        """
        replies = await self._connection.call_all([open_command(ask) for ask in asks])
        return [how_many(ask, reply) for ask, reply in zip(asks, replies, strict=True)]


@cache
def _admitted(names: int) -> Verdict:
    """What is said of a request that is new and within all its limits; a request has 64 names at most."""
    return Verdict(replay=False, name_waits_us=(0,) * names)


def group(asks: Sequence[AdmissionAsk]) -> Groups:
    """Put together what has its mark in the same place and counts against the same limits, each group in order.

    Of a request that comes more than once in a batch, each copy is in a later group than the one before.
    """
    groups: dict[tuple[object, ...], list[AdmissionAsk]] = {}
    copies: dict[tuple[str, bytes], int] = {}
    seen: set[tuple[str, bytes]] = set()
    for ask in asks:
        mark, copy = (ask.replay_key, ask.request_id), 0
        if mark in seen:
            copies[mark] = copy = copies.get(mark, 0) + 1
        seen.add(mark)
        alike = (ask.replay_key, copy, ask.count, id(ask.limits), *map(id, ask.name_limits))
        members = groups.get(alike)
        if members is None:
            groups[alike] = [ask]
        else:
            members.append(ask)
    return list(groups.values())


def pack_batch(groups: Groups) -> Command:
    """How many keys the script is given, the keys, and its arguments; limits that several groups share are listed once.

    Grants of one name may differ in their rates and still count against one state.
    """
    places = {key: place for place, key in enumerate(dict.fromkeys(asks[0].replay_key for asks in groups), 1)}
    keys = list(places)
    first_state = len(keys) + 1
    rates: list[tuple[int, int, int]] = []
    place_of: dict[str, int] = {}
    index_of: dict[tuple[str, int], int] = {}

    def index(limit: Limit) -> int:
        known = index_of.get((limit.key, id(limit.rate)))
        if known is None:
            if limit.key not in place_of:
                keys.append(limit.key)
                place_of[limit.key] = len(keys)
            rates.append((place_of[limit.key], limit.rate.interval, limit.rate.tolerance))
            known = index_of[limit.key, id(limit.rate)] = len(rates)
        return known

    packed = [
        (
            places[asks[0].replay_key],
            max([ask.keep_ms for ask in asks]),
            len(asks),
            asks[0].count,
            [index(limit) for limit in asks[0].limits],
            [[index(limit) for limit in limits] for limits in asks[0].name_limits],
        )
        for asks in groups
    ]
    ids = [each for asks in groups for ask in asks for each in (ask.request_id, ask.entry_id)]
    keys += (LIMITS_SET_BACK, LIMITS_LATEST)
    return (len(keys), *keys, _ENCODE((first_state, packed, rates)), *ids)


def all_admitted(groups: Groups) -> list[int]:
    """The script's answer if every request is new and within its limits."""
    answer: list[int] = []
    for asks in groups:
        new = len(asks)
        answer += (new, new, 0, *((new, 0) * len(asks[0].name_limits)))
    return answer


def read_verdicts(groups: Groups, reply: object) -> dict[int, Verdict]:
    """Read the script's answer: a verdict for each ask, by its `id`.

    Raises:
        QueueError: if it is not what the script says of these groups.
    """
    if not isinstance(reply, list) or not all(type(number) is int for number in reply):
        raise QueueError("the queue's answer to an admission is not a list of numbers")
    numbers = iter(reply)
    verdicts: dict[int, Verdict] = {}
    try:
        for asks in groups:
            _read_group(asks, numbers, verdicts)
    except StopIteration:
        raise QueueError("the queue's answer to an admission is too short") from None
    if next(numbers, None) is not None:
        raise QueueError("the queue's answer to an admission is too long")
    return verdicts


def _read_group(asks: Sequence[AdmissionAsk], numbers: Iterator[int], verdicts: dict[int, Verdict]) -> None:
    new = next(numbers)
    states = [_NEW] * len(asks) if new == len(asks) else [next(numbers) for _ in asks]
    names = len(asks[0].name_limits)
    admitted, wait, *of_names = [next(numbers) for _ in range(2 + 2 * names)]
    is_known = states.count(_NEW) == new and {_DROPPED, _REPLAY, _NEW, _AGAIN}.issuperset(states)
    if not is_known or not _fits(new, admitted, wait):
        raise QueueError("the queue's answer to an admission does not fit its question")
    if not all(_fits(admitted, *of_names[at : at + 2]) for at in range(0, 2 * names, 2)):
        raise QueueError("the queue's answer to an admission does not fit its question")
    clean = _admitted(names)
    limited = min([admitted, *of_names[::2]])  # the new ones before this were admitted with all their names
    place = 0
    for ask, state in zip(asks, states, strict=True):
        if state == _REPLAY:
            verdicts[id(ask)] = Verdict(replay=True)
            continue
        if state == _DROPPED:
            verdicts[id(ask)] = Verdict(replay=False, dropped=True)
            continue
        if state == _AGAIN or place < limited:
            verdicts[id(ask)] = clean
        elif place >= admitted:
            verdicts[id(ask)] = Verdict(replay=False, wait_us=wait)
        else:
            waits = [0 if place < of_names[at] else of_names[at + 1] for at in range(0, 2 * names, 2)]
            verdicts[id(ask)] = Verdict(replay=False, wait_us=0, name_waits_us=tuple(waits))
        place += state == _NEW


def _fits(wanted: int, admitted: int, wait: int) -> bool:
    """Whether numbers can be true: everything is admitted and nothing waits, or something must."""
    return admitted == wanted and wait == 0 if wait <= 0 else 0 <= admitted < wanted
