"""Writing behind the memory cache: never in anybody's way, and whatever goes wrong costs values only."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Never

import pytest
import structlog
from sealed_workbench import BINDING, CANARY, FIRST, NOW, REFS, SECOND, TTL, Host, Keeper, record

from broker_worker.cache.memory import MemoryCache
from broker_worker.cache.sealed.errors import RefusedError
from broker_worker.cache.sealed.store import SealedStore
from broker_worker.cache.sealed.write_behind import WriteBehind
from broker_worker.core.errors import FailureKind, ProviderError, SetupError
from broker_worker.ports import CachedValue, Fetched

DEADLINE = 60.0


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host without a sealed cache yet."""
    return Host(tmp_path / "home")


@pytest.fixture
def log() -> Iterator[list[structlog.typing.EventDict]]:
    """What was logged."""
    with structlog.testing.capture_logs() as logged:
        yield logged


def until(condition: Callable[[], object]) -> None:
    """Wait for something that another thread brings about."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def started(host: Host, max_entries: int = 100) -> tuple[WriteBehind, MemoryCache]:
    """What a worker has after its start."""
    behind = WriteBehind(host.store(), BINDING, max_entries, delay_seconds=0.01, again_seconds=0.02)
    cache = MemoryCache(max_entries, behind)
    for each in behind.start(REFS):
        cache.restore(each.ref, CachedValue(Fetched(each.value, each.version), each.fetched_at), each.until)
    return behind, cache


def value_of(cache: MemoryCache, ref: str, now: int = NOW) -> bytes | None:
    found = cache.get(ref, TTL, now)
    return found.fetched.value if isinstance(found, CachedValue) else None


def events(log: list[structlog.typing.EventDict]) -> list[str]:
    return [each["event"] for each in log]


def test_next_process_has_what_this_one_fetched(host: Host, log: list[structlog.typing.EventDict]) -> None:
    """Until its end as it was, not as it would be from the restart on; and it is looked for in texts again."""
    behind, cache = started(host)
    cache.put(FIRST, Fetched(CANARY, "7"), TTL, NOW)
    behind.close()
    host.now += 1000
    behind, cache = started(host)
    found = cache.get(FIRST, TTL, host.now)
    assert found == CachedValue(Fetched(CANARY, "7"), NOW)
    assert cache.redact(f"my {CANARY.decode()}") != f"my {CANARY.decode()}"
    assert value_of(cache, FIRST, NOW + TTL - 1) == CANARY
    assert value_of(cache, FIRST, NOW + TTL) is None
    behind.close()
    assert [(each["event"], each["records"]) for each in log] == [
        ("sealed_cache_opened", 0),
        ("sealed_cache_opened", 1),
    ]


def test_shorter_life_holds_at_once(host: Host) -> None:
    """Whoever asks for a shorter life after the restart does not get an older value."""
    behind, cache = started(host)
    cache.put(FIRST, Fetched(CANARY), TTL, NOW)
    behind.close()
    behind, cache = started(host)
    assert cache.get(FIRST, 500, NOW + 500) is None
    behind.close()


def test_changes_are_written_while_the_process_runs(host: Host) -> None:
    """A process that is killed loses what it fetched last, not everything."""
    behind, cache = started(host)
    cache.put(FIRST, Fetched(CANARY), TTL, NOW)
    until(lambda: host.values() == {FIRST: CANARY})
    cache.put(FIRST, Fetched(b"newer"), TTL, NOW + 1)
    host.now += 1
    until(lambda: host.values() == {FIRST: b"newer"})
    behind.close()


def test_only_a_definite_failure_forgets_a_value(host: Host) -> None:
    """A vault that is away says nothing about the value; one that has it no longer does."""
    behind, cache = started(host)
    for ref in (FIRST, SECOND):
        cache.put(ref, Fetched(CANARY), TTL, NOW)
    cache.put_failure(FIRST, ProviderError(FailureKind.UNREACHABLE, "away"), 100, NOW)
    cache.put_failure(SECOND, ProviderError(FailureKind.NOT_FOUND, "gone"), 100, NOW)
    behind.close()
    assert host.values() == {FIRST: CANARY}


def test_forgetting_in_memory_is_not_forgetting(host: Host) -> None:
    """A process that ends clears its memory; the file is for the next one."""
    behind, cache = started(host)
    cache.put(FIRST, Fetched(CANARY), TTL, NOW)
    cache.clear()
    behind.close()
    assert host.values() == {FIRST: CANARY}


def test_some_values_are_never_written(host: Host) -> None:
    """Those that a vault made for us and takes back, and those of the environment, which a restart reads anew."""
    behind, cache = started(host)
    cache.put(FIRST, Fetched(CANARY, upstream_lease="database/1"), TTL, NOW)
    cache.put("env://OPENAI", Fetched(CANARY), TTL, NOW)
    behind.close()
    assert host.rows() == []


def test_changed_providers_hold_from_the_next_value_on(host: Host) -> None:
    """What was fetched under the old sections is not used by a start under the new ones."""
    other = b"\x01" * 32
    behind, cache = started(host)
    cache.put(FIRST, Fetched(CANARY), TTL, NOW)
    behind.follow(other, 100)
    cache.put(SECOND, Fetched(CANARY), TTL, NOW)
    behind.close()
    assert set(host.values(binding=other)) == {SECOND}


def test_what_waits_is_bounded(host: Host) -> None:
    """A file that cannot be written does not fill the memory."""
    behind = WriteBehind(host.store(), BINDING, 3)
    for number, ref in enumerate(sorted(REFS)):
        behind.keep(ref, CachedValue(Fetched(CANARY), NOW), NOW + TTL + number)
    assert list(behind._pending) == sorted(REFS)[-3:]


def test_broken_file_is_said_once_and_replaced(host: Host, log: list[structlog.typing.EventDict]) -> None:
    """The start goes on with nothing, and what is fetched then survives."""
    host.keep(record())
    host.file.write_bytes(b"garbage")
    behind, cache = started(host)
    assert len(cache) == 0
    cache.put(FIRST, Fetched(CANARY), TTL, NOW)
    behind.close()
    assert host.values() == {FIRST: CANARY}
    assert events(log) == ["sealed_cache_started_over"]
    assert "damaged or cut short" in log[0]["reason"]


@pytest.mark.parametrize("is_closing", [False, True])
def test_file_that_breaks_while_it_is_used_is_replaced(
    host: Host, log: list[structlog.typing.EventDict], is_closing: bool
) -> None:
    """With the next write, or the last."""
    behind, cache = started(host)
    host.file.write_bytes(b"garbage")
    cache.put(FIRST, Fetched(CANARY), TTL, NOW)
    if not is_closing:
        until(lambda: events(log) == ["sealed_cache_opened", "sealed_cache_started_over"])
    behind.close()
    assert events(log) == ["sealed_cache_opened", "sealed_cache_started_over"]
    assert host.values() == {FIRST: CANARY}


def test_process_with_nothing_to_write_ends_quietly(host: Host, log: list[structlog.typing.EventDict]) -> None:
    """Also if the cache was cleared meanwhile: it is not made again."""
    behind, _ = started(host)
    host.store().clear()
    behind.close()
    assert events(log) == ["sealed_cache_opened"]
    assert not host.file.exists()


def test_key_keeper_that_is_away_is_said_once(tmp_path: Path, log: list[structlog.typing.EventDict]) -> None:
    """The process serves from memory, and writes once the keeper is back; what was on disk is kept."""
    keeper = Keeper()
    host = Host(tmp_path / "home", master_key="tpm", makers={"tpm": lambda: keeper})
    host.keep(record())
    keeper.is_there = False
    behind, cache = started(host)
    assert len(cache) == 0
    cache.put(SECOND, Fetched(CANARY), TTL, NOW)
    tries = []
    original = SealedStore.open

    def counted(*arguments: object) -> object:
        tries.append(1)
        return original(*arguments)  # type: ignore[arg-type]  # as it was called

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SealedStore, "open", counted)
        until(lambda: len(tries) > 2)
    assert events(log) == ["sealed_cache_off"]
    assert (log[0]["error"], log[0]["hint"]) == ("the double is away", "bring it back")
    keeper.is_there = True
    until(lambda: "sealed_cache_written_again" in events(log))
    behind.close()
    assert set(host.values()) == {FIRST, SECOND}


@pytest.mark.parametrize("failure", [SetupError("no space left", hint="free some"), MemoryError(CANARY.decode())])
def test_fault_of_the_store_loses_no_change(
    host: Host, log: list[structlog.typing.EventDict], failure: Exception
) -> None:
    """It is tried again, said once, and of a defect only the type is told."""
    behind, cache = started(host)
    tries = []

    def fail(*_: object, **__: object) -> Never:
        tries.append(1)
        raise failure

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SealedStore, "commit", fail)
        cache.put(FIRST, Fetched(CANARY), TTL, NOW)
        until(lambda: len(tries) > 2)
        cache.put(SECOND, Fetched(CANARY), TTL, NOW)
    until(lambda: set(host.values()) == {FIRST, SECOND})
    behind.close()
    assert events(log) == ["sealed_cache_opened", "sealed_cache_off", "sealed_cache_written_again"]
    assert CANARY.decode() not in str(log)


def test_keeper_that_hangs_does_not_hold_up_the_start(
    host: Host, log: list[structlog.typing.EventDict], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A keyring that waits for a person: the process starts with nothing, and does not take old values later."""
    host.keep(record())
    answer = threading.Event()
    original = SealedStore.open

    def hang(*arguments: object) -> object:
        answer.wait(DEADLINE)
        return original(*arguments)  # type: ignore[arg-type]  # as it was called

    monkeypatch.setattr(SealedStore, "open", hang)
    behind = WriteBehind(host.store(), BINDING, 100, delay_seconds=0.01)
    assert list(behind.start(REFS, wait_seconds=0.01)) == []
    behind.close(wait_seconds=0.01)
    answer.set()
    until(lambda: "sealed_cache_opened" in events(log))
    behind.close()
    assert behind._records == ()
    assert "did not open within 0.01 s" in log[0]["error"]
    assert host.values() == {FIRST: CANARY}


def test_reading_never_asks_the_keeper() -> None:
    """A hit costs what it costs without a sealed cache."""

    class Untouchable:
        def keep(self, ref: str, value: CachedValue, until: int) -> None:
            assert value.fetched_at == 0

        def drop(self, ref: str) -> Never:
            raise AssertionError(ref)

    cache = MemoryCache(2, Untouchable())
    cache.put(FIRST, Fetched(CANARY), TTL, 0)
    assert value_of(cache, FIRST, 1) == CANARY
    assert value_of(cache, FIRST, TTL) is None
    cache.purge(TTL)
    cache.clear()
    assert MemoryCache.get.__code__.co_names.count("_keeper") == 0


def test_values_are_not_shown(host: Host) -> None:
    """By no representation of what holds them."""
    behind, cache = started(host)
    cache.put(FIRST, Fetched(CANARY), TTL, NOW)
    shown = repr(behind) + repr(behind._pending) + repr(host.store()) + repr(behind._store._key)
    behind.close()
    assert CANARY.decode() not in shown
    opened = behind._store._key
    assert opened is not None
    assert repr(opened.master) not in shown
    assert not isinstance(opened, RefusedError)
