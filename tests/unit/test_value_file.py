"""A value as a file: in memory, sealed, for those who inherit it."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from agent_sdk.run.value_file import open_value_file


def test_a_value_can_be_read_as_often_as_its_path_is_opened_and_is_nowhere_else() -> None:
    """It belongs to the user alone."""
    file = open_value_file()
    file.fill(b"\0value")
    try:
        assert Path(file.path).read_bytes() == Path(file.path).read_bytes() == b"\0value"
        status = os.fstat(file.descriptor)
        assert (stat.S_IMODE(status.st_mode), status.st_nlink) == (0o600, 0)
    finally:
        os.close(file.descriptor)


@pytest.mark.skipif(sys.platform != "linux", reason="seals are Linux's")
def test_nobody_can_change_a_value() -> None:
    """Neither its bytes nor its length, nor that."""
    file = open_value_file()
    file.fill(b"value")
    try:
        with pytest.raises(PermissionError):
            os.write(file.descriptor, b"x")
        with pytest.raises(PermissionError):
            os.truncate(file.descriptor, 0)
        with Path(file.path).open("r+b", buffering=0) as other, pytest.raises(PermissionError):
            other.write(b"x")
    finally:
        os.close(file.descriptor)


def test_what_is_started_from_here_opens_it_by_its_path() -> None:
    """The number is the same there, and out of the way of those that scripts use."""
    file = open_value_file()
    file.fill(b"value")
    try:
        done = subprocess.run(["cat", file.path], capture_output=True, check=True, close_fds=False)
    finally:
        os.close(file.descriptor)
    assert done.stdout == b"value"
    assert file.descriptor >= 10


def test_without_memory_files_it_is_a_file_that_no_folder_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As on macOS: private, and unlinked before the value is written."""
    monkeypatch.delattr(os, "memfd_create")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    file = open_value_file()
    file.fill(b"value")
    try:
        assert list(tmp_path.iterdir()) == []
        assert stat.S_IMODE(os.fstat(file.descriptor).st_mode) == 0o600
        assert os.read(file.descriptor, 10) == b"value"
    finally:
        os.close(file.descriptor)
