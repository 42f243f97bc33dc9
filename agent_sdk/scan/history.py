"""Git's history and index, read by the real `git`: each blob once, with the first commit and the path that had it."""

import os
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import IO, Final

from agent_sdk.scan.detection import find_secrets
from agent_sdk.scan.errors import ScanError
from agent_sdk.scan.finding import Finding, findings_of
from agent_sdk.scan.reading import as_text
from agent_sdk.scan.tree import Tally

_QUIET: Final = (
    "--no-pager",
    "-c",
    "core.fsmonitor=false",
    "-c",
    "core.quotePath=false",
    "-c",
    "log.showSignature=false",
    "-c",
    "diff.renames=false",
    "-c",
    "log.showRoot=true",
    "-c",
    "diff.external=",
    "-c",
    "core.hooksPath=/dev/null",
)
"""A repository's own settings must neither start programs nor change what is printed."""
_WHOLE: Final = ("--no-relative", f"-O{os.devnull}")
"""The same of a repository's `diff.relative` and `diff.orderFile`: all folders, in git's own order."""
_OF_A_CALLER: Final = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY")
_PLAIN_FILES: Final = frozenset({b"100644", b"100755", b"100664"})
_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class Blob:
    """A file's content at one time.

    Args:
        path: from the repository's top on.
        commit: the first commit with this content at this path; empty for the index.
        name: git's name of the content.
        content: the file's bytes; None if they were given before, at another path.
    """

    path: str
    commit: str
    name: bytes
    content: bytes | None = field(repr=False)


class Repository:
    """A git repository, through its program.

    Args:
        folder: a folder within it, or a bare repository.
        in_hook: whether git itself calls, and says by its variables which index is meant.

    Raises:
        ScanError: if there is no git, or no repository.
    """

    def __init__(self, folder: str, *, in_hook: bool = False) -> None:
        self._folder = folder
        self._environ = {key: value for key, value in os.environ.items() if in_hook or key not in _OF_A_CALLER}
        self._environ |= {
            "LC_ALL": "C",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_NO_REPLACE_OBJECTS": "1",  # what was replaced, or grafted away, is still there
            "GIT_GRAFT_FILE": os.devnull,
        }
        is_bare = self._ask("rev-parse", "--is-bare-repository").strip() == b"true"
        where = self._ask("rev-parse", "--absolute-git-dir" if is_bare else "--show-toplevel")
        self.top = os.fsdecode(where.removesuffix(b"\n"))

    def blobs(self, max_bytes: int, tally: Tally) -> Iterator[Blob]:
        """Every content that a file had in a commit of any branch, tag, stash or reflog, the oldest first.

        Args:
            max_bytes: larger ones are counted and left out.
            tally: counts them.

        Raises:
            ScanError: if git fails.
        """
        order = ("log", "--all", "--reflog", "--reverse", "--topo-order", "--diff-filter=d", "--diff-merges=separate")
        with self._start(*order, *_WHOLE, "--raw", "-z", "--no-abbrev", "--no-renames", "--format=%x01%H") as log:
            assert log.stdout is not None
            yield from self._contents(_changes(log.stdout), max_bytes, tally)
            self._check(log)

    def staged(self, max_bytes: int, tally: Tally) -> Iterator[Blob]:
        """What the next commit would add or change, as it stands in the index.

        Args:
            max_bytes: larger ones are counted and left out.
            tally: counts them.

        Raises:
            ScanError: if git fails.
        """
        change = ("diff", "--cached", "--no-ext-diff", "--diff-filter=d", "--ignore-submodules")
        with self._start(*change, *_WHOLE, "--raw", "-z", "--no-abbrev", "--no-renames") as diff:
            assert diff.stdout is not None
            yield from self._contents(_changes(diff.stdout), max_bytes, tally)
            self._check(diff)

    def _contents(self, changes: "Iterator[_Change]", max_bytes: int, tally: Tally) -> Iterator[Blob]:
        read: set[tuple[bytes, bytes]] = set()
        given: set[tuple[bytes, bytes]] = set()
        with self._start("cat-file", "--batch", stdin=True) as reader:
            assert reader.stdin is not None
            assert reader.stdout is not None
            for change in changes:
                if (change.blob, change.path) in given:
                    continue
                given.add((change.blob, change.path))
                # a file's ending decides how it is read, so one content under two endings is looked at twice
                key = (change.blob, _ending(change.path))
                content: bytes | None = None
                if key not in read:
                    read.add(key)
                    content = _content(reader.stdin, reader.stdout, change.blob, max_bytes, tally)
                    if content is None:
                        continue
                yield Blob(os.fsdecode(change.path), change.commit, change.blob, content)
            reader.stdin.close()

    def _start(self, *arguments: str, stdin: bool = False) -> "subprocess.Popen[bytes]":
        command = ("git", *_QUIET, "-C", self._folder, *arguments)
        pipe = subprocess.PIPE
        try:
            return subprocess.Popen(  # noqa: S603  # fixed words and a folder, without a shell
                command,
                stdin=pipe if stdin else subprocess.DEVNULL,
                stdout=pipe,
                stderr=subprocess.DEVNULL,
                env=self._environ,
            )
        except FileNotFoundError:
            raise ScanError("the program `git` was not found", hint="install git, or put it on the PATH") from None

    def _ask(self, *arguments: str) -> bytes:
        command = ("git", *_QUIET, "-C", self._folder, *arguments)
        try:
            done = subprocess.run(command, capture_output=True, env=self._environ, timeout=_SECONDS, check=False)  # noqa: S603  # as above
        except FileNotFoundError:
            raise ScanError("the program `git` was not found", hint="install git, or put it on the PATH") from None
        except subprocess.TimeoutExpired:
            raise ScanError(f"git did not answer within {_SECONDS} seconds", hint="is the disk there?") from None
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise ScanError(
                f"git cannot read {self._folder}: {said[0] if said else 'no reason given'}", hint="name a repository"
            )
        return done.stdout

    def _check(self, process: "subprocess.Popen[bytes]") -> None:
        if process.wait(_SECONDS):
            raise ScanError(f"git failed while it listed {self._folder}", hint="run `git fsck` there")


