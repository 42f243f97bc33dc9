"""`secret-agent` as a process: a desk behind a real queue, on a thread, and terminals to start commands in."""

import asyncio
import contextlib
import json
import os
import pty
import select
import socket
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
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
        self.nursery = Nursery()
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
        self.nursery.close()
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


class Forked:
    """A command of any kind that leads a session on a terminal.

    Args:
        command: what to start.
        environ: its environment.
        inner: the terminal.
    """

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], inner: int) -> None:
        # A session leader without a terminal gets the first one that it opens.
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", f': <>{os.ttyname(inner)}; exec "$@"', "sh", *command],
            env=dict(environ),
            stdin=inner,
            stdout=inner,
            stderr=inner,
            start_new_session=True,
        )
        self.pid = self._process.pid

    def wait(self, seconds: float = LONG) -> int:
        """The exit code."""
        return self._process.wait(seconds)

    def kill(self) -> None:
        """End it, if it runs."""
        self._process.kill()
        self._process.wait(LONG)


class Nursery:
    """Starts `secret-agent` without waiting for Python each time (`agent_nursery`)."""

    def __init__(self) -> None:
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)
        command = [sys.executable, str(Path(__file__).with_name("agent_nursery.py")), str(theirs.fileno())]
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(command, env=environ, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        theirs.close()

    def start(
        self, arguments: Sequence[str], environ: Mapping[str, str], streams: Sequence[int], *, leads: bool = False
    ) -> "Started":
        """Start `secret-agent ARGUMENTS` on three descriptors; `leads`: as a session of its own on a terminal."""
        told, tell = os.pipe()
        message = json.dumps([list(arguments), dict(environ), leads]).encode()
        socket.send_fds(self._line, [message], [*streams, tell])
        os.close(tell)
        return Started(told)

    def close(self) -> None:
        """Start nothing any more."""
        self._line.close()
        self._process.wait(LONG)


class Started:
    """A `secret-agent` that was started.

    Args:
        told: where its pid and its end are told.
    """

    def __init__(self, told: int) -> None:
        self._told = told
        self.pid = int.from_bytes(os.read(told, 8), "big")
        self._status: int | None = None

    def wait(self, seconds: float = LONG) -> int:
        """What `wait` says of it."""
        if self._status is None:
            ready, _, _ = select.select([self._told], [], [], seconds)
            assert ready, "it has not ended"
            self._status = int.from_bytes(os.read(self._told, 8), "big")
            os.close(self._told)
        return self._status

    def kill(self) -> None:
        """End it, if it runs."""
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, 9)
            self.wait()


@dataclass(frozen=True)
class Done:
    """How `secret-agent` ended: the exit code, or the negative signal, and what it wrote."""

    returncode: int
    stdout: bytes
    stderr: bytes


def agent(house: AgentHouse, *arguments: str, stdin: bytes = b"", **environ: str) -> Done:
    """Run `secret-agent ARGUMENTS` to its end, its streams files that are read as pipes are."""
    out, err = os.pipe(), os.pipe()
    with tempfile.TemporaryFile() as given:
        given.write(stdin)
        given.seek(0)
        started = house.nursery.start(arguments, house.environ(**environ), (given.fileno(), out[1], err[1]))
    os.close(out[1])
    os.close(err[1])
    with ThreadPoolExecutor() as pool:
        texts = [pool.submit(_read_all, descriptor) for descriptor in (out[0], err[0])]
        stdout, stderr = (text.result(60) for text in texts)
    return Done(os.waitstatus_to_exitcode(started.wait()), stdout, stderr)


def _read_all(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


class Screen:
    """A terminal with a process on it.

    Args:
        start: starts a process on the terminal's other side and returns it.
    """

    def __init__(self, start: Callable[[int], Started | Forked]) -> None:
        self.descriptor, inner = pty.openpty()
        self.before = settings(self.descriptor)
        """The terminal's settings before anything was started on it."""
        self.process = start(inner)
        os.close(inner)
        self.shown = b""

    @property
    def pid(self) -> int:
        """The process."""
        return self.process.pid

    def type(self, keys: str) -> None:
        """Type keys."""
        os.write(self.descriptor, keys.encode())

    def wait_for(self, text: str, seconds: float = LONG) -> bytes:
        """Read until a text is shown, and return what was shown since the last one that was waited for."""
        end = time.monotonic() + seconds
        wanted = text.encode()
        while wanted not in self.shown:
            assert self._read(end - time.monotonic()), f"{text!r} was not shown, but {self.shown!r}"
        seen, _, self.shown = self.shown.partition(wanted)
        return seen + wanted

    def end(self, seconds: float = LONG) -> int:
        """Read to the end; what `wait` says of the process."""
        deadline = time.monotonic() + seconds
        while self._read(max(0.0, deadline - time.monotonic())):
            pass
        return self.process.wait()

    def close(self) -> None:
        """End what still runs."""
        self.process.kill()
        os.close(self.descriptor)

    def _read(self, seconds: float) -> bool:
        ready, _, _ = select.select([self.descriptor], [], [], max(0.0, seconds))
        try:
            chunk = os.read(self.descriptor, 65536) if ready else b""
        except OSError:
            chunk = b""
        self.shown += chunk
        return bool(chunk)


def settings(terminal: int) -> list[object]:
    """The settings of a terminal."""
    return list(termios.tcgetattr(terminal))


@contextlib.contextmanager
def screen(start: Callable[[int], Started | Forked]) -> Iterator[Screen]:
    """A terminal that is closed in the end."""
    made = Screen(start)
    try:
        yield made
    finally:
        made.close()


def until(condition: Callable[[], object]) -> None:
    """Poll until the condition holds."""
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def shared_agent_house(valkey_socket: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentHouse]:
    """One house for all tests of a module."""
    house = AgentHouse(tmp_path_factory.mktemp("house"), f"unix://{valkey_socket}")
    yield house
    house.close()


@pytest.fixture
def agent_house(shared_agent_house: AgentHouse) -> AgentHouse:
    """It, with a desk that was asked for nothing yet, that took nothing back and asks nobody."""
    desk = shared_agent_house.desk
    for what in (desk.requests, desk.revoked, desk.needs_approval):
        what.clear()
    return shared_agent_house
