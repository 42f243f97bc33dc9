"""The verification of a folder: each kind of tampering is found and located, and nothing else is."""

import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from audit_workbench import IDENTITY, SECRET, START, access, open_sink, read_log, rewrite, write_log
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_sdk.wire.audit import decode_line, encode_checkpoint, encode_line, format_time, line_hash
from agent_sdk.wire.audit_chain import Fault, Finding
from broker_worker.audit import report as report_module
from broker_worker.audit.chain_files import list_files
from broker_worker.audit.verify import verify_folder
from broker_worker.core.errors import AuditError

Place = tuple[Fault, str, int]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A log of two workers: worker-1 with one file of 9 lines, worker-2 with several files."""
    made = tmp_path / "audit"
    write_log(made, batches=3)
    write_log(made, batches=6, worker="worker-2", max_file_bytes=1000)
    return made


def problems(folder: Path) -> list[Place]:
    """What is wrong and where, with the chain's id taken out of file names."""
    report = verify_folder(folder, IDENTITY)
    return [(finding.fault, _short(finding), finding.line) for finding in report.findings]


def _short(finding: Finding) -> str:
    parts = finding.file.removesuffix(".jsonl").rsplit("-", 2)
    return finding.file if len(parts) < 3 else f"{parts[0]}+{int(parts[2])}"


def files_of(folder: Path, worker: str) -> list[Path]:
    """The files of one worker in order."""
    return [file.path for file in list_files(folder, worker)]


def edit(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[Path], None]:
    """Tampering with the lines of worker-1's file."""

    def tamper(folder: Path) -> None:
        (path,) = files_of(folder, "worker-1")
        rewrite(path, change(read_log(path)))

    return tamper


def _reworded(lines: list[bytes], index: int) -> list[bytes]:
    return [*lines[:index], lines[index].replace(b"claude", b"nobody"), *lines[index + 1 :]]


def _forged(lines: list[bytes]) -> list[bytes]:
    event = decode_line(lines[-1])
    line = encode_checkpoint(SECRET[::-1], event.timestamp, event.worker, event.chain, event.sequence, event.prev)
    return [*lines[:-1], line]


def _appended(lines: list[bytes]) -> list[bytes]:
    event = decode_line(lines[-1])
    invented = encode_line(access(666), event.worker, event.chain, event.sequence + 1, line_hash(lines[-1]))
    return [*lines, invented]


def _tear(folder: Path) -> None:
    (path,) = files_of(folder, "worker-1")
    path.write_bytes(path.read_bytes()[:-10])


def _swap_files(folder: Path) -> None:
    first, second, *_ = files_of(folder, "worker-2")
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)


def _link(folder: Path) -> None:
    (path,) = files_of(folder, "worker-1")
    moved = path.rename(folder.parent / "elsewhere")
    path.symlink_to(moved)


def _old_head(folder: Path) -> None:
    (path,) = files_of(folder, "worker-1")
    _put_head(folder, read_log(path)[0] + b"\n")


def _put_head(folder: Path, content: bytes) -> None:
    (folder / "worker-1.head").write_bytes(content)


ONE = "worker-1+0"

