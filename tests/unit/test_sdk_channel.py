"""A run's channel accepts what the pinned broker sealed for it, and nothing else."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_sdk import CredentialInvalid, RunCredential
from agent_sdk.channel import MAX_SESSIONS, RunChannel
from agent_sdk.testing import FakeDesk
from agent_sdk.wire import keynames
from agent_sdk.wire.messages import Notice, Reply, Request, Resolve

HOUR = timedelta(hours=1)


@pytest.fixture
def desk() -> FakeDesk:
    return FakeDesk({"a.key": "value-of-a"})


@pytest.fixture
def run(desk: FakeDesk) -> RunCredential:
    return desk.credential("claude")


def _reply(desk: FakeDesk, run: RunCredential, agent_id: str = "claude") -> bytes:
    request = Request(bytes(range(16)), 1, 2, run.token, Resolve(("a.key",)))
    sealed = desk.answer(RunChannel(run).seal(request), agent_id)
    assert sealed is not None
    return sealed


def test_a_request_opens_at_the_desk_and_its_reply_opens_here(desk: FakeDesk, run: RunCredential) -> None:
    """The two sides of the wire contract meet."""
    reply = RunChannel(run).open(_reply(desk, run), desk.clock())
    assert isinstance(reply, Reply)
    assert reply.request_id == bytes(range(16))
    assert reply.results[0].value == b"value-of-a"


def test_no_two_envelopes_of_one_request_are_alike(desk: FakeDesk, run: RunCredential) -> None:
    """Each is sealed under a nonce of its own."""
    channel, request = RunChannel(run), Request(bytes(16), 1, 2, run.token, Resolve(("a.key",)))
    assert channel.seal(request) != channel.seal(request)


def test_a_notice_opens_as_a_notice(desk: FakeDesk, run: RunCredential) -> None:
    """Notices come the same way under a key of their own."""
    notice = Notice("secret_rotated", desk.clock(), name="a.key")
    assert RunChannel(run).open(desk.notice(notice, run), desk.clock()) == notice


def test_a_certificate_is_verified_once(desk: FakeDesk, run: RunCredential, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second reply of a session costs no signature check."""
    now = desk.clock()
    monkeypatch.setattr(desk, "clock", lambda: now)
    channel = RunChannel(run)
    assert channel.open(_reply(desk, run), now) is not None
    monkeypatch.setattr("agent_sdk.channel.verify_certificate", None)
    assert channel.open(_reply(desk, run), now) is not None


def test_the_number_of_remembered_sessions_is_bounded(desk: FakeDesk, run: RunCredential) -> None:
    """Each reply here has a certificate of its own; only the latest are kept."""
    channel = RunChannel(run)
    for _ in range(MAX_SESSIONS + 5):
        desk.advance(timedelta(milliseconds=5))
        assert channel.open(_reply(desk, run), desk.clock()) is not None
    assert len(channel._sessions) == MAX_SESSIONS


@pytest.mark.parametrize(
    "make",
    [
        lambda desk, run: b"",
        lambda desk, run: b"\xc0" * 100,
        lambda desk, run: _reply(desk, run)[:-1],
        lambda desk, run: _reply(desk, run) + b"\x00",
        lambda desk, run: _reply(desk, run)[:-1] + bytes([_reply(desk, run)[-1] ^ 1]),
        lambda desk, run: _reply(desk, desk.credential("claude")),
        lambda desk, run: RunChannel(run).seal(Request(bytes(16), 1, 2, run.token, Resolve(("a.key",)))),
    ],
    ids=["empty", "junk", "cut", "longer", "changed", "another run's", "a request"],
)
def test_what_is_not_for_this_run_is_counted_as_garbage(
    desk: FakeDesk, run: RunCredential, make: Callable[[FakeDesk, RunCredential], bytes]
) -> None:
    """Nothing is raised, so nobody who writes to the queue can stop the reader."""
    channel = RunChannel(run)
    assert channel.open(make(desk, run), desk.clock()) is None
    assert (channel.ignored.garbage, channel.ignored.untrusted) == (1, 0)


def test_a_reply_of_another_broker_is_counted_as_untrusted(desk: FakeDesk, run: RunCredential) -> None:
    """The certificate must be signed by the identity that the credential pins."""
    stranger = FakeDesk({"a.key": "forged"})
    forged = stranger._seal(3, b"", run.run_public_key, "claude")  # type: ignore[arg-type]  # 3 is a notice
    channel = RunChannel(run)
    assert channel.open(forged, desk.clock()) is None
    assert channel.ignored.untrusted == 1


@pytest.mark.parametrize("remembered", [False, True])
def test_a_reply_outside_its_certificates_validity_is_refused(
    desk: FakeDesk, run: RunCredential, remembered: bool
) -> None:
    """Also when the certificate was good before; up to the allowed difference of clocks it still is."""
    channel, reply = RunChannel(run), _reply(desk, run)
    day = 24 * 3600 * 1000
    if remembered:
        assert channel.open(reply, desk.clock()) is not None
    assert channel.open(reply, desk.clock() + day + 20_000) is not None
    assert channel.open(reply, desk.clock() + day + 40_000) is None
    assert channel.ignored.out_of_date == 1


def test_replies_are_bound_to_the_runs_own_stream(desk: FakeDesk, run: RunCredential) -> None:
    """The stream's name is part of what is authenticated, and derived from the run's key."""
    channel = RunChannel(run)
    assert channel.replies == keynames.replies("claude", keynames.fingerprint(run.run_public_key))
    channel.replies = keynames.replies("codex", keynames.fingerprint(run.run_public_key))
    assert channel.open(_reply(desk, run), desk.clock()) is None


def test_an_intake_key_of_low_order_is_refused(run: RunCredential) -> None:
    """A credential with a broken key fails when the channel is made, not silently later."""
    run.intake = bytes(32)
    with pytest.raises(CredentialInvalid, match="intake is not an X25519 public key"):
        RunChannel(run)


_DESK = FakeDesk({"a.key": "value-of-a"})
_RUN = _DESK.credential("claude")
_CHANNEL = RunChannel(_RUN)


@given(st.binary(max_size=600))
def test_no_bytes_make_the_channel_raise(junk: bytes) -> None:
    """Any entry on the stream is either opened or ignored."""
    assert _CHANNEL.open(junk, _DESK.clock()) is None


@given(st.data())
def test_no_mutated_reply_opens(data: st.DataObject) -> None:
    """A changed byte anywhere in an envelope, its certificate included, costs it its acceptance."""
    reply = bytearray(_reply(_DESK, _RUN))
    place = data.draw(st.integers(0, len(reply) - 1))
    reply[place] ^= data.draw(st.integers(1, 255))
    assert _CHANNEL.open(bytes(reply), _DESK.clock()) is None
