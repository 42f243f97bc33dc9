"""The baseline: findings that are known, so that only new ones are told.

A JSON file with a random salt and, for each known finding, its path from the file's folder on, its kind and its keyed
fingerprint. It can be committed. Whoever has it can test a guess of a value against it, so it hides what is long and
random and not what is short; nothing of a value stands in it, nor how long it is.
"""

import base64
import binascii
import os
import secrets
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from agent_sdk.scan.errors import ScanError
from agent_sdk.scan.finding import Finding

SALT_BYTES: Final = 32
_MAX_BYTES: Final = 64 * 1024 * 1024
_HINT: Final = "name another file, or make it anew with --update-baseline after moving it away"


class Known(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, order=True):
    """A finding that is known; `in_history` if git's history was scanned."""

    path: str
    kind: str
    fingerprint: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
    in_history: bool = False


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    version: Annotated[int, Meta(ge=1, le=1)]
    salt: str
    findings: list[Known]


class Baseline:
    """Known findings, and the salt of their fingerprints.

    Args:
        path: the file; it need not exist.
        salt: 32 random bytes.
        known: what is known.
    """

    def __init__(self, path: Path, salt: bytes, known: Iterable[Known] = ()) -> None:
        self.path = path
        self.salt = salt
        self._known = frozenset(known)
        self._folder = os.path.realpath(path.parent)

    @classmethod
    def load(cls, path: Path, *, may_be_missing: bool = False) -> "Baseline":
        """Read a baseline.

        Args:
            path: the file.
            may_be_missing: whether a new one is made in its place; it is written by `write`.

        Raises:
            ScanError: if it cannot be read or is not what `write` wrote.
        """
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                raise ScanError(f"the baseline {path} is not a plain file", hint=_HINT)
            if status.st_size > _MAX_BYTES:
                raise ScanError(f"the baseline {path} is larger than {_MAX_BYTES} bytes", hint=_HINT)
            file = msgspec.json.decode(path.read_bytes(), type=_File)
            salt = base64.b64decode(file.salt, validate=True)
        except FileNotFoundError:
            if may_be_missing:
                return cls(path, secrets.token_bytes(SALT_BYTES))
            raise ScanError(f"the baseline {path} does not exist", hint="make it with --update-baseline") from None
        except OSError as error:
            raise ScanError(f"the baseline {path} cannot be read: {error.strerror}", hint=_HINT) from None
        except (msgspec.MsgspecError, binascii.Error, ValueError):
            raise ScanError(f"{path} is not a baseline of this program", hint=_HINT) from None
        if len(salt) != SALT_BYTES:
            raise ScanError(f"{path} is not a baseline of this program: its salt is damaged", hint=_HINT)
        return cls(path, salt, file.findings)

    def __contains__(self, finding: object) -> bool:
        if not isinstance(finding, Finding):
            return False
        known = self._entry(finding)
        return known in self._known or msgspec.structs.replace(known, in_history=not known.in_history) in self._known

    def updated(
        self, found: Iterable[Finding], scanned: Sequence[str], *, of_history: bool, is_whole: bool
    ) -> "Baseline":
        """A baseline with what was found, and without what is there no more.

        Args:
            found: what a scan found.
            scanned: the files and folders that were scanned.
            of_history: whether it was the history that was scanned.
            is_whole: whether what was not found below them is gone; not so of what is staged.
        """
        below = [self._place(path) for path in scanned] if is_whole else []
        kept = {each for each in self._known if each.in_history != of_history or not _is_below(each.path, below)}
        return Baseline(self.path, self.salt, kept | {self._entry(each) for each in found})

    def write(self) -> None:
        """Write the file whole.

        Raises:
            OSError: if it cannot be written; the old file is then still there.
        """
        file = _File(1, base64.b64encode(self.salt).decode(), sorted(self._known))
        temporary = self.path.with_name(f".{self.path.name}.{secrets.token_hex(6)}")
        try:
            temporary.write_bytes(msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n")
            temporary.replace(self.path)
        finally:
            temporary.unlink(missing_ok=True)

    def __len__(self) -> int:
        return len(self._known)

    def _entry(self, finding: Finding) -> Known:
        return Known(self._place(finding.path), finding.kind, finding.fingerprint, bool(finding.commit))

    def _place(self, path: str) -> str:
        """A path from the baseline's folder on, whatever folder the scan was started in."""
        name = os.path.relpath(os.path.realpath(path), self._folder)
        return name.replace(os.sep, "/").encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _is_below(path: str, folders: Iterable[str]) -> bool:
    return any(
        (folder == "." and not path.startswith("../")) or path == folder or path.startswith(f"{folder}/")
        for folder in folders
    )
