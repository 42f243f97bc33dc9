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


def holding(
    secret: str = "db.root", *, run_key: bytes = RUN, expires_at: int = NOW + 1000, upstream: str | None = None
) -> Holding:
    issued = LeaseMint(KEY).issue("claude", run_key, secret, "7", NOW, NOW + 60_000)
    return Holding("claude", "run-1", "token-1", run_key, issued, expires_at, upstream=upstream)


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


def test_a_lease_is_of_a_canonical_name() -> None:
    """Whatever made the token: no other name gets further."""
    issued = LeaseMint(KEY).issue("claude", RUN, "DB.root", "7", NOW, NOW + 60_000)
    with pytest.raises(WireError, match="no lease of this run"):
        LeaseMint(KEY).read(issued.token, "claude", RUN)


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


def test_purge_forgets_what_expired_and_keeps_the_rest() -> None:
    """Each at its own time."""
    book, short, long = LeaseBook(), holding("a"), holding("b", expires_at=NOW + 2000)
    book.note(short)
    book.note(long)
    book.purge(NOW + 1000)
    assert list(book) == [long]


def test_an_upstream_lease_is_over_with_the_last_lease_that_shares_it() -> None:
    """User name and password of one credential, and another run that has the password as well."""
    book = LeaseBook()
    user, password, theirs = (
        holding("db.user", upstream="lease-1"),
        holding("db.password", upstream="lease-1", expires_at=NOW + 3000),
        holding("db.password", upstream="lease-1", run_key=bytes(32)),
    )
    for each in (user, password, theirs, holding("db.root")):
        book.note(each)
    assert book.sharing("lease-1") == [user, password, theirs]
    book.end(user)
    book.purge(NOW + 1000)
    assert book.sharing("lease-1") == [password]
    assert book.take_over() == []
    book.purge(NOW + 3000)
    assert [each.upstream for each in book.take_over()] == ["lease-1"]
    assert book.sharing("lease-1") == book.take_over() == []


def test_what_is_held_again_before_anybody_looked_is_not_over() -> None:
    """The cache may hand it out once more in between."""
    book, first, again = LeaseBook(), holding(upstream="lease-1"), holding("other", upstream="lease-1")
    book.note(first)
    book.end(first)
    book.note(again)
    assert book.take_over() == []
    book.end(again)
    assert book.take_over() == [again]


def test_a_lease_in_anothers_place_ends_what_the_other_had() -> None:
    """Another credential; one that is renewed or replaced by a lease of the same one goes on."""
    book = LeaseBook()
    for _ in range(2):
        book.note(holding(upstream="lease-1"))
    assert book.take_over() == []
    book.note(holding(upstream="lease-2"))
    assert [each.upstream for each in book.take_over()] == ["lease-1"]
    assert len(book.sharing("lease-2")) == len(book) == 1


def test_what_makes_room_gives_its_upstream_lease_up() -> None:
    """A book that is full forgets no credential of a vault's."""
    book = LeaseBook(limit=1)
    book.note(holding("a", upstream="lease-1"))
    book.note(holding("b"))
    assert [each.upstream for each in book.take_over()] == ["lease-1"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), st.booleans()), max_size=40))
def test_an_upstream_lease_is_held_or_over_once(steps: list[tuple[str, str, bool]]) -> None:
    """Whatever begins and ends in whichever order, nothing is forgotten and nothing is taken back while it is held."""
    book, told, begun = LeaseBook(limit=2), list[str](), set[str]()
    for number, (secret, upstream, begins) in enumerate(steps):
        if begins:
            name = upstream if book.sharing(upstream) else f"{upstream}-{number}"
            begun.add(name)
            book.note(holding(secret, upstream=name))
        else:
            book.end(holding(secret))
        told += [each.upstream for each in book.take_over() if each.upstream is not None]
        held = {each.upstream for each in book}
        assert held.isdisjoint(told)
        assert held | set(told) == begun
    assert len(told) == len(set(told))


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


def test_another_lease_of_the_same_version_goes_on_when_one_is_given_back_or_renewed() -> None:
    """A run can have one of each worker; what a worker does not know must not make it forget what it does."""
    book = LeaseBook()
    mine = holding(upstream="aws/1")
    other = Holding("claude", "run-1", "token-1", RUN, lease(LeaseMint(KEY, 99)), NOW + 1000)
    assert other.lease.token != mine.lease.token
    book.note(mine)
    book.end(other)
    assert list(book) == [mine]
    book.renew(other, NOW + 2000)
    assert list(book) == [mine]
    assert book.take_over() == []
    book.end(mine)
    book.renew(other, NOW + 2000)
    assert list(book) == [other]


def test_what_was_inherited_can_end_and_is_no_lease_for_a_new_use() -> None:
    """A run that asks again is given one of this worker's, beside it; each ends by itself."""
    book, old = LeaseBook(), holding(upstream="aws/1")
    book.inherit([old])
    assert book.held(RUN, "db.root", "7", NOW) is None
    new = Holding("claude", "run-1", "token-1", RUN, lease(LeaseMint(KEY, 99)), NOW + 1000)
    book.note(new)
    assert list(book) == [old, new]
    assert book.sharing("aws/1") == [old]
    book.end(new)
    assert list(book) == [old]
    book.end(old)
    assert list(book) == []
    assert book.take_over() == [old]


def test_what_was_inherited_and_then_renewed_ends_once_for_all() -> None:
    """Its run showed the token, so this worker knows it by that as well."""
    book, old = LeaseBook(), holding()
    book.inherit([old])
    shown = Holding("claude", "run-1", "token-1", RUN, old.lease, NOW + 1000)
    book.renew(shown, NOW + 2000)
    book.end(shown)
    assert list(book) == []


def test_what_was_inherited_is_forgotten_at_its_time_and_before_this_workers_own() -> None:
    """As many of the newest as there is room for."""
    book = LeaseBook(limit=3)
    mine = holding("mine", expires_at=NOW + 5000)
    book.note(mine)
    book.inherit([holding(secret, expires_at=NOW + each) for each, secret in enumerate("abcd", 1)])
    assert {each.lease.name for each in book} == {"mine", "c", "d"}
    another = holding("another", expires_at=NOW + 5000)
    book.note(another)
    assert {each.lease.name for each in book} >= {"mine", "another"}
    book.purge(NOW + 4)
    assert list(book) == [mine, another]


def test_what_begins_and_what_ends_early_is_news() -> None:
    """Uses, renewals and ends by time are not: nothing is written for them. Nor is what was inherited."""
    book, told = LeaseBook(), list[int]()
    book.on_news = lambda: told.append(1)
    first, second, old = holding("a"), holding("b"), holding("c")
    book.note(first)
    book.note(second)
    book.use(first, NOW + 2000)
    book.renew(first, NOW + 3000)
    book.inherit([old])
    book.purge(NOW + 2999)
    assert list(book.news) == [first, second]
    book.end(first)
    assert list(book.news) == [first, second, first.lease.lease_id]
    assert len(told) == 3


def test_a_lease_that_was_forgotten_and_is_used_is_known_again() -> None:
    """There was no room for it any more; whoever has the value still has it."""
    book = LeaseBook(limit=1)
    first, second = holding("a"), holding("b")
    book.note(first)
    book.note(second)
    book.use(first, NOW + 1000)
    assert list(book) == [first]
