"""Scans files and folders, on as many processors as are lent."""

import fnmatch
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from agent_sdk.scan.detection import find_secrets
from agent_sdk.scan.errors import ScanError
from agent_sdk.scan.finding import Finding, findings_of
from agent_sdk.scan.reading import MAX_BYTES, TooLargeError, as_text, read_file

SKIPPED_FOLDERS: Final = frozenset(
    {
        ".git",
        ".hg",
        ".svn",
        ".bzr",
        "node_modules",
        ".venv",
        "__pycache__",
        ".tox",
        ".nox",
        ".mypy_cache",
        ".ruff_cache",
        ".pytest_cache",
        ".hypothesis",
        ".import_linter_cache",
        ".eggs",
        ".terraform",
        ".gradle",
    }
)
"""Folders that are not entered, unless all are asked for: of version control, installed packages and caches."""
CHUNK = 500
"""Files that a process is given at once."""
WORTH_A_PROCESS = 2000
"""So many files are shared out among processes."""


@dataclass(slots=True)
class Tally:
    """What was looked at and what was not.

    Args:
        files: how many files or blobs were read.
        binary: how many are binary.
        large: how many are larger than what is read.
        links: how many symbolic links were not followed.
        folders: how many folders were not entered.
        unreadable: what could not be read, and why.
    """

    files: int = 0
    binary: int = 0
    large: int = 0
    links: int = 0
    folders: int = 0
    unreadable: list[tuple[str, str]] = field(default_factory=list)

    def add(self, other: "Tally") -> None:
        """Count in what another part of the scan saw."""
        self.files += other.files
        self.binary += other.binary
        self.large += other.large
        self.links += other.links
        self.folders += other.folders
        self.unreadable += other.unreadable


@dataclass(frozen=True, slots=True)
class Scope:
    """What of a folder is scanned.

    Args:
        salt: keys the fingerprints.
        enters_all: also folders of `SKIPPED_FOLDERS`.
        excluded: patterns of the shell's kind; what matches a name or a path from the folder on is left out.
        max_bytes: larger files are not read.
        left_out: absolute paths that are not read, such as the baseline's own.
    """

    salt: bytes = field(repr=False)
    enters_all: bool = False
    excluded: tuple[str, ...] = ()
    max_bytes: int = MAX_BYTES
    left_out: frozenset[str] = frozenset()


def scan_paths(paths: Sequence[str], scope: Scope, jobs: int) -> tuple[list[Finding], Tally]:
    """Scan files and folders.

    Args:
        paths: files or folders; symbolic links below a folder are not followed.
        scope: what of them.
        jobs: how many processes at most; one is used where there is little to do.

    Returns:
        What was found, by path and place, and what was looked at.

    Raises:
        ScanError: if a path does not exist.
    """
    tally = Tally()
    files = list(walk(paths, scope, tally))
    chunks = [files[at : at + CHUNK] for at in range(0, len(files), CHUNK)]
    found: list[Finding] = []
    for part, seen in _run(chunks, scope, jobs if len(files) >= WORTH_A_PROCESS else 1):
        found += part
        tally.add(seen)
    return sorted(found, key=lambda each: (each.path, each.line, each.column)), tally


def _run(chunks: Sequence[Sequence[str]], scope: Scope, jobs: int) -> Iterator[tuple[list[Finding], Tally]]:
    if jobs <= 1:
        yield from (_scan_files(chunk, scope) for chunk in chunks)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(_scan_files, chunks, [scope] * len(chunks))


def _scan_files(paths: Iterable[str], scope: Scope) -> tuple[list[Finding], Tally]:
    found: list[Finding] = []
    tally = Tally()
    for path in paths:
        try:
            raw = read_file(path, scope.max_bytes)
        except TooLargeError:
            tally.large += 1
            continue
        except OSError as error:
            tally.unreadable.append((path, error.strerror or "cannot be read"))
            continue
        text = None if raw is None else as_text(raw)
        if text is None:
            tally.binary += 1
            continue
        tally.files += 1
        found += findings_of(find_secrets(text, path), text, path, scope.salt)
    return found, tally


def walk(paths: Sequence[str], scope: Scope, tally: Tally) -> Iterator[str]:
    """The plain files of some paths, each once.

    Args:
        paths: files or folders; what is named is taken even if its name would be skipped below a folder.
        scope: what is left out.
        tally: what is not followed, entered or listed is counted here.

    Raises:
        ScanError: if a path does not exist.
    """
    seen: set[str] = set()
    for path in paths:
        real = os.path.realpath(path)
        if not os.path.lexists(real):
            raise ScanError(f"{path} does not exist", hint="name files or folders")
        if real in seen:
            continue
        seen.add(real)
        if os.path.isdir(real):  # noqa: PTH112  # paths are plain texts here: a Path for each file costs more than its scan
            yield from _below(path, scope, tally)
        else:
            yield real if os.path.islink(path) else path  # noqa: PTH114  # as above; a link that was named is followed


def _below(root: str, scope: Scope, tally: Tally) -> Iterator[str]:
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                listed = sorted(entries, key=lambda each: each.name)
        except OSError as error:
            tally.unreadable.append((folder, error.strerror or "cannot be listed"))
            continue
        folders: list[str] = []
        for entry in listed:
            if entry.is_symlink():
                tally.links += 1
            elif scope.excluded and _is_excluded(entry, root, scope.excluded):
                tally.folders += entry.is_dir(follow_symlinks=False)
            elif not entry.is_dir(follow_symlinks=False):
                if entry.is_file(follow_symlinks=False) and not _is_left_out(entry.path, scope):
                    yield _shown(entry.path)
            elif entry.name in SKIPPED_FOLDERS and not scope.enters_all:
                tally.folders += 1
                if entry.name == ".git":
                    yield from _settings_of(entry.path)
            else:
                folders.append(entry.path)
        waiting += reversed(folders)


def _settings_of(git_folder: str) -> Iterator[str]:
    """A repository's own settings: remotes in them may hold passwords."""
    path = f"{git_folder}{os.sep}config"
    if os.path.isfile(path):  # noqa: PTH113  # paths are plain texts here, as in `walk`
        yield _shown(path)


def _is_left_out(path: str, scope: Scope) -> bool:
    return bool(scope.left_out) and os.path.realpath(path) in scope.left_out


def leaves_out(path: str, scope: Scope) -> bool:
    """Whether a path of a repository is not scanned: it, or a folder that it is in, is excluded."""
    parts = path.replace("\\", "/").split("/")
    is_excluded = any(_matches(part, "/".join(parts[: at + 1]), scope.excluded) for at, part in enumerate(parts))
    return is_excluded or _is_left_out(path, scope)


def _is_excluded(entry: "os.DirEntry[str]", root: str, patterns: Sequence[str]) -> bool:
    return _matches(entry.name, entry.path[len(root) :].lstrip("/\\").replace("\\", "/"), patterns)


def _matches(name: str, path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, each) or fnmatch.fnmatchcase(path, each.rstrip("/")) for each in patterns)


def _shown(path: str) -> str:
    return path.removeprefix(f".{os.sep}")
