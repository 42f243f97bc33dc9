"""The file of lines that several processes append to: what is in it is on disk, and whatever else happens is told."""

import errno
import os
import stat
import threading
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_worker.core.errors import SetupError
from broker_worker.state import line_file
from broker_worker.state.line_file import LineFile, News

posix = pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")


def is_line(text: bytes) -> bool:
    return text.startswith(b"<") and text.endswith(b">")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that does not exist yet, in a folder that does not either."""
    return tmp_path / "state" / "lines"


def append(file: LineFile, *lines: bytes) -> None:
    with file.locked():
        file.poll()
        file.append(*lines)


def wrote(path: Path, content: bytes) -> None:
    """Put a content into the file as somebody else would."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    if not path.exists():
        path.touch(0o600)
    path.write_bytes(content)


def test_nothing_is_read_where_there_is_no_file(path: Path) -> None:
    """A file that was never written is no fault."""
    assert LineFile(path, is_line).poll() == News()
    assert not path.parent.exists()


def test_lines_come_once_and_in_order(path: Path) -> None:
    """Each poll gives what came since the last one, whoever wrote it, the reader itself included."""
    writer, reader = LineFile(path, is_line), LineFile(path, is_line)
    append(writer, b"<1>")
    assert reader.poll() == ([b"<1>"], "")
    append(writer, b"<2>", b"<3>")
    assert reader.poll() == ([b"<2>", b"<3>"], "")
    append(reader, b"<4>")
    assert reader.poll() == ([b"<4>"], "")
    assert reader.poll() == News()


@posix
def test_modes_are_private(path: Path) -> None:
    """File, lock and folder are closed to others, whatever the umask."""
    before = os.umask(0)
    try:
        append(LineFile(path, is_line), b"<1>")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()} == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@posix
@pytest.mark.parametrize("mode", [0o640, 0o602])
def test_file_that_is_open_to_others_is_refused(path: Path, mode: int) -> None:
    """What others could have written is not believed."""
    append(LineFile(path, is_line), b"<1>")
    path.chmod(mode)
    with pytest.raises(SetupError, match="mode 06"):
        LineFile(path, is_line).poll()


@posix
def test_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    """A link in the file's place leads nowhere."""
    wrote(tmp_path / "other", b"<1>\n")
    path.parent.mkdir(mode=0o700)
    path.symlink_to(tmp_path / "other")
    with pytest.raises(SetupError, match="cannot be read"):
        LineFile(path, is_line).poll()


def test_quiet_poll_does_not_open_the_file(path: Path) -> None:
    """Asking four times a second costs one look at the status."""
    file = LineFile(path, is_line)
    append(file, b"<1>")
    file.poll()
    with patch.object(os, "open", side_effect=AssertionError):
        assert file.poll() == News()


@pytest.mark.parametrize("torn", [b"<2", b"<", b"\0\0\0\0", b"<2>\0"])
def test_line_that_a_crash_cut_is_no_line_and_goes_with_the_next(path: Path, torn: bytes) -> None:
    """Nobody was told that it was written, and it does not stay in the way."""
    wrote(path, b"<1>\n" + torn)
    file = LineFile(path, is_line)
    assert file.poll() == ([b"<1>"], "")
    append(file, b"<3>")
    assert path.read_bytes() == b"<1>\n<3>\n"
    assert file.poll() == ([b"<3>"], "")


def test_line_that_lacks_its_line_feed_only_counts(path: Path) -> None:
    """A whole line that an editor or a crash left without its end is neither lost nor read twice."""
    wrote(path, b"<1>\n<2>")
    file = LineFile(path, is_line)
    assert file.poll() == ([b"<1>", b"<2>"], "")
    append(file, b"<3>")
    assert path.read_bytes() == b"<1>\n<2>\n<3>\n"
    assert file.poll() == ([b"<3>"], "")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"<1>\n", "is shorter than it was"),
        (b"", "is shorter than it was"),
        (b"<1>\n<X>\n", "was changed otherwise than by appending"),
        (b"<0>\n<1>\n<2>\n", "was changed otherwise than by appending"),
    ],
)
def test_file_that_was_changed_is_told_and_read_again(path: Path, content: bytes, fault: str) -> None:
    """Cut, edited in place, or added to at the front: the reader learns of it once, and gets all lines anew."""
    file = LineFile(path, is_line)
    append(file, b"<1>", b"<2>")
    file.poll()
    wrote(path, content)
    assert file.poll() == (content.split(b"\n")[:-1], fault)
    assert file.poll() == News()


def test_file_that_was_removed_is_told_once(path: Path) -> None:
    """A file that is gone is a fault for who has read it; what comes after is read from its beginning."""
    file = LineFile(path, is_line)
    append(file, b"<1>")
    file.poll()
    path.unlink()
    assert file.poll() == News(fault="was removed")
    assert file.poll() == News()
    append(file, b"<2>")
    assert file.poll() == ([b"<2>"], "")


