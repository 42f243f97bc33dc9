"""Fetching from vaults: once for everybody, and a vault that misbehaves costs nobody but those who wait for it."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from desk_workbench import LONG, NOW, DeskBench, until
from fake_vault import FakeVault
from vault_workbench import StateNotebook, hardened

from agent_sdk.wire.messages import MAX_VALUE
from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.pipeline.settling import Waiting
from broker_worker.ports import Fetched
from broker_worker.providers.resilient import ResilientProvider
from broker_worker.providers.vault_calls import CALLS_AT_ONCE
from broker_worker.worker import fetches as fetches_module
from broker_worker.worker.fetches import Fetches


class Fetching:
    """Fetches that run, with two vaults, and what they put into the cache."""

    def __init__(self, bench: DeskBench, deadline: float) -> None:
        self.bench = bench
        self.deadline = deadline
        self.local, self.other = FakeVault(), FakeVault({"env://A": b"from the environment"}, name="env")
        self.kept: dict[str, Any] = {}
        self.states = StateNotebook()
        self.fetches = Fetches({"local": self.wrapped(self.local), "env": self.wrapped(self.other)}, self._keep)

    def wrapped(self, vault: FakeVault) -> ResilientProvider:
        """The vault as the broker wraps it."""
        return hardened(vault, self.states, deadline=self.deadline)

    def _keep(self, ref: str, result: Fetched | ProviderError, ttl_ms: int) -> None:
        self.kept[ref] = result

    async def waiting(self, *refs: str) -> Waiting:
        """A request that waits for references."""
        served = await self.bench.serve(self.bench.entry(self.bench.run(), None, "openai.api_key"))
        return Waiting(served.waiting[0].ask, dict.fromkeys(refs, 1000))

    async def ready(self, count: int = 1) -> list[Waiting]:
        """The next requests that can go on."""
        found: list[Waiting] = []
        while len(found) < count:
            await asyncio.wait_for(self.fetches.done.wait(), LONG)
            found += self.fetches.take_ready()
        return found


@pytest.fixture
def deadline() -> float:
    """How long a vault may take; tests of one that hangs say less."""
    return LONG


@pytest.fixture
async def fetching(tmp_path: Path, deadline: float) -> AsyncIterator[Fetching]:
    made = Fetching(DeskBench(tmp_path), deadline)
    task = asyncio.create_task(made.fetches.run())
    yield made
    assert not task.done(), "a vault ended the loop that fetches"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def values(found: Mapping[str, Fetched | ProviderError]) -> dict[str, bytes | FailureKind]:
    """What was found, in short."""
    return {ref: each.value if isinstance(each, Fetched) else each.kind for ref, each in found.items()}


async def test_many_who_want_the_same_ask_once(fetching: Fetching) -> None:
    """Single flight, also for those who come while the vault is being asked."""
    fetching.local.gate = asyncio.Event()
    asks = [await fetching.waiting("local://openai") for _ in range(50)]
    fetching.fetches.add(asks[:25])
    await until(lambda: fetching.local.calls)
    fetching.fetches.add(asks[25:])
    fetching.local.gate.set()
    assert {id(each) for each in await fetching.ready(50)} == {id(each) for each in asks}
    assert fetching.local.calls == [("local://openai",)]


async def test_who_comes_just_before_the_answer_does_not_have_it_asked_for_again(fetching: Fetching) -> None:
    """They are given that answer; another call would spend the vault's budget for nobody."""
    fetching.local.gate = asyncio.Event()
    fetching.fetches.replace({"local": fetching.local})  # as it is: what wraps it takes turns of the loop
    asks = [await fetching.waiting("local://openai") for _ in range(2)]
    fetching.fetches.add(asks[:1])
    await until(lambda: fetching.local.calls)
    fetching.local.gate.set()
    fetching.fetches.add(asks[1:])
    assert {id(each) for each in await fetching.ready(2)} == {id(each) for each in asks}
    for _ in range(10):
        await asyncio.sleep(0)
    assert fetching.local.calls == [("local://openai",)]


