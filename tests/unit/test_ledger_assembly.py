"""The assembler lets through exactly the broker's lines, whatever stands between them on the queue."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from audit_workbench import IDENTITY, SECRET, access, open_sink, read_log, write_log
from hypothesis import given
from hypothesis import strategies as st
from ledger_workbench import Gathered, record, segments, write_story

from agent_sdk.ledger import ChainAssembler, ChainPosition
from agent_sdk.ledger import assembly as assembly_module
from agent_sdk.wire.audit import GENESIS, decode_line, encode_checkpoint, encode_line, line_hash
from agent_sdk.wire.audit_stream import ChainSegment
from broker_worker.audit.chain_files import list_files
from broker_worker.core.errors import AuditError

FORGER = bytes(range(1, 65))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The audit of two workers, told once for all tests here."""
    place = tmp_path_factory.mktemp("assembly") / "audit"
    write_story(place)
    return place


def test_lines_come_in_order_without_checkpoints(folder: Path) -> None:
    """Everything that was recorded comes, once, chain by chain."""
    taken = Gathered().take(*segments(folder))
    written = [decode_line(line) for file in list_files(folder) for line in read_log(file.path)]
    assert taken.ids == [event.event_id for event in written if event.event != "checkpoint"]
    assert taken.faults == []


def test_a_line_waits_for_the_checkpoint_that_covers_it(folder: Path) -> None:
    """Nothing is let through on its own word: a line without a signed checkpoint is kept back, and its place open."""
    first, *rest = segments(folder, 1)
    taken = Gathered().take(first)
    assert taken.ids == []
    assert taken.settled == []
    taken.take(rest[0])
    assert len(taken.ids) == 1
    assert set(taken.settled) == {str(id(first)), str(id(rest[0]))}


@given(cuts=st.data())
def test_any_cutting_and_repeating_gives_the_same_lines(folder: Path, cuts: st.DataObject) -> None:
    """However entries are cut, repeated and interleaved between chains, each event comes once and in order."""
    expected = Gathered().take(*segments(folder))
    by_chain: dict[str, list[ChainSegment]] = {}
    for segment in segments(folder, cuts.draw(st.integers(1, 7))):
        by_chain.setdefault(segment.chain, []).append(segment)
    taken = Gathered()
    while any(by_chain.values()):
        chain = cuts.draw(st.sampled_from([chain for chain, left in by_chain.items() if left]))
        segment = by_chain[chain].pop(0)
        taken.take(segment)
        if cuts.draw(st.booleans()):
            taken.take(replace(segment))
    assert sorted(taken.ids) == sorted(expected.ids)
    for chain in by_chain:
        assert (own := [one for one in taken.ids if one.startswith(chain)]) == sorted(own)
    assert taken.faults == []


def test_trimmed_lines_are_a_finding_and_the_rest_comes(folder: Path) -> None:
    """A gap says which lines are missing; what follows is read on."""
    parts = segments(folder, 1)
    chain = parts[0].chain
    own = [part for part in parts if part.chain == chain]
    taken = Gathered().take(*own[:2], *own[5:])
    assert taken.faults == ["removed"]
    assert "2 to 4" in taken.findings[0].detail
    assert len(taken.ids) == len(Gathered().take(*own).ids) - 2


def test_a_forged_line_never_comes_and_does_not_displace_the_true_one(folder: Path) -> None:
    """A line that somebody else puts where the broker's next line will be is refused when the true one is signed."""
    parts = [part for part in segments(folder, 2) if part.chain == segments(folder, 2)[0].chain]
    true = decode_line(parts[1].lines[0])
    lie = record(at=1, purpose="a lie")
    forged = encode_line(lie, true.worker, true.chain, true.sequence, true.prev)
    taken = Gathered().take(parts[0], ChainSegment(true.chain, true.sequence, (forged,)), *parts[1:])
    assert taken.faults == ["inserted"]
    assert all(line.event.purpose != "a lie" for line in taken.lines)
    assert taken.ids == Gathered().take(*parts).ids


def test_a_checkpoint_of_another_key_covers_nothing() -> None:
    """Whoever has no identity key can sign no line through."""
    line = encode_line(record(), "worker-1", "0" * 16, 0, GENESIS)
    forged = encode_checkpoint(FORGER, "2026-09-21T14:13:20.000Z", "worker-1", "0" * 16, 1, line_hash(line))
    taken = Gathered().take(ChainSegment("0" * 16, 0, (line, forged)))
    assert taken.faults == ["forged_stream"]
    assert taken.ids == []


