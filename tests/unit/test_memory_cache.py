"""Values between two uses: each with its end, a bound on all of them, and none shown."""

from hypothesis import given
from hypothesis import strategies as st

from broker_worker.cache.memory import SETTING_MS, MemoryCache
from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.core.redaction import NOTE
from broker_worker.ports import CachedValue, Fetched

AWAY = ProviderError(FailureKind.UNREACHABLE, "away")
GONE = ProviderError(FailureKind.NOT_FOUND, "no such entry")


def value_of(cache: MemoryCache, ref: str, ttl_ms: int = 1000, now: int = 0) -> bytes | None:
    found = cache.get(ref, ttl_ms, now)
    return found.fetched.value if isinstance(found, CachedValue) else None


def test_a_value_is_there_until_its_end() -> None:
    """At its end it is not."""
    cache = MemoryCache(10)
    cache.put("r", Fetched(b"value", "1"), 1000, 0)
    assert value_of(cache, "r", now=999) == b"value"
    assert cache.get("r", 1000, 1000) is None
    assert len(cache) == 0


def test_who_asks_for_a_shorter_life_gets_it() -> None:
    """A value older than that is not there for it, and still there for who asks for a longer one."""
    cache = MemoryCache(10)
    cache.put("r", Fetched(b"value"), 1000, 0)
    assert cache.get("r", 500, 499) is not None
    assert cache.get("r", 500, 500) is None
    assert value_of(cache, "r", 1000, 500) == b"value"


def test_a_clock_that_is_set_back_makes_no_value_live_longer() -> None:
    """Nobody knows how old it is then; what adjusts a clock a little takes nothing away."""
    cache = MemoryCache(10)
    cache.put("r", Fetched(b"value"), 600_000, 3_600_000)
    cache.put_failure("gone", GONE, 600_000, 3_600_000)
    cache.purge(3_600_000)
    cache.purge(3_600_000 - SETTING_MS)
    assert value_of(cache, "r", 600_000, 3_600_000) == b"value"
    cache.purge(0)
    assert len(cache) == 0
    assert cache.redact("a value") == "a value"


def test_a_value_is_not_kept_longer_than_its_vault_lets_it_live() -> None:
    """A credential that ends sooner than the time to live is gone by then."""
    cache = MemoryCache(10)
    cache.put("r", Fetched(b"value", "1", "lease-1", 400), 1000, 0)
    assert value_of(cache, "r", now=399) == b"value"
    assert cache.get("r", 1000, 400) is None


def test_all_values_of_a_lease_that_a_vault_ends_are_dropped() -> None:
    """And nothing else."""
    cache = MemoryCache(10)
    cache.put("user", Fetched(b"user", "1", "lease-1"), 1000, 0)
    cache.put("password", Fetched(b"password", "1", "lease-1"), 1000, 0)
    cache.put("other", Fetched(b"other", "1", "lease-2"), 1000, 0)
    cache.put("stored", Fetched(b"stored", "1"), 1000, 0)
    cache.put_failure("gone", GONE, 1000, 0)
    cache.forget_lent({"lease-1", "lease-3"})
    kept = [value_of(cache, ref) for ref in ("user", "password", "other", "stored")]
    assert kept == [None, None, b"other", b"stored"]
    assert cache.get("gone", 1000, 0) is GONE
    assert cache.redact("a password") == "a password"


def test_a_failure_is_remembered_for_its_time() -> None:
    """And replaced by a value, or a value by a failure."""
    cache = MemoryCache(10)
    cache.put_failure("r", GONE, 100, 0)
    assert cache.get("r", 1000, 99) is GONE
    assert cache.get("r", 1000, 100) is None
    cache.put_failure("r", GONE, 100, 0)
    cache.put("r", Fetched(b"value"), 1000, 0)
    assert value_of(cache, "r") == b"value"
    cache.put_failure("r", GONE, 100, 0)
    assert cache.get("r", 1000, 0) is GONE
    assert cache.redact("my value") == "my value"


def test_a_value_past_its_time_is_there_for_who_takes_it_stale() -> None:
    """As long as it was to be kept and no longer, and for nobody else."""
    cache = MemoryCache(10)
    cache.put("r", Fetched(b"value"), 1000, 0)
    assert cache.get("r", 100, 500) is None
    assert cache.get_stale("r", 600, 500) == CachedValue(Fetched(b"value"), 0)
    assert cache.get_stale("r", 500, 500) is None
    assert cache.get_stale("r", 5000, 999) is not None
    assert cache.get_stale("r", 5000, 1000) is None
    assert cache.get_stale("other", 5000, 0) is None


