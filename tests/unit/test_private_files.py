"""Private folders: at every depth, whoever makes them first, and whatever the umask is."""

import importlib
import os
import signal
import stat
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier

import pytest

from broker_worker.core.errors import SetupError
from broker_worker.private_files import create_private, make_private_folder

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")


@pytest.fixture(params=[0o000, 0o022], ids=["umask 000", "umask 022"])
def _umask(request: pytest.FixtureRequest) -> Iterator[None]:
    """A umask that leaves others their rights."""
    before = os.umask(request.param)
    yield
    os.umask(before)


def modes(*folders: Path) -> list[int]:
    """The modes of folders."""
    return [stat.S_IMODE(folder.stat().st_mode) for folder in folders]


@pytest.mark.usefixtures("_umask")
def test_missing_parents_are_as_private(tmp_path: Path) -> None:
    """Each folder that is made on the way has mode 0700; a later process that is asked for one of them takes it."""
    home = tmp_path / "home"
    state = home / "state" / "workers"
    make_private_folder(state)
    assert modes(home, home / "state", state) == [0o700] * 3
    make_private_folder(home)


@pytest.mark.usefixtures("_umask")
def test_processes_that_start_together_make_the_same_folders(tmp_path: Path) -> None:
    """Whichever comes first, no one of them finds a parent that another made open."""
    homes = [tmp_path / f"home-{number}" for number in range(20)]
    together = Barrier(4)

    def start(parts: tuple[str, ...]) -> None:
        for home in homes:
            together.wait(45)
            make_private_folder(home.joinpath(*parts))

    with ThreadPoolExecutor(4) as processes:
        list(processes.map(start, [(), ("state",), ("state", "approvals"), ("state", "dashboard")]))
    for home in homes:
        assert modes(home, home / "state", home / "state" / "approvals") == [0o700] * 3


def test_a_folder_that_others_may_enter_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    """The error says its mode and how to close it."""
    tmp_path.chmod(0o755)
    with pytest.raises(SetupError, match=r"has mode 0755; group and others may have no access") as caught:
        make_private_folder(tmp_path)
    assert caught.value.hint.startswith(f"chmod 700 '{tmp_path}'")
    assert modes(tmp_path) == [0o755]


def test_a_parent_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    """Only what is made is ours to close: `/home` stays open to all."""
    tmp_path.chmod(0o755)
    make_private_folder(tmp_path / "home")
    assert modes(tmp_path, tmp_path / "home") == [0o755, 0o700]


def test_what_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A file where a folder belongs is an error for people."""
    (tmp_path / "home").write_text("")
    with pytest.raises(SetupError, match="cannot be made"):
        make_private_folder(tmp_path / "home" / "state")


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file of this process can become longer, as on a disk that is full then."""
    resource = importlib.import_module("resource")  # not on Windows
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("size", [0, 5])
def test_of_a_new_file_that_does_not_fit_no_part_is_left(tmp_path: Path, size: int) -> None:
    """An empty intake key would stop all that read keys; when there is room again, the file can be made."""
    path = tmp_path / "new.key"
    with room_for(size), pytest.raises(SetupError, match=r"new\.key cannot be written"):
        create_private(path, b"x" * 64)
    assert list(tmp_path.iterdir()) == []
    create_private(path, b"x" * 64)
    with pytest.raises(SetupError, match="exists already"):
        create_private(path, b"y")
    assert path.read_bytes() == b"x" * 64
