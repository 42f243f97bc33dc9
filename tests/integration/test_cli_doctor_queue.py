"""What doctor says of the queue: who may do what there, the server's settings, and whether anybody is there at all."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
from click.testing import CliRunner
from doctor_workbench import NOW, installed, queue_checks, server_of
from redis import Redis

from broker_worker.cli import main
from broker_worker.cli.doctor import queue as queue_module
from broker_worker.cli.doctor.check import Status
from broker_worker.files.keys import QUEUE, load_seed
from broker_worker.queue import embedded
from broker_worker.queue.acl import operator_url
from broker_worker.queue.embedded import EmbeddedServer
from broker_worker.settings import Settings


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """A new installation."""
    with installed(monkeypatch) as settings:
        yield settings


@pytest.fixture
def queue(settings: Settings) -> Iterator[EmbeddedServer]:
    """The installation's own server, running."""
    with server_of(settings) as server:
        yield server


@pytest.fixture
def operator(settings: Settings, queue: EmbeddedServer) -> Iterator[Redis]:
    """A connection that may change the server's users."""
    with Redis.from_url(operator_url(queue.address, load_seed(settings.keys_dir / QUEUE))) as client:
        yield client


@pytest.mark.usefixtures("queue")
def test_queue_without_workers_is_a_warning(settings: Settings) -> None:
    """A server that nobody serves is named, because requests would wait for nobody."""
    check = queue_checks(settings)["queue workers"]
    assert check.status is Status.WARN
    assert "no worker listens" in check.detail


def test_broker_that_is_meant_to_run_and_does_not_is_a_failure(settings: Settings) -> None:
    """A health check ends with 1 when the broker is down."""
    arguments = ["--home", str(settings.home), "doctor", "--running", "--only", "queue"]
    assert CliRunner().invoke(main, arguments).exit_code == 1


def test_default_user_that_is_on_is_a_failure(settings: Settings, operator: Redis) -> None:
    """A server that lets anybody in is found."""
    operator.acl_setuser("default", enabled=True, nopass=True)
    assert queue_checks(settings)["queue default user"].status is Status.FAIL


@pytest.mark.parametrize(
    "rule",
    [
        {"keys": ["sb:*"]},
        {"commands": ["+keys"]},
        {"categories": ["+@all"]},
        {"reset_keys": True},
        {"commands": ["-xadd"]},
    ],
)
def test_wrong_rights_of_an_agent_are_a_failure(settings: Settings, operator: Redis, rule: dict[str, object]) -> None:
    """An agent that may more, or less, than it should is found by asking the server."""
    operator.acl_setuser("agent-codex", enabled=True, **rule)  # type: ignore[arg-type]  # a table of arguments
    check = queue_checks(settings)["queue users"]
    assert check.status is Status.FAIL
    assert "agent-codex" in check.detail


def test_missing_user_is_a_failure(settings: Settings, operator: Redis) -> None:
    """An agent of the policy that the server does not know is named."""
    operator.acl_deluser("agent-grok")
    check = queue_checks(settings)["queue users"]
    assert check.status is Status.FAIL
    assert "grok" in check.detail


def test_user_of_a_removed_agent_is_a_warning(settings: Settings, operator: Redis) -> None:
    """A user that no agent of the policy has any more is named."""
    operator.acl_setuser("agent-gone", enabled=True, nopass=True)
    check = queue_checks(settings)["queue users"]
    assert check.status is Status.WARN
    assert "agent-gone" in check.detail


def test_missing_user_of_the_workers_is_a_failure(settings: Settings, operator: Redis) -> None:
    """Workers that cannot log in are found before they are started."""
    operator.acl_deluser("broker")
    assert queue_checks(settings)["queue workers"].status is Status.FAIL


@pytest.mark.parametrize(
    ("directive", "value", "name", "status"),
    [
        ("maxmemory-policy", "allkeys-lru", "queue memory", Status.FAIL),
        ("maxmemory", "0", "queue memory", Status.WARN),
        ("maxmemory", "100", "queue memory", Status.WARN),
        ("appendonly", "no", "queue persistence", Status.WARN),
        ("appendfsync", "no", "queue persistence", Status.WARN),
    ],
)
def test_settings_of_the_server_are_judged(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, directive: str, value: str, name: str, status: Status
) -> None:
    """A server that evicts, that knows no bound, or that forgets at a restart is found."""
    monkeypatch.setitem(embedded.HARDENING, directive, value)
    with server_of(settings):
        assert queue_checks(settings)[name].status is status


def test_clock_that_is_off_is_a_failure(
    settings: Settings, queue: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server whose clock differs by more than is allowed is found."""
    del queue
    monkeypatch.setattr(Redis, "time", lambda _self: (NOW // 1000 // 2, 0))
    assert queue_checks(settings)["queue clock"].status is Status.FAIL


def test_external_server_without_users_is_told_apart(
    settings: Settings, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a bare REDIS_URL doctor gets in, finds `default` on and no users, and says what to load."""
    monkeypatch.setenv("REDIS_URL", valkey_url)
    checks = queue_checks(Settings.load(settings.home))
    assert checks["queue"].status is Status.OK
    assert checks["queue default user"].status is Status.FAIL
    assert "secret-broker acl" in checks["queue users"].hint


def test_unreachable_external_server_is_a_failure(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A REDIS_URL that nobody answers at is a FAIL, and its password is not shown."""
    monkeypatch.setenv("REDIS_URL", "redis://me:hunter2@127.0.0.1:1")
    (check,) = queue_checks(Settings.load(settings.home)).values()
    assert check.status is Status.FAIL
    assert "hunter2" not in check.detail


def test_password_over_plain_tcp_is_a_warning(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server on another host without TLS is named."""
    monkeypatch.setenv("REDIS_URL", "redis://queue.example:6379")
    (check,) = queue_module._check_transport(Settings.load(settings.home))
    assert check.status is Status.WARN


def test_stopped_process_leaves_the_queue_line_honest(settings: Settings) -> None:
    """A socket that a killed server left behind is not taken for a running one."""
    settings.run_dir.mkdir(mode=0o700)
    script = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1])"
    subprocess.run([sys.executable, "-c", script, str(settings.socket_path)], check=True)
    check = queue_checks(settings)["queue"]
    assert check.status is Status.WARN
    assert "not running" in check.detail