TAMPERING: dict[str, tuple[Callable[[Path], None], list[Place]]] = {
    "nothing": (lambda _: None, []),
    "a changed line": (edit(lambda c: _reworded(c, 3)), [(Fault.CHANGED, ONE, 4)]),
    "a removed line": (edit(lambda c: c[:3] + c[4:]), [(Fault.REMOVED, ONE, 4)]),
    "an inserted copy": (edit(lambda c: [*c[:4], c[3], *c[4:]]), [(Fault.INSERTED, ONE, 5)]),
    "exchanged lines": (
        edit(lambda c: [*c[:3], c[4], c[3], *c[5:]]),
        [(Fault.REMOVED, ONE, 4), (Fault.REORDERED, ONE, 5)],
    ),
    "an unknown field": (
        edit(lambda c: [*c[:3], b'{"value":"x",' + c[3][1:], *c[4:]]),
        [(Fault.UNREADABLE, ONE, 4)],
    ),
    "an empty line": (edit(lambda c: [*c[:3], b"", *c[3:]]), [(Fault.UNREADABLE, ONE, 4)]),
    "an endless line": (edit(lambda c: [*c[:3], b"x" * 10**6, *c[3:]]), [(Fault.UNREADABLE, ONE, 4)]),
    "a cut tail": (edit(lambda c: c[:6]), [(Fault.CUT, ONE, 6)]),
    "a cut tail in the middle of a batch": (edit(lambda c: c[:8]), [(Fault.CUT, ONE, 8), (Fault.UNSIGNED, ONE, 7)]),
    "an emptied file": (edit(lambda _: []), [(Fault.CUT, ONE, 0)]),
    "a forged checkpoint": (
        edit(_forged),
        [(Fault.CHANGED, ONE, 9), (Fault.FORGED, ONE, 9), (Fault.UNSIGNED, ONE, 7)],
    ),
    "a line after the last checkpoint": (edit(_appended), [(Fault.UNSIGNED, ONE, 10)]),
    "a torn last line": (_tear, [(Fault.TORN, ONE, 9), (Fault.CUT, ONE, 8), (Fault.UNSIGNED, ONE, 7)]),
    "a missing first file": (
        lambda f: files_of(f, "worker-2")[0].unlink(),
        [(Fault.MISSING_FILE, "worker-2+3", 0)],
    ),
    "a missing middle file": (
        lambda f: files_of(f, "worker-2")[1].unlink(),
        [(Fault.MISSING_FILE, "worker-2+6", 0)],
    ),
    "a missing last file": (lambda f: files_of(f, "worker-2")[-1].unlink(), [(Fault.CUT, "worker-2+12", 3)]),
    "all files of a worker missing": (
        lambda f: files_of(f, "worker-1")[0].unlink(),
        [(Fault.MISSING_FILE, "worker-1", 0)],
    ),
    "a missing head": (lambda f: (f / "worker-1.head").unlink(), [(Fault.NO_HEAD, "worker-1.head", 0)]),
    "an unreadable head": (
        lambda f: _put_head(f, b"{}"),
        [(Fault.NO_HEAD, "worker-1.head", 0)],
    ),
    "a head that is no checkpoint": (_old_head, [(Fault.NO_HEAD, "worker-1.head", 0)]),
    "a head of another worker": (
        lambda f: _put_head(f, (f / "worker-2.head").read_bytes()),
        [(Fault.NO_HEAD, "worker-1.head", 0)],
    ),
    "a readable folder": (lambda f: f.chmod(0o755), [(Fault.PERMISSIONS, ".", 0)]),
    "a readable file": (lambda f: files_of(f, "worker-1")[0].chmod(0o644), [(Fault.PERMISSIONS, ONE, 0)]),
    "a link": (_link, [(Fault.PERMISSIONS, ONE, 0)]),
    "a stranger": (lambda f: (f / "notes.txt").touch(), [(Fault.UNKNOWN_FILE, "notes.txt", 0)]),
}


@pytest.mark.parametrize("name", TAMPERING)
def test_tampering_is_found_and_located(folder: Path, name: str) -> None:
    """Each kind of tampering is found as what it is, in its file, at its line."""
    tamper, expected = TAMPERING[name]
    tamper(folder)
    assert problems(folder) == expected


def test_exchanged_files_are_found(folder: Path) -> None:
    """Files whose contents changed places do not pass."""
    _swap_files(folder)
    assert {fault for fault, _, _ in problems(folder)} >= {Fault.REMOVED, Fault.REORDERED}


def test_a_pipe_in_place_of_a_file_does_not_hang(folder: Path) -> None:
    """What is no plain file is reported and not opened."""
    (path,) = files_of(folder, "worker-1")
    path.unlink()
    os.mkfifo(path, 0o600)
    assert {fault for fault, _, _ in problems(folder)} == {Fault.PERMISSIONS, Fault.MISSING_FILE}


