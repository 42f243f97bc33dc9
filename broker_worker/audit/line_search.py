"""Finding lines in a chain's file from its end, where a worker that starts has to look."""

from collections.abc import Iterator
from pathlib import Path

from agent_sdk.wire.audit import line_hash
from broker_worker.audit.chain_files import iterate_lines

_BLOCK = 256 * 1024


def hash_of_last_line(path: Path) -> str | None:
    """The hash of a file's last whole line; None if it has none."""
    size = size_of_whole_lines(path)
    return line_hash(line_at(path, find_backward(path, b"\n", size - 1) + 1, size)) if size else None


def size_of_whole_lines(path: Path) -> int:
    """How many bytes there are up to a file's last line feed."""
    return find_backward(path, b"\n", path.stat().st_size) + 1


def find_backward(path: Path, needle: bytes, size: int) -> int:
    """The offset of the last occurrence within the first `size` bytes, or -1."""
    with path.open("rb") as file:
        end = size
        while end > 0:
            start = max(0, end - _BLOCK)
            file.seek(start)
            found = file.read(min(size, end + len(needle) - 1) - start).rfind(needle)
            if found >= 0:
                return start + found
            end = start
    return -1


def line_at(path: Path, offset: int, size: int) -> bytes:
    """The line at an offset, without its line feed; nothing from `size` on is read."""
    return next(lines_between(path, offset, size))


def lines_between(path: Path, offset: int, size: int) -> Iterator[bytes]:
    """The lines from an offset on to `size`, without line feeds."""
    with path.open("rb") as file:
        file.seek(offset)
        for line, _ in iterate_lines(file, size - offset):
            yield line
