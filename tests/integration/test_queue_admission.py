"""Replay marks and limits on a real server: the script there counts exactly as `core.limits` does here."""

import asyncio
import time
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from broker_worker.core.errors import QueueError
from broker_worker.core.limits import Rate, count_one
from broker_worker.ports import AdmissionAsk, Limit, Verdict
from broker_worker.queue import admission as admission_module
from broker_worker.queue.admission import QueueAdmission, group, pack_batch, read_verdicts
from broker_worker.queue.connection import QueueConnection

SCRIPT = admission_module._SCRIPT.decode()
RATES = [Rate(1, 1000, 1), Rate(6, 60_000, 3), Rate(1000, 1000, 50), Rate(7, 1000, 5), Rate(1, 366 * 86_400_000, 2)]
LIMITS = [Limit(f"sb:lim:{{k}}:{number}", rate) for number, rate in enumerate(RATES)]
ALTERNATIVE = Limit(LIMITS[1].key, Rate(60, 60_000, 2))  # another grant of the same name


def ask(request: str, entry: str = "1-0", *limits: Limit, count: int = 1, names: Any = ()) -> AdmissionAsk:
    """Two hashes of marks, so that batches have one or both."""
    key = f"sb:seen:{len(request) % 2}"
    return AdmissionAsk(key, request.encode(), entry.encode(), 60_000, count, limits, names)


# --- the script against the arithmetic ---------------------------------------------------------------------------


class Model:
    """The same in Python, counting one name after the other with `count_one`."""

    def __init__(self) -> None:
        self._first: dict[bytes, AdmissionAsk] = {}
        self._refused: set[str] = set()
        self._tats: dict[str, int] = {}

    def agrees(self, asks: Sequence[AdmissionAsk], verdicts: Sequence[Verdict], now: int) -> bool:
        """Whether the verdicts on requests that count alike are right; every wait to the microsecond."""
        admitted = []
        for one, verdict in zip(asks, verdicts, strict=True):
            first = self._first.setdefault(one.request_id, one)
            if first.entry_id != one.entry_id:
                if verdict != Verdict(replay=True):
                    return False
            elif first is not one:
                if verdict != Verdict(False, 0, (0,) * len(one.name_limits)):
                    return False
            elif verdict.replay or not self._is_right(one.limits, one.count, now, verdict.wait_us):
                return False
            elif verdict.wait_us:
                if verdict.name_waits_us:
                    return False
            else:
                admitted.append(verdict)
        return all(
            self._is_right(limits, 1, now, verdict.name_waits_us[at])
            for at, limits in enumerate(asks[0].name_limits)
            for verdict in admitted
        )

    def _is_right(self, limits: Sequence[Limit], count: int, now: int, wait: int) -> bool:
        """Whether a wait is the shortest that helps; counts if there is none."""
        if wait:
            never = any(count > limit.rate.burst for limit in limits)
            return never or (self._fits(limits, count, now + wait) and not self._fits(limits, count, now + wait - 1))
        return self._fits(limits, count, now, keep=True)

    def _fits(self, limits: Sequence[Limit], count: int, now: int, *, keep: bool = False) -> bool:
        """Whether all limits admit that many at that time."""
        after = {}
        for limit in limits:
            tat = self._tats.get(limit.key, 0)
            for _ in range(count):
                within, tat = count_one(limit.rate, tat, now)
                if not within:
                    return False
            after[limit.key] = tat
        if keep:
            self._tats |= after
        return True


_limits = st.lists(st.sampled_from([*LIMITS, ALTERNATIVE]), max_size=3, unique_by=lambda limit: limit.key).map(tuple)
_asks = st.tuples(
    st.integers(0, 9), st.integers(0, 1), _limits, st.integers(1, 4), st.lists(_limits, max_size=4).map(tuple)
)
_few = st.lists(
    _asks, min_size=1, max_size=3
).flatmap(  # several that count alike, with other requests
    lambda kinds: st.lists(
        st.tuples(st.integers(0, 30), st.integers(0, 1), st.sampled_from(kinds)).map(lambda t: (t[0], t[1], *t[2][2:])),
        max_size=24,
    )
)
_batches = st.lists(st.tuples(st.integers(0, 3_000_000), st.one_of(st.lists(_asks, max_size=8), _few)), max_size=5)