@pytest.fixture(scope="module")
def signed_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed log of one worker, written once for all examples."""
    made = tmp_path_factory.mktemp("log") / "audit"
    write_log(made, batches=4)
    return made


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_changed_byte_is_found(signed_log: Path, data: st.DataObject) -> None:
    """No single byte of a verified log can be changed unnoticed, line feeds included."""
    (path,) = files_of(signed_log, "worker-1")
    content = path.read_bytes()
    at = data.draw(st.integers(0, len(content) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != content[at]))
    try:
        path.write_bytes(content[:at] + bytes([byte]) + content[at + 1 :])
        report = verify_folder(signed_log, IDENTITY)
        assert not report.ok
        lines_before = content[:at].count(b"\n") + 1
        assert any(abs(finding.line - lines_before) <= 1 for finding in report.problems)
    finally:
        path.write_bytes(content)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), kind=st.sampled_from(["drop", "copy", "swap", "cut"]))
def test_any_rearrangement_of_lines_is_found(signed_log: Path, seed: int, kind: str) -> None:
    """Dropping, copying, swapping and cutting lines anywhere is noticed."""
    (path,) = files_of(signed_log, "worker-1")
    lines, random = read_log(path), Random(seed)
    changed = list(lines)
    one, two = sorted(random.sample(range(len(lines)), 2))
    if kind == "drop":
        del changed[one]
    elif kind == "copy":
        changed.insert(two, lines[one])
    elif kind == "swap":
        changed[one], changed[two] = lines[two], lines[one]
    else:
        del changed[one:]
    try:
        rewrite(path, changed)
        assert not verify_folder(signed_log, IDENTITY).ok
    finally:
        rewrite(path, lines)


def test_another_identity_verifies_nothing(folder: Path) -> None:
    """Without the key that signed, neither checkpoints nor heads count."""
    report = verify_folder(folder, b"\x01" * 32)
    assert {finding.fault for finding in report.problems} == {Fault.FORGED, Fault.NO_HEAD}
    assert report.checkpoints == 0


def test_findings_are_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log of junk yields a bounded report that says how much more there is."""
    monkeypatch.setattr(report_module, "MAX_FINDINGS", 5)
    edit(lambda _: [b"junk"] * 100)(folder)
    report = verify_folder(folder, IDENTITY)
    assert len(report.findings) == 5
    assert report.more >= 95
    assert not report.ok


def test_archived_files_may_be_missing_if_the_operator_says_so(folder: Path) -> None:
    """With allow_pruned the chain may begin later; a gap in its middle is still a problem."""
    files = files_of(folder, "worker-2")
    files[0].unlink()
    assert verify_folder(folder, IDENTITY, allow_pruned=True).ok
    write_log(folder, batches=3, worker="worker-2", max_file_bytes=1000)
    files_of(folder, "worker-2")[1].unlink()
    assert not verify_folder(folder, IDENTITY, allow_pruned=True).ok


def test_an_archived_chain_may_be_missing_if_the_operator_says_so(tmp_path: Path) -> None:
    """The second of two chains stands alone with allow_pruned only."""
    folder = tmp_path / "audit"
    first = write_log(folder, batches=2)
    sink = open_sink(folder)
    sink._journal = None
    sink.append([access(1)])
    sink.close()
    assert verify_folder(folder, IDENTITY).chains == 2
    stream = [(decode_line(line).event_id, line) for line in read_log(first)]
    first.unlink()
    assert [finding.fault for finding in verify_folder(folder, IDENTITY).problems] == [Fault.UNLINKED]
    assert verify_folder(folder, IDENTITY, stream, allow_pruned=True).ok


def test_a_removed_chain_in_the_middle_is_found(tmp_path: Path) -> None:
    """The chain after it names a line that the chain before it does not have."""
    folder = tmp_path / "audit"
    write_log(folder, batches=2)
    for _ in range(2):
        sink = open_sink(folder)
        sink._journal = None
        sink.append([access(1)])
        sink.close()
    files_of(folder, "worker-1")[1].unlink()
    assert problems(folder) == [(Fault.UNLINKED, ONE, 0)]


def test_one_worker_alone_can_be_verified(folder: Path) -> None:
    """Another worker's damage does not count then."""
    edit(lambda c: c[1:])(folder)
    assert verify_folder(folder, IDENTITY, workers=["worker-2"]).ok
    assert not verify_folder(folder, IDENTITY, workers=["worker-1"]).ok


# --- compared with the stream ------------------------------------------------------------------------------------


def stream_of(folder: Path) -> list[tuple[str, bytes]]:
    """What a publisher would have put on the stream."""
    return [(decode_line(line).event_id, line) for file in list_files(folder) for line in read_log(file.path)]