async def test_a_request_goes_on_when_all_of_its_references_are_settled(fetching: Fetching) -> None:
    """From several vaults, each asked for its own."""
    waiting = await fetching.waiting("local://openai", "local://missing", "env://A", "op://v/i/f")
    fetching.fetches.add([waiting])
    await fetching.ready()
    assert values(waiting.found) == {
        "local://openai": b"value of openai",
        "local://missing": FailureKind.NOT_FOUND,
        "env://A": b"from the environment",
        "op://v/i/f": FailureKind.BAD_REFERENCE,
    }
    assert values(fetching.kept) == values(waiting.found)


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (ProviderError(FailureKind.FORBIDDEN, "no"), FailureKind.FORBIDDEN),
        (RuntimeError("a defect"), FailureKind.UNKNOWN),
        (KeyError("local://openai"), FailureKind.UNKNOWN),
        (TimeoutError(), FailureKind.TIMEOUT),
        (RecursionError(), FailureKind.UNKNOWN),
        (MemoryError(), FailureKind.UNKNOWN),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_a_vault_that_raises_costs_its_own_names_only(
    fetching: Fetching, failure: Exception, kind: FailureKind
) -> None:
    """Names of the other vault are found, and the next request of the first one is asked anew."""
    fetching.local.failure = failure
    waiting = await fetching.waiting("local://openai", "env://A")
    fetching.fetches.add([waiting])
    await fetching.ready()
    assert values(waiting.found) == {"local://openai": kind, "env://A": b"from the environment"}
    fetching.local.failure = None
    fetching.states.now += 1_000  # a vault that failed three times is left alone for a second
    again = await fetching.waiting("local://openai")
    fetching.fetches.add([again])
    await fetching.ready()
    assert values(again.found) == {"local://openai": b"value of openai"}


@pytest.mark.parametrize(
    "answer",
    [0, [], "text", {"local://other": Fetched(b"x")}, [("local://openai", b"raw")], {"local://openai": None}],
    ids=repr,
)
async def test_an_answer_that_is_no_answer_is_unknown(fetching: Fetching, answer: Any) -> None:
    """Whatever a provider returns, the loop goes on and the name is unavailable."""
    fetching.local.answer = answer
    waiting = await fetching.waiting("local://openai")
    fetching.fetches.add([waiting])
    await fetching.ready()
    assert values(waiting.found) == {"local://openai": FailureKind.UNKNOWN}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Fetched(b""), FailureKind.TOO_LARGE),
        (Fetched(b"x" * (MAX_VALUE + 1)), FailureKind.TOO_LARGE),
        (Fetched("text"), FailureKind.UNKNOWN),  # type: ignore[arg-type]  # what a broken provider could do
        (Fetched(bytearray(b"x")), FailureKind.UNKNOWN),  # type: ignore[arg-type]  # the same
        ("text", FailureKind.UNKNOWN),
        (Fetched(b"good", "v" * 129), b"good"),
        (Fetched(b"good", 7), b"good"),  # type: ignore[arg-type]  # the same
        (Fetched(b"x" * MAX_VALUE), b"x" * MAX_VALUE),
    ],
    ids=["empty", "too long", "str", "bytearray", "bare", "long version", "odd version", "largest"],
)
async def test_a_value_that_could_not_be_sent_is_not_taken(
    fetching: Fetching, value: Any, expected: bytes | FailureKind
) -> None:
    """Size and type are checked where a value enters; a version that does not fit is dropped."""
    fetching.local.values["local://openai"] = value
    waiting = await fetching.waiting("local://openai")
    fetching.fetches.add([waiting])
    await fetching.ready()
    assert values(waiting.found) == {"local://openai": expected}
    found = waiting.found["local://openai"]
    assert isinstance(found, ProviderError) or found.version is None