@settings(max_examples=70, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_batches)
def test_the_script_counts_as_the_core_does(valkey_url: str, batches: list[tuple[int, list[Any]]]) -> None:
    """Over random batches, shared limits, repeats and times, every verdict is right to the microsecond."""
    assert SCRIPT.count("call('TIME')") == 1
    model, now, made = Model(), time.time_ns() // 1000, dict[tuple[int, int], AdmissionAsk]()
    alike: dict[str, tuple[Limit, ...]] = {}
    with Redis.from_url(valkey_url, protocol=2) as client:
        client.flushall()
        for later, steps in batches:
            now += later
            asks = []
            for request, entry, limits, count, names in steps:
                fresh = ask("r" * (request + 1), f"{entry}-0", count=count)
                fresh.limits = alike.setdefault(repr(limits), limits)  # equal ones are one, as a worker has them
                fresh.name_limits = tuple(alike.setdefault(repr(each), each) for each in names)
                known = made.setdefault((request, entry), fresh)
                asks.append(copy(known))  # an equal one, so that the model can tell a repeat
            groups = group(asks)
            timed = SCRIPT.replace("call('TIME')", f"{{'{now // 1_000_000}', '{now % 1_000_000}'}}")
            reply = client.eval(timed, *pack_batch(groups))
            verdicts = read_verdicts(groups, reply)
            for together in groups:
                assert model.agrees(together, [verdicts[id(one)] for one in together], now), (together, verdicts)


def test_two_rates_of_one_state_each_hold_in_one_batch(valkey_url: str) -> None:
    """Grants with different rates for different runs: neither lends its rate to the other."""
    wide, narrow = Limit("sb:lim:{k}:grant:x", Rate(100, 1000, 100)), Limit("sb:lim:{k}:grant:x", Rate(1, 60_000, 1))
    asks = [ask(str(n), "1-0", names=((limit,),)) for n, limit in enumerate((wide, narrow, narrow, wide))]
    groups = group(asks)
    with Redis.from_url(valkey_url, protocol=2) as client:
        verdicts = read_verdicts(groups, client.eval(SCRIPT, *pack_batch(groups)))
    assert [verdicts[id(one)].name_waits_us[0] > 0 for one in asks] == [False, True, True, False]


@pytest.mark.parametrize("back", [3_600_000_000, 2_000_000])
def test_limits_go_on_when_the_clock_is_set_back(valkey_url: str, back: int) -> None:
    """Nobody waits until the clock is where it was, and nobody gets more: once, twice, and set forward between."""
    now, numbers = time.time_ns() // 1000, iter(range(1000))
    limit = LIMITS[1]  # 3 at once, one more each 10 s
    with Redis.from_url(valkey_url, protocol=2) as client:
        client.flushall()

        def wait_at(microseconds: int) -> int:
            groups = group([ask(f"r{next(numbers)}", "1-0", limit)])
            clock = f"{{'{microseconds // 1_000_000}', '{microseconds % 1_000_000}'}}"
            reply = client.eval(SCRIPT.replace("call('TIME')", clock), *pack_batch(groups))
            (verdict,) = read_verdicts(groups, reply).values()
            return verdict.wait_us

        assert [wait_at(now) for _ in range(4)] == [0, 0, 0, 10_000_000]
        for _ in range(2):
            now -= back
            assert wait_at(now) == 10_000_000
            now += 10_000_000
            assert [wait_at(now), wait_at(now)] == [0, 10_000_000]
        now += 86_400_000_000
        assert [wait_at(now) for _ in range(4)] == [0, 0, 0, 10_000_000]
        assert wait_at(now - back) == 10_000_000


# --- over the connection that workers use ------------------------------------------------------------------------


async def test_a_batch_is_one_call_even_when_the_script_is_not_loaded(connection: QueueConnection) -> None:
    """After a restart of the server the script is sent once more, by itself."""
    await connection.call("SCRIPT", "FLUSH")
    await connection.call("CONFIG", "RESETSTAT")
    admission = QueueAdmission(connection)
    for number in range(2):
        (verdict,) = await admission.admit([ask(f"r{number}", "1-0", LIMITS[1], names=((LIMITS[2],),))])
        assert verdict == Verdict(False, 0, (0,))
    stats = await connection.call("INFO", "commandstats")
    assert b"cmdstat_eval:calls=1," in stats
    assert b"cmdstat_evalsha:calls=2," in stats