def test_same_content_in_another_file_is_no_fault(path: Path) -> None:
    """A file restored from a copy has lost nothing."""
    file = LineFile(path, is_line)
    append(file, b"<1>")
    file.poll()
    wrote(path.with_name("copy"), b"<1>\n<2>\n")
    path.with_name("copy").replace(path)
    assert file.poll() == ([b"<2>"], "")


def test_replacing_is_no_news_for_who_did_it(path: Path) -> None:
    """Who prunes the file reads on; others are told that it changed."""
    pruning, other = LineFile(path, is_line), LineFile(path, is_line)
    append(pruning, b"<1>", b"<2>")
    other.poll()
    with pruning.locked():
        pruning.poll()
        pruning.replace([b"<2>"])
    assert pruning.poll() == News([])
    assert other.poll() == ([b"<2>"], "is shorter than it was")


@pytest.mark.parametrize("failing", ["write", "fsync"])
def test_append_that_fails_leaves_nothing(path: Path, failing: str) -> None:
    """A full or broken disk is an error, and the line is not there afterwards."""
    file = LineFile(path, is_line)
    append(file, b"<1>")
    with (
        patch.object(os, failing, side_effect=OSError(errno.ENOSPC, "No space left on device")),
        pytest.raises(SetupError, match="cannot be written: No space left"),
    ):
        append(file, b"<2>")
    assert path.read_bytes() == b"<1>\n"


def test_a_file_that_is_cut_between_looking_and_appending_is_not_filled_with_zeros(path: Path) -> None:
    """What was there before is not known any more; the next look tells of it."""
    file = LineFile(path, is_line)
    append(file, b"<one>", b"<two>")
    with file.locked():
        file.poll()
        os.truncate(path, 6)
        with pytest.raises(SetupError, match="cannot be written"):
            file.append(b"<three>")
    assert path.read_bytes() == b"<one>\n"
    assert file.poll() == News([b"<one>"], "is shorter than it was")


def test_short_writes_are_continued(path: Path) -> None:
    """A write that takes a part is no end."""
    real = os.write
    with patch.object(os, "write", side_effect=lambda fd, content: real(fd, content[:1])):
        append(LineFile(path, is_line), b"<1>", b"<2>")
    assert path.read_bytes() == b"<1>\n<2>\n"


def test_held_lock_is_an_error_in_the_end(path: Path) -> None:
    """A process that hangs with the lock does not take the others with it."""
    file = LineFile(path, is_line)
    with (
        file.locked(),
        patch.object(line_file, "LOCK_SECONDS", 0.05),
        pytest.raises(SetupError, match="was held"),
        LineFile(path, is_line).locked(),
    ):
        pass


def test_file_that_grew_without_bound_is_not_read(path: Path) -> None:
    """The size is looked at before anything is read."""
    wrote(path, b"<1>\n")
    with patch.object(line_file, "MAX_BYTES", 3), pytest.raises(SetupError, match="more than 3 bytes"):
        LineFile(path, is_line).poll()


def test_file_does_not_grow_beyond_what_is_read(path: Path) -> None:
    """What would not be read is refused, so that nobody takes it for written; the other lines still count."""
    wrote(path, b"<1>\n")
    file = LineFile(path, is_line)
    with patch.object(line_file, "MAX_BYTES", 8):
        append(file, b"<2>")
        with pytest.raises(SetupError, match="would have more than 8 bytes"):
            append(file, b"<3>")
        assert LineFile(path, is_line).poll().lines == [b"<1>", b"<2>"]


def test_several_writers_lose_no_line(path: Path) -> None:
    """Lines of writers that run at the same time all stand in the file, whole."""

    def write(writer: int) -> None:
        file = LineFile(path, is_line)
        for number in range(10):
            append(file, b"<%d-%d>" % (writer, number))

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(LineFile(path, is_line).poll().lines) == sorted(
        b"<%d-%d>" % (writer, number) for writer in range(4) for number in range(10)
    )


@given(
    st.lists(st.binary(max_size=4).map(lambda text: b"<" + text.translate(None, b"\n>") + b">"), max_size=6), st.data()
)
def test_file_cut_anywhere_is_read_up_to_there(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], data: st.DataObject
) -> None:
    """However much of the file a crash left, its whole lines are read and the next append finds its place."""
    path = tmp_path_factory.mktemp("cut") / "lines"
    content = b"".join(line + b"\n" for line in lines)
    wrote(path, content[: data.draw(st.integers(0, len(content)))])
    file = LineFile(path, is_line)
    read = list(file.poll().lines)
    assert read == lines[: len(read)]
    append(file, b"<end>")
    assert LineFile(path, is_line).poll().lines == [*read, b"<end>"]