@pytest.mark.parametrize("deadline", [0.5])
async def test_a_vault_that_hangs_holds_up_nobody_else(fetching: Fetching) -> None:
    """The other vault answers meanwhile; whoever waits for this one learns of the timeout."""
    fetching.local.gate = asyncio.Event()
    stuck, quick = await fetching.waiting("local://openai"), await fetching.waiting("env://A")
    fetching.fetches.add([stuck, quick])
    assert await fetching.ready() == [quick]
    assert await fetching.ready() == [stuck]
    assert values(stuck.found) == {"local://openai": FailureKind.TIMEOUT}


async def test_calls_of_one_vault_at_a_time_are_bounded(fetching: Fetching) -> None:
    """However many references are missing, a vault has a few calls at once."""
    fetching.local.gate = asyncio.Event()
    for number in range(10):
        fetching.fetches.add([await fetching.waiting(f"local://n{number}")])
        await asyncio.sleep(0)
    await until(lambda: len(fetching.local.calls) >= CALLS_AT_ONCE)
    assert len(fetching.local.calls) == CALLS_AT_ONCE
    fetching.local.gate.set()
    assert len(await fetching.ready(10)) == 10


async def test_more_than_can_wait_are_told_to_come_back(fetching: Fetching, monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue of those who wait has a bound."""
    monkeypatch.setattr(fetches_module, "MAX_WAITING", 2)
    fetching.local.gate = asyncio.Event()
    asks = [await fetching.waiting("local://openai") for _ in range(3)]
    fetching.fetches.add(asks)
    assert await fetching.ready() == asks[2:]
    (found,) = asks[2].found.values()
    assert isinstance(found, ProviderError)
    assert (found.kind, found.retry_after) == (FailureKind.RATE_LIMITED, 2000)


async def test_nobody_waits_beyond_its_deadline(fetching: Fetching) -> None:
    """A request whose time is over goes on without the value; the others stay."""
    fetching.local.gate = asyncio.Event()
    waiting = await fetching.waiting("local://openai")
    fetching.fetches.add([waiting])
    fetching.fetches.give_up_overdue(NOW + 14_999)
    assert (len(fetching.fetches), fetching.fetches.take_ready()) == (1, [])
    fetching.fetches.give_up_overdue(NOW + 15_000)
    assert fetching.fetches.take_ready() == [waiting]
    assert values(waiting.found) == {"local://openai": FailureKind.TIMEOUT}


async def test_what_a_replaced_vault_still_answers_is_not_used(fetching: Fetching) -> None:
    """Its values are neither cached nor released: the new one is asked."""
    fetching.local.gate = asyncio.Event()
    both = await fetching.waiting("local://openai", "env://A")
    fetching.fetches.add([both])
    await until(lambda: fetching.local.calls and both.found)
    new = FakeVault({"local://openai": b"new value", "env://A": b"new too"})
    fetching.fetches.replace(dict.fromkeys(("local", "env"), fetching.wrapped(new)))
    fetching.local.gate.set()
    await fetching.ready()
    assert values(both.found) == {"local://openai": b"new value", "env://A": b"new too"}
    assert fetching.kept["local://openai"].value == b"new value"


async def test_what_a_replaced_vault_gave_and_was_not_taken_yet_is_not_used(fetching: Fetching) -> None:
    """As while the queue is away: the request waits with a value of a vault that the files do not name any more."""
    waiting = await fetching.waiting("local://openai")
    fetching.fetches.add([waiting])
    await until(lambda: waiting.found)
    fetching.fetches.replace({"local": fetching.wrapped(FakeVault({"local://openai": b"new value"}))})
    assert await fetching.ready() == [waiting]
    assert values(waiting.found) == {"local://openai": b"new value"}


async def test_a_scheme_that_has_no_vault_any_more_is_a_bad_reference(fetching: Fetching) -> None:
    """Also for those who wait already."""
    fetching.local.gate = asyncio.Event()
    waiting = await fetching.waiting("local://openai")
    fetching.fetches.add([waiting])
    await until(lambda: fetching.local.calls)
    fetching.fetches.replace({})
    fetching.local.gate.set()
    await fetching.ready()
    assert values(waiting.found) == {"local://openai": FailureKind.BAD_REFERENCE}