@dataclass(frozen=True, slots=True)
class _Change:
    blob: bytes
    path: bytes
    commit: str


def _changes(stream: IO[bytes]) -> Iterator[_Change]:
    """Read git's raw format with NUL as the end of each field (git-diff, "Raw output format")."""
    commit, mode, blob = "", b"", b""
    for text in _fields(stream):
        if blob:
            if mode in _PLAIN_FILES:
                yield _Change(blob, text, commit)
            blob = b""
            continue
        words = text.lstrip(b"\n")
        if words.startswith(b"\x01"):
            commit = words[1:].decode()
        elif words.startswith(b":"):
            _, mode, _, blob, _ = words.split(b" ")


def _ending(path: bytes) -> bytes:
    return path.rpartition(b"/")[2].rpartition(b".")[2]


def _fields(stream: IO[bytes]) -> Iterator[bytes]:
    rest = b""
    while chunk := stream.read(65536):
        *whole, rest = (rest + chunk).split(b"\0")
        yield from whole
    if rest:
        yield rest


def _content(questions: IO[bytes], answers: IO[bytes], blob: bytes, max_bytes: int, tally: Tally) -> bytes | None:
    """Ask for one blob (git-cat-file, "Batch output")."""
    questions.write(blob + b"\n")
    questions.flush()
    head = answers.readline().split()
    if len(head) != 3:
        tally.unreadable.append((blob.decode(errors="replace"), "git does not have this blob"))
        return None
    size = int(head[2])
    if size > max_bytes:
        tally.large += 1
        left = size + 1
        while left:
            left -= len(answers.read(min(left, 1 << 20)))
        return None
    content = answers.read(size)
    answers.read(1)
    return content


def scan_blobs(
    blobs: Iterable[Blob], top: str, salt: bytes, tally: Tally, leaves_out: Callable[[str], bool]
) -> list[Finding]:
    """Scan contents from git.

    Args:
        blobs: the contents, the oldest first.
        top: the repository's top as findings are to name it; empty for the folder that this process is in.
        salt: keys the fingerprints.
        tally: counts what was looked at.
        leaves_out: whether a path is not to be scanned.

    Returns:
        Where each value stood first, once for each file that had it.
    """
    first: dict[tuple[str, str, str], Finding] = {}
    known: dict[tuple[bytes, bytes], list[Finding]] = {}
    for blob in blobs:
        path = os.path.join(top, blob.path) if top else blob.path  # noqa: PTH118  # paths are plain texts here, as in `tree`
        if leaves_out(path):
            continue
        key = (blob.name, _ending(os.fsencode(blob.path)))
        if blob.content is not None:
            known[key] = _scan(blob, blob.content, salt, tally)
        for found in known.get(key, ()):
            here = replace(found, path=path, commit=blob.commit)
            first.setdefault((path, here.kind, here.fingerprint), here)
    return sorted(first.values(), key=lambda each: (each.path, each.line, each.column))


def _scan(blob: Blob, content: bytes, salt: bytes, tally: Tally) -> list[Finding]:
    text = as_text(content)
    if text is None:
        tally.binary += 1
        return []
    tally.files += 1
    return list(findings_of(find_secrets(text, blob.path), text, blob.path, salt, blob.commit))
