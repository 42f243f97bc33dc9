"""Places in the audit's files: after a line, so many bytes back, and from a time on."""

from pathlib import Path

from audit_stream_workbench import MEBIBYTE, lines_on_disk
from audit_workbench import START, access, open_sink, read_log, write_log

from agent_sdk.wire.audit import decode_line, format_time
from broker_worker.audit.chain_files import ChainFile, Position, chain_file, list_files, read_lines
from broker_worker.audit.position import position_after, position_before, skip_older


def line_at(position: Position) -> int:
    """The sequence of the line that stands at a position."""
    with position.file.path.open("rb") as file:
        file.seek(position.offset)
        return decode_line(file.readline()[:-1]).sequence


def end_of(files: list[ChainFile]) -> Position:
    """The position after the last line."""
    lines = read_log(files[-1].path)
    return Position(files[-1], files[-1].path.stat().st_size, files[-1].first + len(lines))


def test_the_position_after_a_line_is_found_in_whichever_file(audit_folder: Path) -> None:
    """Also when the line is the last of its file, or its file is gone."""
    write_log(audit_folder, batches=4, max_file_bytes=1000)
    files = list_files(audit_folder)
    chain = files[0].chain
    for sequence in range(11):
        found = position_after(files, chain, sequence)
        assert found is not None
        assert line_at(found) == found.sequence == sequence + 1
    assert position_after(files, chain, 11) == end_of(files)
    assert position_after(files[2:], chain, 1) == Position(files[2], 0, 6)
    assert position_after(files, "f" * 16, 1) is None


def test_going_back_counts_bytes_over_files(audit_folder: Path) -> None:
    """The longest tail of whole lines that has no more bytes, whichever file it begins in."""
    write_log(audit_folder, batches=4, max_file_bytes=1000)
    files = list_files(audit_folder)
    sizes = [len(line) + 1 for line in lines_on_disk(audit_folder)]
    end = end_of(files)
    for sequence in range(len(sizes)):
        tail = sum(sizes[sequence:])
        for size, expected in ((tail, sequence), (tail - 1, sequence + 1), (tail + 1, sequence)):
            found = position_before(files, end, size)
            assert found.sequence == expected
            assert found.sequence == end.sequence or line_at(found) == expected
    assert position_before(files, end, 0) == end
    assert position_before(files, end, 10**9) == Position(files[0], 0, 0)


def test_older_lines_are_skipped_by_their_time(audit_folder: Path) -> None:
    """The first line that is not older, also over files; the end if all are."""
    sink = open_sink(audit_folder, max_file_bytes=1000)
    for number in range(6):
        sink.append([access(number, at=START + number * 1000)] * 3)
    sink.close()
    files = list_files(audit_folder)
    begin = Position(files[0], 0, 0)
    found = skip_older(begin, sink.position, format_time(START + 3000))
    assert line_at(found) == found.sequence == 12
    assert skip_older(begin, sink.position, format_time(START + 10**6)) == sink.position


def test_nothing_behind_the_writer_is_read(audit_folder: Path) -> None:
    """Bytes that are not synced yet do not leave the file."""
    path = write_log(audit_folder, batches=2)
    (file,) = list_files(audit_folder)
    size = len(read_log(path)[0]) + 1
    lines, after = read_lines(Position(file, 0, 0), Position(file, size, 1), 100, MEBIBYTE)
    assert (list(lines), after.sequence) == (read_log(path)[:1], 1)
    assert read_lines(after, Position(file, size, 1), 100, MEBIBYTE) == ((), after)
    assert read_lines(after, Position(file, 0, 0), 100, MEBIBYTE) == ((), after)


def test_a_file_that_is_gone_leads_to_the_writers_own(audit_folder: Path) -> None:
    """When there is no file between, reading goes on where the writer is."""
    write_log(audit_folder, batches=1)
    (file,) = list_files(audit_folder)
    end = Position(chain_file(audit_folder, "worker-1", "f" * 16, 0), 0, 0)
    assert read_lines(Position(file, file.path.stat().st_size, 3), end, 10, MEBIBYTE) == ((), Position(end.file, 0, 0))
