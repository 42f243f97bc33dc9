"""The head: a worker's last signed checkpoint beside its chain, so that a tail that was cut off is missed.

It is written by a thread of its own, at most once a second and when the audit is closed, because no answer has to
wait for it. After a crash it may be a second old; a chain that is longer than its head is in order.
"""

import threading
from contextlib import suppress
from pathlib import Path

from agent_sdk.wire.audit import MAX_LINE, AuditEvent, decode_line, verify_checkpoint
from agent_sdk.wire.errors import WireError
from broker_worker.core.errors import SetupError
from broker_worker.private_files import write_private

_INTERVAL_SECONDS = 1.0


class HeadKeeper:
    """Keeps the head on disk.

    Args:
        path: the file.
        interval: seconds between two writes.
    """

    def __init__(self, path: Path, interval: float = _INTERVAL_SECONDS) -> None:
        self._path = path
        self._interval = interval
        self._line: bytes | None = None
        self._due = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit-head", daemon=True)
        self._thread.start()

    def note(self, checkpoint: bytes) -> None:
        """Take the line of a new checkpoint; all but the first cost nothing worth measuring."""
        first, self._line = self._line is None, checkpoint
        if first:
            self._write()  # from the first answer on there is a head
        elif not self._due.is_set():
            self._due.set()

    def close(self) -> None:
        """Write the last checkpoint and stop."""
        self._closed.set()
        self._due.set()
        self._thread.join()
        self._write()

    def _run(self) -> None:
        while not self._closed.is_set():
            self._due.wait()
            self._due.clear()
            self._write()
            self._closed.wait(self._interval)

    def _write(self) -> None:
        line = self._line
        if line is not None:
            with suppress(SetupError):  # the records are safe; the next checkpoint brings the next attempt
                write_private(self._path, line + b"\n")


def read_head(path: Path, identity_public_key: bytes) -> tuple[AuditEvent, bytes] | None:
    """Read a head.

    Args:
        path: the file.
        identity_public_key: the broker's Ed25519 identity, 32 bytes.

    Returns:
        The checkpoint and its line; None if there is none that this broker signed.

    Raises:
        OSError: if it is there and cannot be read.
    """
    try:
        with path.open("rb") as file:
            line = file.read(MAX_LINE + 1).removesuffix(b"\n")
        event = decode_line(line)
    except (FileNotFoundError, WireError):
        return None
    return (event, line) if verify_checkpoint(identity_public_key, event) else None
