"""The orders to refuse or to serve again, in a file of the broker's own, so that a queue that forgets undoes none.

Each line holds one signed order and, for people who read the file, what it says. Only the signature counts.
"""

import base64
import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import structlog
from msgspec import Struct

from agent_sdk.wire.audit import format_time
from agent_sdk.wire.errors import WireError
from broker_worker.core.errors import SetupError
from broker_worker.core.revocations import Revocation, open_revocation
from broker_worker.state.line_file import LineFile

_log = structlog.get_logger(__name__)


class _Line(Struct, frozen=True, forbid_unknown_fields=True):
    time: str
    order: str
    subject: str
    reason: str
    by: str
    signed: str


_DECODE = msgspec.json.Decoder(_Line).decode
_ENCODE = msgspec.json.Encoder().encode


def tell(fault: str) -> None:
    """Log what is wrong with the file."""
    _log.error("revocations_file", fault=fault)


class RevocationFile:
    """Appends signed orders and reads those that are new; for several processes and threads.

    Args:
        path: the file; it need not exist.
        control_public: the public half of the control key, 32 bytes.
        on_fault: told of a line that the control key did not sign, and of a file that was cut, changed or removed.
            What was read before stays true: nothing that happens to the file takes an order back.
    """

    def __init__(self, path: Path, control_public: bytes, on_fault: Callable[[str], None] = tell) -> None:
        self._path = path
        self._public = control_public
        self._on_fault = on_fault
        self._file = LineFile(path, _is_line)
        self._mutex = threading.Lock()
        self._known: set[bytes] = set()
        self._unread: list[Revocation] = []
        self._strange = 0
        self._was_read = False
        self._trouble = ""

    def append(self, signed: bytes) -> bool:
        """Write an order and have the disk take it; one that the file has already is not written again.

        If that fails, the order still comes with the next `poll` of this process.

        Args:
            signed: from `sign_revocation`, or from the queue.

        Returns:
            Whether it was new.

        Raises:
            WireError: if the control key did not sign it.
            SetupError: if it cannot be written.
        """
        return self.append_all([signed]) == 1

    def append_all(self, orders: Sequence[bytes]) -> int:
        """Write several orders at once; otherwise like `append`.

        Returns:
            How many were new.

        Raises:
            WireError: if the control key did not sign one of them; nothing is then written.
            SetupError: if they cannot be written.
        """
        opened = {_mark(signed): (open_revocation(signed, self._public), signed) for signed in orders}
        with self._mutex:
            new = self._new_of(opened)
            if not new:
                return 0
            try:
                with self._file.locked():
                    self._read_on()
                    new = self._new_of(opened)
                    if new:
                        self._file.append(*(_line_of(revocation, signed) for revocation, signed in new))
            except SetupError:
                self._unread += [revocation for revocation, _ in new]
                raise
            return len(new)

    def _new_of(self, opened: Mapping[bytes, tuple[Revocation, bytes]]) -> list[tuple[Revocation, bytes]]:
        return [order for mark, order in opened.items() if mark not in self._known]

    def poll(self) -> list[Revocation]:
        """The orders that came since the last call, this process's own included, in the order of the file.

        Raises:
            SetupError: at the first call only: if there is a file that cannot be read, or that has orders and not one
                of this control key. Later such things are told to `on_fault`, once, and nothing is new.
        """
        with self._mutex:
            try:
                self._read_on()
                self._trouble = ""
            except SetupError as error:
                if not self._was_read:
                    raise
                if self._trouble != str(error):
                    self._trouble = str(error)
                    self._on_fault(str(error))
            self._was_read = True
            unread, self._unread = self._unread, []
            return unread

    def _read_on(self) -> None:
        news = self._file.poll()
        if news.fault:
            self._strange = 0
            self._on_fault(f"{self._path} {news.fault}; what it said before stays in force here")
        faults = [fault for line in news.lines if (fault := self._take(line))]
        self._strange += len(faults)
        if self._strange and not self._known:
            raise SetupError(
                f"{self._path} has {self._strange} lines and not one order of this control key",
                hint="restore keys/control.key or the file; without them this broker would serve what was revoked",
            )
        for fault in faults:
            self._on_fault(f"{self._path}: {fault}")

    def _take(self, line: bytes) -> str:
        """Read a line; what is wrong with it, if anything."""
        try:
            read = _DECODE(line)
            signed = base64.b64decode(read.signed, altchars=b"-_", validate=True)
            revocation = open_revocation(signed, self._public)
        except (msgspec.MsgspecError, ValueError):
            return "a line is no order"
        except WireError as error:
            return f"a line does not count: {error}"
        if _mark(signed) not in self._known:
            self._known.add(_mark(signed))
            self._unread.append(revocation)
        if line != _line_of(revocation, signed):
            return f"a line says something else than what was signed, {revocation.order} {revocation.label}"
        return ""


def _is_line(text: bytes) -> bool:
    try:
        _DECODE(text)
    except (msgspec.MsgspecError, ValueError):
        return False
    return True


def _line_of(revocation: Revocation, signed: bytes) -> bytes:
    return _ENCODE(
        _Line(
            time=format_time(revocation.at),
            order=revocation.order,
            subject=revocation.label,
            reason=revocation.reason,
            by=revocation.by,
            signed=base64.urlsafe_b64encode(signed).decode("ascii"),
        )
    )


def _mark(signed: bytes) -> bytes:
    return hashlib.sha256(signed).digest()
