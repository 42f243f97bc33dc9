"""A write is heard of also if the clock was set back before it."""

from pathlib import Path

from desk_workbench import NOW

from broker_worker.ports import WriteNote
from broker_worker.state.write_file import WriteFile


def test_a_write_with_an_earlier_time_is_news(tmp_path: Path) -> None:
    """Copies of what it replaced are dropped like any other's."""
    path = tmp_path / "state" / "writes.jsonl"
    writer, reader = WriteFile(path, lambda: NOW), WriteFile(path, lambda: NOW)
    for write_id, at, version in (("ab", NOW, "2"), ("cd", NOW - 3_000, "3")):
        writer.note([WriteNote(write_id * 16, "written", "a.b", "local://a", at, version=version)])
        assert [note.version for note in reader.poll()] == [version]
    assert reader.poll() == []
