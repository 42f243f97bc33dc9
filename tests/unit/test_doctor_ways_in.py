"""What doctor says of the egress proxy, the gateway and static tokens."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from broker_worker.cli.doctor import examine
from broker_worker.cli.doctor.check import Status
from broker_worker.cli.init import create_installation
from broker_worker.settings import Settings

NOW = 1_800_000_000_000
PARTS = ("tokens", "egress", "gateway")
ROUTES = """\
egress:
  port: {port}
  routes:
    openai:
      upstream: https://api.openai.com
      secret: openai.api_key
      send: {{header: Authorization, value: "Bearer {{secret}}"}}
      allow: [{{method: GET, path: /v1/models}}]
"""
ACTS = """\
  egress: {allow: [], acts_for: {agents: [claude], deliver: [proxy]}}
  gateway: {allow: [], acts_for: {all_agents: true, deliver: [value]}}
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A new installation."""
    made = Settings.load(tmp_path / "home")
    create_installation(made, "env", NOW)
    return made


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def configure(settings: Settings, *, port: int, acts: str = ACTS) -> None:
    """Have a proxy and a gateway, both at one port: what answers there decides which of them it is."""
    policy = settings.config_dir / "policy.yaml"
    policy.write_text(policy.read_text().replace("agents:\n", f"agents:\n{acts}", 1))
    (settings.config_dir / "egress.yaml").write_text(ROUTES.format(port=port))
    with (settings.config_dir / "broker.yaml").open("a") as file:
        file.write(f"\nserver: {{port: {port}}}\n")


def told(settings: Settings, *, running: bool = False) -> dict[str, tuple[Status, str]]:
    """Status and detail of the checks of these parts."""
    return {check.name: (check.status, check.detail) for check in examine(settings, PARTS, running=running)}


@contextmanager
def answering(status: int, body: bytes, server: str) -> Iterator[int]:
    """A server of this host that answers everything alike; its port."""

    class Handler(BaseHTTPRequestHandler):
        def version_string(self) -> str:
            return server

        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made.server_port
        made.shutdown()
        thread.join()


def test_what_is_not_configured_is_not_told(settings: Settings) -> None:
    """A broker without proxy, gateway and static tokens has nothing to say of them."""
    assert told(settings) == {}


def test_nobody_who_may_act_for_others_is_a_failure(settings: Settings) -> None:
    """With the lines to write."""
    configure(settings, port=free_port(), acts="")
    checks = [check for check in examine(settings, PARTS) if check.name != "tokens"]
    assert [check.status for check in checks] == [Status.FAIL, Status.FAIL]
    assert all("acts_for" in check.hint for check in checks)


@pytest.mark.parametrize(("running", "status"), [(False, Status.WARN), (True, Status.FAIL)])
def test_nobody_listens(settings: Settings, *, running: bool, status: Status) -> None:
    """It is a failure where the broker is meant to run."""
    configure(settings, port=free_port())
    found = told(settings, running=running)
    assert {part: answer[0] for part, answer in found.items()} == {"egress": status, "gateway": status}
    assert all("nothing listens" in answer[1] for answer in found.values())


@pytest.mark.parametrize(
    ("answer", "egress", "gateway"),
    [
        ((404, b"{}", "secret-broker"), "answers", "another program"),
        ((200, b'{"status":"ok"}', "x"), "another program", "answers"),
        ((503, b'{"code":"unavailable"}', "x"), "another program", "credential is over"),
        ((200, b"hello", "nginx"), "another program", "another program"),
    ],
)
def test_who_listens_is_told(settings: Settings, answer: tuple[int, bytes, str], egress: str, gateway: str) -> None:
    """Another program at the port of one of ours is a failure: agents would show it their tokens."""
    with answering(*answer) as port:
        configure(settings, port=port)
        found = told(settings)
    for part, expected in (("egress", egress), ("gateway", gateway)):
        assert expected in found[part][1]
        assert found[part][0] == (Status.OK if expected == "answers" else Status.FAIL)


@pytest.mark.parametrize(("days", "status"), [(6, Status.WARN), (30, Status.OK)])
def test_a_token_that_ends_soon_is_warned_of(settings: Settings, days: int, status: Status) -> None:
    """Within a week, with its id and its agent; one that has ended is counted."""
    at = [time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + day * 86400)) for day in (-2, -1, days)]
    entry = '  - {{id: {}, agent: claude, sha256: "{}", created: {}, expires: {}}}\n'
    entries = entry.format("k3v7qd2x", "0" * 64, at[0], at[1]) + entry.format("soee5bfl", "1" * 64, at[0], at[2])
    (settings.config_dir / "tokens.yaml").write_text(f"tokens:\n{entries}")
    (check,) = examine(settings, PARTS)
    assert (check.status, "good: 1, over: 1" in check.detail) == (status, True)
    assert ("soee5bfl" in check.detail) is (status is Status.WARN)