def test_what_is_no_event_or_stands_in_a_wrong_entry_is_named(folder: Path) -> None:
    """Garbage and lines of other chains are findings, not crashes."""
    line = segments(folder)[0].lines[0]
    taken = Gathered().take(ChainSegment("f" * 16, 0, (b"{}", line)))
    assert taken.faults == ["unreadable", "foreign"]


def test_a_line_with_a_date_that_does_not_exist_is_unreadable() -> None:
    """The form of a time is not enough: 31 February is no time."""
    wrong = msgspec.structs.replace(record(), timestamp="2026-02-31T00:00:00.000Z")
    line = encode_line(wrong, "worker-1", "0" * 16, 0, GENESIS)
    assert Gathered().take(ChainSegment("0" * 16, 0, (line,))).faults == ["unreadable"]


def test_positions_make_a_restart_exact(folder: Path) -> None:
    """Whoever keeps the positions gets what it has not had, and no more, after a restart anywhere."""
    parts = segments(folder, 3)
    before = Gathered().take(*parts[:3])
    after = Gathered(before.assembler.positions.values()).take(*parts)
    assert sorted(before.ids + after.ids) == sorted(Gathered().take(*parts).ids)
    assert not set(before.ids) & set(after.ids)
    assert after.faults == []


def test_a_chain_that_is_met_in_its_middle_lacks_its_beginning(folder: Path) -> None:
    """The first line that is met says what is missing, unless the reader began there on purpose."""
    whole = segments(folder)[0]
    part = ChainSegment(whole.chain, 2, whole.lines[2:])
    assert Gathered().take(part).faults == ["removed"]
    assert Gathered(from_beginning=False).take(part).faults == []


def test_a_chain_that_contradicts_what_was_read_is_a_finding(tmp_path: Path) -> None:
    """Two signed histories of one chain, as after an older disk was put back, do not pass for one."""
    write_log(tmp_path / "a", 2)
    file = list_files(tmp_path / "a")[0]
    lines = read_log(file.path)
    other = ChainPosition(file.chain, file.worker, 3, "1" * 64)
    assert Gathered([other]).take(ChainSegment(file.chain, 3, tuple(lines[3:]))).faults == ["changed"]


def test_a_next_chain_continues_the_one_before(tmp_path: Path) -> None:
    """A worker's next chain must hold the hash of the last line of the one before; else something was cut off."""
    write_log(tmp_path / "a", 2)
    before = segments(tmp_path / "a")
    sink = open_sink(tmp_path / "a")
    list_files(tmp_path / "a")[0].path.unlink()
    with pytest.raises(AuditError):
        sink.append([access(9)])
    sink.append([access(9)])  # in a new chain
    sink.close()
    following = segments(tmp_path / "a")
    assert Gathered().take(*before, *following).faults == []
    assert Gathered().take(*following).faults == ["unlinked"]
    write_log(tmp_path / "b", 1)
    assert Gathered().take(*segments(tmp_path / "b"), *following).faults == ["unlinked"]


def test_lines_without_a_checkpoint_are_covered_by_the_next_chain(tmp_path: Path) -> None:
    """A crash may leave lines unsigned; the next chain holds the hash of the last of them, which signs them too."""
    write_log(tmp_path / "a", 1)
    file = list_files(tmp_path / "a")[0]
    lines = read_log(file.path)
    last = encode_line(record(), file.worker, file.chain, len(lines), line_hash(lines[-1]))
    chain = f"{int(file.chain, 16) + 1:016x}"
    begin = encode_line(record(at=5), file.worker, chain, 0, line_hash(last))
    signed = encode_checkpoint(SECRET, "2026-09-21T14:13:20.000Z", file.worker, chain, 1, line_hash(begin))
    taken = Gathered().take(ChainSegment(file.chain, 0, (*lines, last)), ChainSegment(chain, 0, (begin, signed)))
    assert taken.faults == []
    assert len(taken.ids) == 4


def test_nobody_fills_the_memory_with_lines_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a bound the longest row of uncovered lines is given up, and its places are settled."""
    monkeypatch.setattr(assembly_module, "MAX_WAITING", 10)
    lines = tuple(encode_line(record(at=n), "worker-1", "0" * 16, n, GENESIS) for n in range(11))
    assembler = ChainAssembler(IDENTITY)
    part = assembler.take(ChainSegment("0" * 16, 0, lines), "1-0")
    assert [finding.fault.value for finding in part.findings] == ["inserted"]
    assert part.settled == ["1-0"]
    assert assembler.waiting == 0