async def test_the_same_entry_is_admitted_again_and_counted_once(connection: QueueConnection) -> None:
    """Another entry with the same request is a replay, whoever asks."""
    admission = QueueAdmission(connection)
    first = [await admission.admit([ask("r", "1-0", LIMITS[0])]) for _ in range(3)]
    assert first == [[Verdict(False, 0, ())]] * 3
    assert await admission.admit([ask("r", "2-0", LIMITS[0])]) == [Verdict(replay=True)]
    (other,) = await admission.admit([ask("other", "3-0", LIMITS[0])])
    assert 0 < other.wait_us <= 1_000_000


async def test_copies_within_one_batch_are_found(connection: QueueConnection) -> None:
    """The first one counts."""
    verdicts = await QueueAdmission(connection).admit([ask("r", f"{n}-0") for n in range(3)])
    assert [verdict.replay for verdict in verdicts] == [False, True, True]


async def test_marks_and_limits_end_by_themselves(connection: QueueConnection) -> None:
    """Every key has an end, so nothing piles up: marks with their request, limits when they are whole again."""
    admission = QueueAdmission(connection)
    await admission.admit([AdmissionAsk("sb:seen:r", b"r", b"1-0", 60_000, 2, (LIMITS[1],))])
    mark, limit = [await connection.call("PTTL", key) for key in ("sb:seen:r", LIMITS[1].key)]
    assert 59_000 < mark <= 60_000
    assert 20_000 < limit <= 21_000


async def test_a_flood_over_its_limit_leaves_no_more_marks_than_a_few_thousand(connection: QueueConnection) -> None:
    """What is refused beyond that is forgotten, and said to be; what was admitted stays marked."""
    admission, limit = QueueAdmission(connection), Limit("sb:lim:{k}:flood", Rate(1, 3_600_000, 2))

    def flood(number: int) -> list[AdmissionAsk]:
        ids = [number * 250 + each for each in range(250)]
        return [AdmissionAsk("sb:seen:f", b"%016d" % each, b"%d-0" % each, 60_000, 1, (limit,)) for each in ids]

    verdicts = [each for number in range(20) for each in await admission.admit(flood(number))]
    assert [verdict.is_clean for verdict in verdicts[:3]] == [True, True, False]
    assert not any(verdict.dropped for verdict in verdicts[:4000])
    assert all(verdict.dropped for verdict in verdicts[4250:])
    assert await connection.call("HLEN", "sb:seen:f") <= 4250
    (seen,) = await admission.admit([copy_of(flood(0)[0])])
    assert seen == Verdict(replay=True)
    mixed = await admission.admit([copy_of(flood(0)[1]), flood(0)[0], *flood(19)[:2]])
    assert mixed == [Verdict(True), Verdict(False), *[Verdict(False, dropped=True)] * 2]
    await connection.call("DEL", limit.key)
    again = await admission.admit(flood(19)[:4])  # not one of these is marked, and two are within the limit now
    assert [verdict.is_clean for verdict in again] == [True, True, False, False]
    assert [verdict.dropped for verdict in again] == [False, False, True, True]
    assert await admission.admit([copy_of(flood(19)[0])]) == [Verdict(replay=True)]


def copy_of(ask: AdmissionAsk) -> AdmissionAsk:
    """The same request in another entry."""
    again = copy(ask)
    again.entry_id = b"99999-0"
    return again


async def test_a_wide_limit_is_told_of_what_is_beyond_it(connection: QueueConnection) -> None:
    """Who is within a limit of thousands a second leaves so many marks; the few that are too much are answered."""
    admission, limit = QueueAdmission(connection), Limit("sb:lim:{k}:wide", Rate(1000, 1000, 5000))
    asks = [
        [AdmissionAsk("sb:seen:w", b"%016d" % (250 * n + each), b"1-0", 60_000, 1, (limit,)) for each in range(250)]
        for n in range(24)
    ]
    verdicts = [each for batch in asks for each in await admission.admit(batch)]
    assert sum(verdict.is_clean for verdict in verdicts) >= 5000
    assert any(verdict.wait_us for verdict in verdicts)
    assert not any(verdict.dropped for verdict in verdicts)


