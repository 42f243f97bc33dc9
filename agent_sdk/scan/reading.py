"""Files as texts: encodings, and what is not read and why."""

import codecs
import os
import stat
from typing import Final

MAX_BYTES: Final = 10 * 1024 * 1024
"""Larger files are not read, unless another size is asked for."""
_LOOKED_AT: Final = 8192
_FLAGS: Final = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)
_WIDE: Final = ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


class TooLargeError(Exception):
    """A file has more bytes than are read."""


def read_file(path: str, max_bytes: int) -> bytes | None:
    """Read a file, and no link, device or pipe.

    Args:
        path: the file.
        max_bytes: the most that is read.

    Returns:
        Its content; None if it is no plain file.

    Raises:
        TooLargeError: if it is longer.
        OSError: if it cannot be read.
    """
    descriptor = os.open(path, _FLAGS)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return None
        if status.st_size > max_bytes:
            raise TooLargeError
        content = os.read(descriptor, status.st_size + 1)
        if len(content) == status.st_size:
            return content
        return _read_on(descriptor, content, max_bytes)
    finally:
        os.close(descriptor)


def _read_on(descriptor: int, content: bytes, max_bytes: int) -> bytes:
    """The rest of a file that grows, or that says nothing of its size, as those of /proc."""
    parts, size = [content], len(content)
    while part := os.read(descriptor, 65536):
        parts.append(part)
        size += len(part)
        if size > max_bytes:
            raise TooLargeError
    return b"".join(parts)


def as_text(raw: bytes) -> bytes | None:
    """A file's content as a text that detection can read.

    Args:
        raw: UTF-8, Latin-1 or another encoding whose first half is ASCII; UTF-16 with a byte order mark.

    Returns:
        The text, UTF-16 as UTF-8; None if it is binary.
    """
    for mark, encoding in _WIDE:
        if raw.startswith(mark):
            return raw[2:].decode(encoding, "replace").encode()
    if b"\0" in raw[:_LOOKED_AT]:
        return None
    return raw.removeprefix(codecs.BOM_UTF8)
