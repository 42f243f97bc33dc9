"""Leases: only the run that holds one can show it, and no two are alike."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_sdk.wire.errors import WireError
from agent_sdk.wire.messages import Renew, Request, decode_request, encode_request
from broker_worker.core.leases import Holding, Lease, LeaseBook, LeaseMint, lease_key

NOW = 1_800_000_000_000
KEY = lease_key(bytes(range(32)))
RUN = bytes([5]) * 32
part = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=20)
name = st.lists(part, min_size=1, max_size=5).map(".".join)
version = st.none() | st.text(string.printable, min_size=1, max_size=128)
thirty_two = st.binary(min_size=32, max_size=32)
time = st.integers(0, 2**53 - 1)


def lease(mint: LeaseMint | None = None, run_key: bytes = RUN, agent: str = "claude") -> Lease:
    return (mint or LeaseMint(KEY)).issue(agent, run_key, "db.root", "7", NOW, NOW + 60_000)


def holding(secret: str = "db.root", *, run_key: bytes = RUN, expires_at: int = NOW + 1000) -> Holding:
    issued = LeaseMint(KEY).issue("claude", run_key, secret, "7", NOW, NOW + 60_000)
    return Holding("claude", "run-1", "token-1", run_key, issued, expires_at)


@given(name, version, time, time, thirty_two, part)
def test_a_lease_reads_back_as_it_was_issued(
    name: str, version: str | None, now: int, ends_at: int, run_key: bytes, agent: str
) -> None:
    """Any worker with the key tells a lease from its token alone, and the token fits the wire."""
    issued = LeaseMint(KEY).issue(agent, run_key, name, version, now, ends_at)
    assert LeaseMint(KEY).read(issued.token, agent, run_key) == issued
    request = Request(bytes(16), 0, 1, "t", Renew(issued.token))
    assert decode_request(encode_request(request)) == request
    assert issued.lease_id == issued.token[:16].hex()


@given(st.data())
def test_a_changed_token_never_reads(data: st.DataObject) -> None:
    """No byte of a token can be replaced, added or cut off."""
    token = bytearray(lease().token)
    place = data.draw(st.integers(0, len(token)))
    token[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    if token != lease().token:
        with pytest.raises(WireError, match="no lease of this run"):
            LeaseMint(KEY).read(bytes(token), "claude", RUN)


@given(st.binary(max_size=600))
def test_no_bytes_are_a_lease(token: bytes) -> None:
    """What the broker did not issue is refused, whatever its length."""
    with pytest.raises(WireError) as caught:
        LeaseMint(KEY).read(token, "claude", RUN)
    assert caught.value.reason == "unknown_lease"


@given(thirty_two, part, thirty_two)
def test_another_run_agent_or_broker_never_reads_it(run_key: bytes, agent: str, seed: bytes) -> None:
    """A token that leaked opens nothing for anybody else."""
    token = lease().token
    for key, who, holder in ((KEY, "claude", run_key), (KEY, agent, RUN), (lease_key(seed), "claude", RUN)):
        if (key, who, holder) != (KEY, "claude", RUN):
            with pytest.raises(WireError, match="no lease of this run"):
                LeaseMint(key).read(token, who, holder)


def test_two_leases_of_one_millisecond_differ() -> None:
    """A lease that is given back and asked for again at once is another one."""
    mint = LeaseMint(KEY)
    assert lease(mint).lease_id != lease(mint).lease_id


def test_mints_of_two_workers_do_not_issue_the_same_lease() -> None:
    """Where the count begins keeps two workers apart."""
    assert lease(LeaseMint(KEY, 1000)).lease_id != lease(LeaseMint(KEY, 2000)).lease_id


def test_lease_key_is_not_the_identity() -> None:
    """The key that authenticates leases is derived for that alone."""
    assert lease_key(bytes(32)) != bytes(32)
    assert lease_key(bytes(32)) != lease_key(bytes([1]) * 32)


def test_book_knows_what_a_run_holds_until_it_expires() -> None:
    """The lease of a version is found until its end, for its run only."""
    book, held = LeaseBook(), holding()
    book.note(held)
    assert book.held(RUN, "db.root", "7", NOW + 999) is held
    assert book.held(RUN, "db.root", "7", NOW + 1000) is None
    assert book.held(RUN, "db.root", "8", NOW) is None
    assert book.held(bytes(32), "db.root", "7", NOW) is None


def test_book_counts_uses_and_moves_the_end() -> None:
    """Every use of a lease is counted; renewing is no use."""
    book, held = LeaseBook(), holding()
    book.note(held)
    book.use(held, NOW + 5000)
    book.renew(held, NOW + 9000)
    assert (held.uses, held.expires_at) == (2, NOW + 9000)
    assert list(book) == [held]


def test_purge_returns_what_expired_and_keeps_the_rest() -> None:
    """The worker is told of what expired, so that a vault can take it back."""
    book, short, long = LeaseBook(), holding("a"), holding("b", expires_at=NOW + 2000)
    book.note(short)
    book.note(long)
    assert book.purge(NOW + 1000) == [short]
    assert list(book) == [long]
    assert book.purge(NOW + 1000) == []


def test_ended_lease_is_forgotten() -> None:
    """What was given back or revoked is held no longer."""
    book, held = LeaseBook(), holding()
    book.note(held)
    book.end(held)
    assert len(book) == 0
    book.end(held)


def test_book_is_bounded() -> None:
    """The least recently used lease is forgotten first."""
    book = LeaseBook(limit=2)
    first, second, third = (holding(secret) for secret in "abc")
    book.note(first)
    book.note(second)
    book.use(first, NOW + 1000)
    book.note(third)
    assert list(book) == [first, third]
