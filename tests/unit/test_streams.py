"""The commands of the streams, and how their replies read: fairly, strictly, and nothing lost in between."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import ResponseError

from agent_sdk.wire import keynames
from broker_worker.core.errors import QueueError
from broker_worker.ports import Answer, Entry
from broker_worker.queue.streams import (
    AHEAD_MS,
    BATCH,
    CHANNEL_MS,
    CHANNEL_REFRESH_MS,
    MissingGroupError,
    ReplyWriter,
    as_entry,
    check_replies,
    is_far_ahead,
    read_command,
    read_entries,
)

NOW = 1_800_000_000_000


@given(st.lists(st.sampled_from([f"agent-{n}" for n in range(600)]), min_size=1, max_size=600, unique=True))
def test_no_agent_gets_more_of_a_batch_than_its_share(agents: list[str]) -> None:
    """With one agent it is the whole batch; with many, at least one entry each and together about a batch."""
    command = read_command("w-1", agents, 1000)
    share = command[command.index("COUNT") + 1]
    assert isinstance(share, int)
    assert 1 <= share <= BATCH
    assert share * len(agents) <= max(BATCH, len(agents))
    at = command.index("STREAMS")
    assert command[at + 1 :] == (*[keynames.requests(agent) for agent in agents], *[">"] * len(agents))


def test_a_read_blocks_only_if_it_is_told_to() -> None:
    """Without a time the server answers at once; a time of zero would block for ever and is never sent."""
    assert "BLOCK" not in read_command("w-1", ["a"], None)
    command = read_command("w-1", ["a"], 1000)
    assert command[command.index("BLOCK") + 1] == 1000


@pytest.mark.parametrize(
    ("fields", "raw", "fault"),
    [
        ([b"m", b"envelope"], b"envelope", None),
        ([b"m", b""], b"", None),
        ([b"x", b"envelope"], b"", "not_one_field"),
        ([b"m", b"a", b"m", b"b"], b"", "not_one_field"),
        ([b"m", b"a", b"x", b"b"], b"", "not_one_field"),
        ([], b"", "not_one_field"),
        (None, b"", "not_one_field"),
    ],
)
def test_an_entry_has_exactly_one_field(fields: list[bytes] | None, raw: bytes, fault: str | None) -> None:
    """Anything else is not even looked at."""
    assert as_entry("claude", b"1-0", fields, 7) == Entry("claude", b"1-0", raw, 7, fault)


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (ResponseError("NOGROUP No such key"), MissingGroupError),
        (ResponseError("READONLY You can't write against a read only replica."), QueueError),
        ([[b"sb:req:{-}", [[b"1-0", [b"m", b"x"]]]]], QueueError),
        ([[b"sb:req:{..}", [[b"1-0", [b"m", b"x"]]]]], QueueError),
        ([[b"other", [[b"1-0", [b"m", b"x"]]]]], QueueError),
        ([[b"\xff\xfe", [[b"1-0", [b"m", b"x"]]]]], QueueError),
        (7, QueueError),
        ([[b"sb:req:{claude}", [[b"1-0"]]]], QueueError),
        (b"OK", QueueError),
    ],
    ids=repr,
)
def test_a_reply_that_is_not_that_of_a_read_is_an_error_of_the_queue(reply: Any, error: type[QueueError]) -> None:
    """The worker connects anew; it does not end."""
    with pytest.raises(error):
        read_entries(reply, 7)


@pytest.mark.parametrize("reply", [None, ResponseError("UNBLOCKED client unblocked via CLIENT UNBLOCK"), []])
def test_nothing_new_is_no_entries(reply: Any) -> None:
    """A time that passed, or a reader that was woken."""
    assert read_entries(reply, 7) == []


def test_entries_of_several_streams_are_read() -> None:
    """Each with its agent."""
    reply = [
        [b"sb:req:{claude}", [[b"1-0", [b"m", b"x"]], [b"1-1", [b"m", b"y"]]]],
        [b"sb:req:{codex}", [[b"2-0", [b"m", b"z"]]]],
    ]
    assert [(e.agent_id, e.entry_id, e.raw) for e in read_entries(reply, 7)] == [
        ("claude", b"1-0", b"x"),
        ("claude", b"1-1", b"y"),
        ("codex", b"2-0", b"z"),
    ]


def test_an_id_far_ahead_of_the_clock_is_noticed() -> None:
    """A day is more than any clock is wrong."""
    assert not is_far_ahead(b"%d-0" % NOW, NOW)
    assert not is_far_ahead(b"%d-0" % (NOW + AHEAD_MS), NOW)
    assert is_far_ahead(b"%d-0" % (NOW + AHEAD_MS + 1), NOW)
    assert is_far_ahead(b"18446744073709551615-18446744073709551615", NOW)


def answer(agent: str, number: int, *, replied: bool = True) -> Answer:
    entry = Entry(agent, b"%d-0" % number, b"", 0)
    return Answer(entry, keynames.replies(agent, "fp"), b"sealed") if replied else Answer(entry)


def test_every_answer_is_written_acknowledged_and_deleted() -> None:
    """One acknowledgement an agent; an answer that nobody gets is acknowledged as well."""
    commands = ReplyWriter().commands([answer("a", 1), answer("b", 2), answer("a", 3, replied=False)], NOW)
    assert [command[:2] for command in commands if command[0] == "XADD"] == [
        ("XADD", "sb:rep:{a}:fp"),
        ("XADD", "sb:rep:{b}:fp"),
    ]
    assert [command for command in commands if command[0] in ("XACK", "XDEL")] == [
        ("XACK", "sb:req:{a}", "workers", b"1-0", b"3-0"),
        ("XDEL", "sb:req:{a}", b"1-0", b"3-0"),
        ("XACK", "sb:req:{b}", "workers", b"2-0"),
        ("XDEL", "sb:req:{b}", b"2-0"),
    ]


@pytest.mark.parametrize(("size", "kept"), [(600, 4096), (4096, 4096), (8192, 2048), (100_000, 512), (262_144, 512)])
def test_a_reply_stream_of_large_values_is_shorter(size: int, kept: int) -> None:
    """One run with a large value does not fill the server's memory, and nothing that may be in flight is dropped."""
    large = Answer(Entry("a", b"1-0", b"", 0), "sb:rep:{a}:fp", bytes(size))
    assert ReplyWriter().commands([large], NOW)[0][:6] == ("XADD", "sb:rep:{a}:fp", "MAXLEN", "~", kept, "*")


def test_the_end_of_a_reply_stream_is_moved_now_and_then() -> None:
    """Not with every answer."""
    writer = ReplyWriter()
    times = (0, 1, CHANNEL_REFRESH_MS, CHANNEL_REFRESH_MS + 1, CHANNEL_REFRESH_MS + 2)
    found = [("PEXPIRE", "sb:rep:{a}:fp", CHANNEL_MS) in writer.commands([answer("a", 1)], NOW + t) for t in times]
    assert found == [True, False, False, True, False]


def test_a_write_that_the_server_refused_is_an_error() -> None:
    """The entries stay pending and are answered again."""
    commands = ReplyWriter().commands([answer("a", 1)], NOW)
    check_replies(commands, [b"1-0", 1, 1, 1])
    with pytest.raises(QueueError, match="'XACK': OOM command not allowed"):
        check_replies(commands, [b"1-0", 1, ResponseError("OOM command not allowed"), 1])
