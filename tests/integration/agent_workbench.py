"""`secret-agent` as a process: a desk behind a real queue, on a thread, and terminals to start commands in."""

import asyncio
import contextlib
import os
import pty
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sdk_responder import Letterbox, Responder

from agent_sdk.credential import FILE_VARIABLE, RunCredential
from agent_sdk.testing import FakeDesk

ROOT = Path(__file__).parents[2]
AGENT = (sys.executable, "-m", "agent_sdk.cli")
LONG = 20.0
KEY = "sk-live-0123456789abcdef"
MULTILINE = "first line of it\nsecond line of it\n"


class AgentHouse:
    """A run's credential in a file, and a desk that answers whoever uses it.

    Args:
        folder: where the credential is written.
        url: the queue.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self.desk = FakeDesk({"a.key": KEY, "b.key": "other-value-98765", "short": "abc", "multi": MULTILINE})
        self.run: RunCredential = self.desk.credential("claude", queue_url=url)
        self.file = folder / "run.json"
        self.file.touch(0o600)
        self.file.write_text(self.run.to_json())
        self._url = url
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        assert self._ready.wait(LONG)

    def environ(self, **more: str) -> dict[str, str]:
        """What a command is started with."""
        plain = {name: text for name, text in os.environ.items() if not name.startswith("SECRET_BROKER")}
        return {**plain, "PYTHONPATH": str(ROOT), FILE_VARIABLE: str(self.file), **more}

    def tell(self, act: Any) -> None:
        """Have something done at the desk that tells runs of it."""
        self._loop.call_soon_threadsafe(act)

    def close(self) -> None:
        """Answer nobody any more."""
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(LONG)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._respond())
        self._loop.close()

    async def _respond(self) -> None:
        responder = Responder(self._url, self.desk)
        self._task = asyncio.create_task(responder.run())
        Letterbox(responder, self.run)
        self._ready.set()
        try:
            await self._task
        finally:
            await responder.redis.aclose()


def agent(
    house: AgentHouse, *arguments: str, stdin: bytes | None = None, **environ: str
) -> "subprocess.CompletedProcess[bytes]":
    """Run `secret-agent ARGUMENTS` to its end, its streams pipes."""
    return subprocess.run(
        [*AGENT, *arguments], env=house.environ(**environ), input=stdin, capture_output=True, check=False, timeout=60
    )


class Screen:
    """A terminal with a command in it, in a session of its own.

    Args:
        command: what to start.
        environ: its environment.
    """

    def __init__(self, command: Sequence[str], environ: Mapping[str, str]) -> None:
        self.pid, self._master = pty.fork()
        if self.pid == 0:
            try:
                os.execvpe(command[0], list(command), dict(environ))
            finally:
                os._exit(127)
        self.shown = b""
        self._status: int | None = None

    @property
    def descriptor(self) -> int:
        """Our side of it."""
        return self._master

    def type(self, keys: str | bytes) -> None:
        """Type keys."""
        os.write(self._master, keys.encode() if isinstance(keys, str) else keys)

    def wait_for(self, text: str, seconds: float = LONG) -> bytes:
        """Read until a text is shown, and return what was shown since the last one that was waited for."""
        end = time.monotonic() + seconds
        wanted = text.encode()
        while wanted not in self.shown:
            assert self._read(end - time.monotonic()), f"{text!r} was not shown, but {self.shown!r}"
        seen, _, self.shown = self.shown.partition(wanted)
        return seen + wanted

    def end(self, seconds: float = LONG) -> int:
        """Read to the end; what `wait` says of the command."""
        deadline = time.monotonic() + seconds
        while self._read(max(0.0, deadline - time.monotonic())):
            pass
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return status

    def close(self) -> None:
        """End what still runs."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, 9)
            os.waitpid(self.pid, 0)
        os.close(self._master)

    def _read(self, seconds: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(0.0, seconds))
        try:
            chunk = os.read(self._master, 65536) if ready else b""
        except OSError:
            chunk = b""
        self.shown += chunk
        return bool(chunk)


@contextlib.contextmanager
def screen(command: Sequence[str], environ: Mapping[str, str]) -> Iterator[Screen]:
    """A terminal that is closed in the end."""
    made = Screen(command, environ)
    try:
        yield made
    finally:
        made.close()
