"""Runs that have proved themselves are remembered, within bounds, and never as somebody else."""

from pathlib import Path

import pytest
from desk_workbench import IDENTITY, NOW, DeskBench

from agent_sdk.wire import keynames
from agent_sdk.wire.messages import REPLY, Reply
from agent_sdk.wire.sealing import REQUEST_START_BYTES, Kind, Opener, run_exchange_public
from agent_sdk.wire.tokens import RunIdentity
from broker_worker.pipeline.peers import MAX_TOKENS_PER_PEER, Peer, PeerCache
from broker_worker.pipeline.session import LIFETIME_MS, start_session


def peer_of(public: bytes, key_id: bytes = bytes(8)) -> Peer:
    """A peer on claude's stream that seals to the intake key of that name."""
    requests = Opener(Kind.REQUEST, bytes(32), key_id, public, keynames.requests("claude"))
    return Peer("claude", public, run_exchange_public(public), requests)


@pytest.fixture
def peer(tmp_path: Path) -> Peer:
    public = DeskBench(tmp_path).run().credential.run_public_key
    return peer_of(public)


def identity(number: int) -> RunIdentity:
    return RunIdentity("local", "claude", f"run-{number}", bytes(32), "t", 0, 1)


def test_a_peer_remembers_its_latest_tokens_only(peer: Peer) -> None:
    """The oldest is forgotten, and would be verified again."""
    for number in range(MAX_TOKENS_PER_PEER + 1):
        peer.remember(f"token-{number}", identity(number))
    assert peer.identity_of("token-0") is None
    assert peer.identity_of("token-1") == identity(1)


def test_the_cache_is_bounded_and_forgets_the_oldest(peer: Peer) -> None:
    """However many runs there are."""
    cache, peers = PeerCache(limit=3), [peer_of(peer.run_public_key, bytes([n]) * 8) for n in range(5)]
    for each in peers:
        cache.add(each)
    found = [cache.find("claude", each.requests.start) is each for each in peers]
    assert found == [*[False] * 2, *[True] * 3]


def test_a_peer_is_found_by_stream_run_key_and_intake_key_together(peer: Peer) -> None:
    """The same run on another agent's stream is a stranger; what follows in the envelope does not matter."""
    cache = PeerCache()
    cache.add(peer)
    start = peer.requests.start
    assert len(start) == REQUEST_START_BYTES
    assert cache.find("claude", start + b"anything") is peer
    assert cache.find("codex", start) is None
    for place in range(len(start)):
        assert cache.find("claude", start[:place] + bytes([start[place] ^ 1]) + start[place + 1 :]) is None
    assert cache.find("claude", start[:-1]) is None


def test_forgetting_tokens_or_everything(peer: Peer) -> None:
    """After a change of issuers tokens are verified again; after one of intake keys everybody is a stranger."""
    cache = PeerCache()
    cache.add(peer)
    peer.remember("token", identity(1))
    cache.forget_tokens()
    assert peer.identity_of("token") is None
    cache.clear()
    assert cache.find("claude", peer.requests.start) is None


def test_a_new_session_key_is_used_at_once(tmp_path: Path) -> None:
    """What is sealed after a rotation carries the new certificate, and the run opens both."""
    bench = DeskBench(tmp_path)
    run = bench.run()
    public = run.credential.run_public_key
    peer = peer_of(public)
    plain = REPLY.encode(Reply(bytes(16), "ok"))
    sessions = [start_session(IDENTITY, "worker-1", NOW, bytes([n]) * 32) for n in (5, 6)]
    sealed = [peer.seal(session, plain, bytes([n]) * 24) for n, session in enumerate(sessions)]
    assert [run.open(envelope).status for envelope in sealed] == ["ok", "ok"]
    assert [session.certificate in envelope for session, envelope in zip(sessions, sealed, strict=True)] == [True, True]


def test_a_session_is_replaced_well_before_its_certificate_ends() -> None:
    """A reply sealed just before the rotation can still be opened for an hour."""
    session = start_session(IDENTITY, "worker-1", NOW, bytes([5]) * 32)
    assert session.rotate_at == NOW + LIFETIME_MS // 2


@pytest.mark.parametrize(("at", "is_over"), [(-60_001, True), (-60_000, False), (0, False), (LIFETIME_MS // 2, True)])
def test_a_session_is_over_at_its_time_and_when_the_clock_was_set_back(at: int, is_over: bool) -> None:
    """By less than its certificate lies back nobody is in the way."""
    assert start_session(IDENTITY, "worker-1", NOW, bytes([5]) * 32).is_over(NOW + at) is is_over


def test_no_key_is_shown(peer: Peer) -> None:
    """Neither derived keys nor tokens are part of a repr."""
    peer.remember("eyJ-token", identity(1))
    session = start_session(IDENTITY, "worker-1", NOW, b"k" * 32)
    peer.seal(session, b"x", bytes(24))
    shown = repr(peer) + repr(session)
    assert "eyJ" not in shown
    assert repr(peer.requests._key) not in shown
    assert repr(b"k" * 32) not in shown