async def test_two_workers_share_a_limit(valkey_url: str, connection: QueueConnection) -> None:
    """Together they admit the burst and no more."""
    other = QueueConnection(valkey_url, "other")
    await other.open()
    workers = [QueueAdmission(connection), QueueAdmission(other)]
    slow = Limit("sb:lim:{x}:agent", Rate(1, 3_600_000, 10))
    verdicts = await asyncio.gather(
        *(worker.admit([ask(f"{n}-{i}", "1-0", slow) for i in range(20)]) for n, worker in enumerate(workers))
    )
    assert sum(verdict.wait_us == 0 for batch in verdicts for verdict in batch) == 10
    await other.close()


@pytest.mark.parametrize("state", ["junk", "-1", "9" * 30, "3999999999999999", "1e400", "-1e400", "nan", "0x10"])
@pytest.mark.parametrize("key", [LIMITS[0].key, "sb:lim:set-back", "sb:lim:latest"])
async def test_a_limit_state_that_somebody_wrote_never_admits_more_than_an_empty_one(
    connection: QueueConnection, key: str, state: str
) -> None:
    """Whatever stands there, the answer is a number or an error of the queue; never more than the burst."""
    await connection.call("SET", key, state)
    admitted = 0
    for number in range(5):
        try:
            (verdict,) = await QueueAdmission(connection).admit([ask(f"r{number}", "1-0", LIMITS[0])])
        except QueueError:
            continue
        admitted += not verdict.replay and verdict.wait_us == 0
    assert admitted <= LIMITS[0].rate.burst


async def test_marks_of_another_type_are_an_error_of_the_queue(connection: QueueConnection) -> None:
    """Nothing is admitted on them."""
    await connection.call("LPUSH", "sb:seen:1", "x")
    with pytest.raises(QueueError, match="refuses to admit"):
        await QueueAdmission(connection).admit([ask("r", "1-0", LIMITS[0])])


async def test_a_limit_state_of_another_type_counts_as_an_empty_one(connection: QueueConnection) -> None:
    """It is replaced, as if it had been deleted; the workers' own count catches that."""
    await connection.call("LPUSH", LIMITS[0].key, "x")
    verdicts = [(await QueueAdmission(connection).admit([ask("r" * n, "1-0", LIMITS[0])]))[0] for n in (1, 2)]
    assert [verdict.wait_us > 0 for verdict in verdicts] == [False, True]


@pytest.mark.parametrize(
    "reply",
    [
        *(b"OK", None, 7, [], [1], [1, 1], [1, 1, 0, 1], [1, 1, 0, 1, 0, 0], ["1", 1, 0, 1, 0], [1, 1, 0, 1, b"0"]),
        *([True, 1, 0, 1, 0], [2, 1, 0, 1, 0], [-1, 1, 0, 1, 0], [1, 1, 5, 1, 0], [1, 1, 0, 1, -5], [1, 2, 0, 1, 0]),
        *(
            [1, 1, 0, 0, 0],
            [1, -1, 3, 0, 0],
            [0, 0, 0, 0, 0, 0],
            [0, 2, 0, 0, 0, 0],
            [0, -1, 1, 0, 1, 0],
            [0, 1, 1, 0, 1, 0],
        ),
    ],
    ids=repr,
)
def test_an_answer_that_does_not_fit_its_question_admits_nothing(reply: object) -> None:
    """A queue that answers anything else is not believed."""
    with pytest.raises(QueueError, match="answer to an admission"):
        read_verdicts([[ask("r", "1-0", names=((LIMITS[0],),))]], reply)


async def test_a_connection_that_breaks_admits_nothing(valkey_url: str, connection: QueueConnection) -> None:
    """It is not known what was counted, so nothing may be released."""
    with Redis.from_url(valkey_url) as client:
        client.client_kill_filter(_id=str(connection.client_id))
    with pytest.raises(QueueError):
        await QueueAdmission(connection).admit([ask("r")])


def test_limits_that_several_requests_share_are_listed_once() -> None:
    """The script sees one state for one key."""
    packed = pack_batch(group([ask(str(n), "1-0", LIMITS[0], names=((LIMITS[0], LIMITS[1]),)) for n in range(3)]))
    assert packed[:6] == (5, "sb:seen:1", LIMITS[0].key, LIMITS[1].key, "sb:lim:set-back", "sb:lim:latest")


def test_the_script_is_part_of_the_package() -> None:
    """It is found beside the module that runs it."""
    assert Path(admission_module.__file__).with_name("admission.lua").read_text() == SCRIPT
