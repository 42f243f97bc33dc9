"""What all workers of a home know together of its vaults, one private file a vault: it outlives restarts.

It lies beside the queue and not on it: whoever owns the queue must not be able to give us reads, or to keep us from
our vaults.
"""

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import msgspec
from filelock import FileLock, Timeout

from broker_worker.core.errors import SetupError
from broker_worker.core.vault_state import Moment, VaultState, new_state
from broker_worker.ports import Clock
from broker_worker.private_files import make_private_folder, read_private, write_private

MAX_BYTES: Final = 256 * 1024
LOCK_SECONDS: Final = 3.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # random(4); other systems have nothing like it
_DECODE = msgspec.json.Decoder(VaultState).decode
_ENCODE = msgspec.json.Encoder().encode
T = TypeVar("T")


class VaultStates:
    """Implements `ports.VaultStates` on files that several processes share. For any thread.

    Args:
        folder: where they are; made when the first one is written.
        clock: the host's clocks.
        boot: what tells one boot of the host from the next.
    """

    def __init__(self, folder: Path, clock: Clock, boot: str | None = None) -> None:
        self._folder = folder
        self._clock = clock
        self._boot = _boot_id() if boot is None else boot
        self._known: dict[str, tuple[tuple[int, ...], VaultState]] = {}

    def moment(self) -> Moment:
        """What the host's clocks say now."""
        return Moment(self._clock.now(), self._clock.monotonic_us() // 1000, self._boot)

    def look(self, vault: str) -> VaultState:
        """The state of a vault as it is now; it costs one look at the file's status when nothing changed."""
        path = self._path(vault)
        try:
            status = path.stat()
        except FileNotFoundError:
            return new_state(self.moment(), secrets.token_bytes(16))
        except OSError as error:
            raise SetupError(f"{path} cannot be read: {error.strerror}", hint="check its owner and mode") from error
        mark = status.st_ino, status.st_size, status.st_mtime_ns
        known = self._known.get(vault)
        if known is None or known[0] != mark:
            known = self._known[vault] = mark, self._read(path)
        return known[1]

    def change(self, vault: str, step: Callable[[VaultState, Moment], tuple[VaultState, T]]) -> T:
        """Change the state of a vault while no other process does; see `ports.VaultStates.change`."""
        path = self._path(vault)
        make_private_folder(self._folder.parent)
        make_private_folder(self._folder)
        lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=LOCK_SECONDS, mode=0o600)
        try:
            lock.acquire()
        except Timeout:
            hint = "see which process hangs"
            raise SetupError(f"{path} was held by another process for {LOCK_SECONDS:.0f} s", hint=hint) from None
        except OSError as error:
            raise SetupError(f"{path} cannot be locked: {error.strerror}", hint="check its folder") from error
        try:
            before = self.look(vault)
            after, result = step(before, self.moment())
            if after is not before:
                write_private(path, _ENCODE(after))
        finally:
            lock.release()
        return result

    def _path(self, vault: str) -> Path:
        return self._folder / f"{vault}.json"

    def _read(self, path: Path) -> VaultState:
        content = read_private(path, "the state of a vault", MAX_BYTES, hint="")
        try:
            return _DECODE(content)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            hint = "move it away; what was read so far is then forgotten, and the vault may refuse before we do"
            raise SetupError(f"{path} is not what the broker wrote there", hint=hint) from None


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except (OSError, ValueError):
        return ""