def test_a_failure_that_may_pass_leaves_the_value_and_a_no_ends_it() -> None:
    """A vault that is away has not said no; one that has no such entry has."""
    cache = MemoryCache(10)
    cache.put("r", Fetched(b"value"), 1000, 0)
    cache.put_failure("r", AWAY, 100, 200)
    assert cache.get("r", 100, 200) is AWAY
    assert cache.get("r", 100, 300) is None
    assert value_of(cache, "r", 1000, 300) == b"value"
    assert cache.get_stale("r", 1000, 300) is not None
    assert cache.redact("my value") == NOTE
    cache.put_failure("r", GONE, 100, 300)
    assert cache.get_stale("r", 1000, 300) is None
    assert cache.redact("my value") == "my value"


def test_failures_are_bounded_like_values() -> None:
    """The oldest one makes room; no value does."""
    cache = MemoryCache(2)
    cache.put("a", Fetched(b"aaaa"), 1000, 0)
    for ref in "bcd":
        cache.put_failure(ref, AWAY, 1000, 0)
    assert [cache.get(ref, 1000, 0) for ref in "bcd"] == [None, AWAY, AWAY]
    assert value_of(cache, "a") == b"aaaa"
    cache.resize(1)
    assert [cache.get(ref, 1000, 0) for ref in "cd"] == [None, AWAY]
    cache.purge(1000)
    assert len(cache) == 0


def test_the_least_recently_used_one_makes_room() -> None:
    """A use counts, and what is put again does not push out another."""
    cache = MemoryCache(2)
    cache.put("a", Fetched(b"aaaa"), 1000, 0)
    cache.put("b", Fetched(b"bbbb"), 1000, 0)
    cache.put("b", Fetched(b"bbbb"), 1000, 0)
    assert value_of(cache, "a") == b"aaaa"
    cache.put("c", Fetched(b"cccc"), 1000, 0)
    assert [value_of(cache, ref) for ref in "abc"] == [b"aaaa", None, b"cccc"]


def test_a_smaller_bound_drops_at_once() -> None:
    """After a reload of the configuration."""
    cache = MemoryCache(3)
    for ref in "abc":
        cache.put(ref, Fetched(ref.encode() * 4), 1000, 0)
    cache.resize(1)
    assert [value_of(cache, ref) for ref in "abc"] == [None, None, b"cccc"]


def test_purging_drops_what_is_over_and_clearing_everything() -> None:
    """Values do not lie in memory for being forgotten."""
    cache = MemoryCache(10)
    cache.put("a", Fetched(b"aaaa"), 100, 0)
    cache.put("b", Fetched(b"bbbb"), 1000, 0)
    cache.purge(100)
    assert len(cache) == 1
    cache.clear()
    assert len(cache) == 0
    assert cache.redact("bbbb") == "bbbb"


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 2), st.integers(1, 50), st.integers(0, 20))))
def test_what_is_looked_for_is_what_is_kept(steps: list[tuple[str, int, int, int]]) -> None:
    """After any sequence of uses a text is redacted if and only if the cache holds the value in it."""
    cache, now = MemoryCache(2), 0
    for ref, what, ttl, later in steps:
        now += later
        if what == 0:
            cache.put(ref, Fetched(f"value-{ref}-{ttl % 3}".encode()), ttl, now)
        elif what == 1:
            cache.get(ref, ttl, now)
        else:
            cache.purge(now)
        assert len(cache) <= 2
        held = {kept.value.fetched.value.decode() for kept in cache._kept.values()}
        for text in (f"value-{r}-{n}" for r in "abcd" for n in range(3)):
            assert (cache.redact(text) == NOTE) == (text in held)


def test_values_are_not_shown() -> None:
    """Neither by the cache nor by what is in it."""
    cache = MemoryCache(10)
    cache.put("r", Fetched(b"hush-hush"), 1000, 0)
    assert repr(cache) == "MemoryCache(1 of 10 entries)"
    assert "hush" not in repr(cache.get("r", 1000, 0)) + repr(cache._kept)