def test_the_stream_of_an_untouched_log_agrees(folder: Path) -> None:
    """Every checkpoint on the stream is in the files."""
    assert verify_folder(folder, IDENTITY, stream_of(folder)).findings == []


def test_a_tail_cut_together_with_its_head_is_missed_by_the_stream(folder: Path) -> None:
    """Who cuts the file and puts an old head in its place still contradicts the stream."""
    stream = stream_of(folder)
    (path,) = files_of(folder, "worker-1")
    lines = read_log(path)
    rewrite(path, lines[:6])
    (folder / "worker-1.head").write_bytes(lines[5] + b"\n")
    assert verify_folder(folder, IDENTITY).ok
    (finding,) = verify_folder(folder, IDENTITY, stream).findings
    assert (finding.fault, finding.line) == (Fault.CUT, 6)
    assert "the stream holds its signed checkpoint 8" in finding.detail


def test_a_worker_that_only_the_stream_knows_is_missed(folder: Path) -> None:
    """All files and the head of a worker gone: the stream still knows it."""
    stream = stream_of(folder)
    for path in folder.glob("worker-1*"):
        path.unlink()
    assert verify_folder(folder, IDENTITY).ok
    (finding,) = verify_folder(folder, IDENTITY, stream).findings
    assert (finding.fault, finding.file) == (Fault.MISSING_FILE, "worker-1")


@pytest.mark.parametrize(
    "entry",
    [
        ("0" * 16 + "-000000000000", b'{"v":1,"event":"checkpoint"'),
        ("x", encode_checkpoint(SECRET, format_time(START), "worker-9", "0" * 16, 0, "0" * 64)),
        (
            "0" * 16 + "-000000000000",
            encode_checkpoint(bytes(64), format_time(START), "worker-9", "0" * 16, 0, "0" * 64),
        ),
    ],
    ids=["no event", "another event id", "another key"],
)
def test_forged_checkpoints_on_the_stream_are_told_and_not_believed(folder: Path, entry: tuple[str, bytes]) -> None:
    """The queue may say what it likes; only what the broker signed is an anchor."""
    report = verify_folder(folder, IDENTITY, [entry, ("junk", b"\xff"), ("", b"")])
    assert [finding.fault for finding in report.findings] == [Fault.FORGED_STREAM]


def test_entries_that_no_broker_wrote_are_one_warning(folder: Path) -> None:
    """However many there are, they neither fail the verification nor crowd out what it finds in the files."""
    entries: list[tuple[str, bytes | None]] = [(f"{number}-0", None) for number in range(1, 3000)]
    report = verify_folder(folder, IDENTITY, [*entries, *stream_of(folder)])
    (finding,) = report.findings
    assert report.ok
    assert (finding.fault, finding.is_warning) == (Fault.UNKNOWN_ENTRY, True)
    assert finding.detail == "entries that no broker wrote: 2999, the first of them 1-0"


# --- size, and a folder that cannot be read ------------------------------------------------------------------------


def test_a_running_broker_can_be_verified(folder: Path) -> None:
    """What is written while the verification reads is no finding."""
    sink = open_sink(folder)

    class Growing(list[tuple[str, bytes]]):
        """A stream during whose reading the log grows."""

        def __iter__(self):  # type: ignore[no-untyped-def]  # a list's iterator
            sink.append([access(1)])
            return super().__iter__()

    report = verify_folder(folder, IDENTITY, Growing(stream_of(folder)))
    sink.close()
    assert report.problems == []


def test_a_missing_folder_is_an_error_with_a_hint(tmp_path: Path) -> None:
    """Nothing to verify is not the same as nothing wrong."""
    with pytest.raises(AuditError, match="nowhere: No such file") as caught:
        verify_folder(tmp_path / "nowhere", IDENTITY)
    assert "--folder" in caught.value.hint


def test_a_large_log_is_verified_in_one_pass(tmp_path: Path) -> None:
    """A hundred thousand lines over several files take a second."""
    folder = tmp_path / "audit"
    sink = open_sink(folder, max_file_bytes=16 * 1024 * 1024)
    for _ in range(100):
        sink.append([access(1)] * 999)
    sink.close()
    report = verify_folder(folder, IDENTITY)
    assert (report.ok, report.lines, report.checkpoints) == (True, 100_000, 100)
