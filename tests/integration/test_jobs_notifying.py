"""Notifications from the queue to a local server and a program: delivered, tried again, given up, reported."""

import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from jobs_workbench import JOBS_KEY, NOTICE, Bench, signals_kept

from broker_worker.jobs import delivering
from broker_worker.jobs.functions import Doing
from broker_worker.jobs.messages import SIGNATURE_HEADER
from broker_worker.jobs.payloads import NOTIFY_APPROVAL
from broker_worker.jobs.reports import Report
from broker_worker.jobs.serving import JobProcess


class Service:
    """A web server of this host that keeps what it was sent and answers as it is told."""

    def __init__(self) -> None:
        self.received: list[tuple[str, Mapping[str, str], bytes]] = []
        self.answers: list[tuple[int, dict[str, str]]] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                service.received.append((self.path, dict(self.headers), body))
                status, headers = service.answers.pop(0) if service.answers else (200, {})
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_arguments: object) -> None:
                """Stay silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def service() -> Iterator[Service]:
    """A service that is there."""
    made = Service()
    yield made
    made.close()


class Office:
    """A job process on a queue, with a `broker.yaml` of its own."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.bench = Bench(url)
        self.environ: dict[str, str] = {}

    def targets(self, *targets: Mapping[str, Any]) -> None:
        """Write whom there is to tell."""
        (self.folder / "broker.yaml").write_text(json.dumps({"notifications": list(targets)}))

    def work(self, *, shift: int = 0) -> None:
        """Do what is due, that long from now, in ms."""
        self.bench.shift = shift
        process = JobProcess(self.bench.url, JOBS_KEY, "notifications", self.bench.now)
        with signals_kept():
            process.work(process.notifying(self.folder, self.environ), burst=True)

    def told(self) -> list[tuple[str | None, str | None]]:
        """What became of notifications, as the audit will have it."""
        reports: list[Report] = self.bench.reports()
        assert all(each.approval_id == NOTICE["approval_id"] for each in reports)
        return sorted((each.outcome, each.reason) for each in reports if each.event == "notified")


@pytest.fixture
def office(tmp_path: Path, valkey_url: str) -> Iterator[Office]:
    """A job process without anybody to tell."""
    made = Office(tmp_path, valkey_url)
    yield made
    made.bench.redis.close()


def test_everybody_who_may_decide_is_told_once(office: Office, service: Service) -> None:
    """Targets of other groups are not; what was delivered is reported, and nothing is left on the queue."""
    office.targets(
        {"name": "slack", "kind": "slack", "url": f"{service.url}/slack", "groups": ["ops"]},
        {"name": "discord", "kind": "discord", "url": f"{service.url}/discord"},
        {"name": "phone", "kind": "ntfy", "url": f"{service.url}/topic", "groups": ["alice", "ops"]},
        {"name": "others", "kind": "webhook", "url": f"{service.url}/others", "groups": ["dev"]},
    )
    office.bench.add()
    office.work()
    assert sorted(path for path, _, _ in service.received) == ["/discord", "/slack", "/topic"]
    assert office.told() == [("granted", "discord"), ("granted", "phone"), ("granted", "slack")]
    assert office.bench.left() == []


def test_a_target_that_fails_holds_up_no_other_and_is_tried_again(office: Office, service: Service) -> None:
    """The other is told once; the failing one until it answers well."""
    office.targets(
        {"name": "good", "kind": "ntfy", "url": f"{service.url}/good"},
        {"name": "bad", "kind": "ntfy", "url": "http://127.0.0.1:9/closed"},
    )
    office.bench.add()
    office.work()
    assert office.told() == [("granted", "good")]
    office.targets({"name": "bad", "kind": "ntfy", "url": f"{service.url}/better"})
    office.work(shift=2_000)
    assert [path for path, _, _ in service.received] == ["/good", "/better"]
    assert office.told() == [("granted", "bad"), ("granted", "good")]


def test_a_target_that_never_answers_well_is_given_up_and_reported(office: Office, service: Service) -> None:
    """Ten tries; the report says which target, and why."""
    service.answers = [(500, {})] * 20
    office.targets({"name": "ops", "kind": "slack", "url": f"{service.url}/x"})
    office.bench.add()
    for minute in range(12):
        office.work(shift=minute * 61_000)
    assert len(service.received) == 10
    assert office.told() == [("refused", "ops: http_500")]
    assert office.bench.left() == []


def test_a_server_that_asks_to_wait_is_given_the_time(office: Office, service: Service) -> None:
    """`Retry-After` counts, up to the plan's longest pause."""
    service.answers = [(429, {"Retry-After": "30"})]
    office.targets({"name": "ops", "kind": "slack", "url": f"{service.url}/x"})
    office.bench.add()
    office.work()
    office.work(shift=20_000)
    assert len(service.received) == 1
    office.work(shift=31_000)
    assert len(service.received) == 2
    assert office.told() == [("granted", "ops")]


def test_a_redirect_is_not_followed(office: Office, service: Service) -> None:
    """Where notices go is for the operator to say, not for a server."""
    service.answers = [(307, {"Location": f"{service.url}/elsewhere"})]
    office.targets({"name": "ops", "kind": "slack", "url": f"{service.url}/x"})
    office.bench.add()
    office.work()
    assert [path for path, _, _ in service.received] == ["/x"]
    assert office.told() == []


def test_what_can_no_longer_be_decided_is_not_told(office: Office, service: Service) -> None:
    """Neither late nor when somebody kept the job and puts it back."""
    office.targets({"name": "ops", "kind": "slack", "url": f"{service.url}/x"})
    office.bench.add(payload={**NOTICE, "expires_at": office.bench.now() - 1})
    office.work()
    assert service.received == []
    assert office.told() == [("refused", "nobody: expired")]


def test_an_approval_that_reaches_nobody_is_reported(office: Office, service: Service) -> None:
    """The audit shows that nobody was told."""
    office.targets({"name": "dev", "kind": "slack", "url": f"{service.url}/x", "groups": ["dev"]})
    office.bench.add()
    office.work()
    assert office.told() == [("refused", "nobody: no_target")]


def test_addresses_and_keys_may_stand_elsewhere(office: Office, service: Service) -> None:
    """In the environment or a private file; a webhook that asks for a signature is never told without."""
    address = office.folder / "address"
    address.write_text(f"{service.url}/from-file\n")
    address.chmod(0o600)
    office.environ = {"HOOK": f"{service.url}/from-env", "KEY": "shared"}
    office.targets(
        {"name": "a", "kind": "webhook", "url_env": "HOOK", "secret_env": "KEY"},
        {"name": "b", "kind": "webhook", "url_file": str(address)},
        {"name": "c", "kind": "webhook", "url": f"{service.url}/unsigned", "secret_env": "MISSING"},
        {"name": "d", "kind": "webhook", "url_env": "NOTHING"},
    )
    office.bench.add()
    office.work()
    found = {path: headers for path, headers, _ in service.received}
    assert sorted(found) == ["/from-env", "/from-file"]
    assert found["/from-env"][SIGNATURE_HEADER].startswith("v1=")
    assert SIGNATURE_HEADER not in found["/from-file"]


def test_an_address_file_that_others_can_read_is_not_used(office: Office, service: Service) -> None:
    """The address often is the only password."""
    address = office.folder / "address"
    address.write_text(f"{service.url}/x")
    address.chmod(0o644)
    office.targets({"name": "b", "kind": "slack", "url_file": str(address)})
    office.bench.add()
    office.work()
    assert service.received == []


def test_no_address_is_logged_or_stored(office: Office, service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    """Whether it answers badly, is closed, or cannot be used."""
    office.environ = {"HTTP": "http://evil.example/hunter2", "CLOSED": "http://127.0.0.1:9/hunter2"}
    service.answers = [(500, {"X": "hunter2"})] * 3
    office.targets(
        {"name": "a", "kind": "slack", "url": f"{service.url}/hunter2"},
        {"name": "b", "kind": "slack", "url_env": "HTTP"},
        {"name": "c", "kind": "slack", "url_env": "CLOSED"},
    )
    office.bench.add()
    office.work()
    logged = "".join(capsys.readouterr())
    assert "http_500" in logged
    assert "bad_address" in logged
    assert "unreachable" in logged
    stored = str([office.bench.redis.dump(key) for key in office.bench.redis.keys("*")])
    assert "hunter2" not in logged + stored


def script(folder: Path, text: str) -> list[str]:
    """A program of the operator's."""
    path = folder / "program"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return [str(path), "fixed", "arguments"]


def test_a_program_gets_the_notice_on_its_input_and_nothing_else(office: Office) -> None:
    """Fixed arguments, a scrubbed environment, JSON on standard input."""
    os.environ["HUNTER"] = "of-the-process"
    out = office.folder / "out"
    office.environ = {"SLACK_URL": "https://h/hunter2", "DISPLAY": ":7"}
    command = script(office.folder, f'(cat; echo; echo "$@"; env) > {out}.part; mv {out}.part {out}')
    office.targets({"name": "bell", "kind": "command", "command": command})
    office.bench.add()
    office.work()
    body, arguments, *environ = out.read_text().splitlines()
    assert json.loads(body)["approval"]["names"] == ["stripe.live_key"]
    assert arguments == "fixed arguments"
    assert "DISPLAY=:7" in environ
    assert not any("hunter2" in line or "HUNTER" in line or "REDIS" in line for line in environ)
    assert office.told() == [("granted", "bell")]
    del os.environ["HUNTER"]


def test_a_program_that_hangs_is_ended_with_its_children(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again; one that fails is named by its exit code, one that is missing as not started."""
    monkeypatch.setattr(delivering, "COMMAND_SECONDS", 1.0)
    pid = office.folder / "pid"
    office.targets(
        {"name": "hangs", "kind": "command", "command": script(office.folder, f"sleep 60 & echo $! > {pid}; wait")}
    )
    office.bench.add()
    office.work()
    assert office.told() == []
    child = int(pid.read_text())
    deadline = time.monotonic() + 45
    while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline, "the program's child still runs"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("command", "reason"), [(["/bin/false"], "exit_1"), (["/no/such/program"], "not_started")], ids=str
)
def test_a_program_that_fails_is_reported(office: Office, command: list[str], reason: str) -> None:
    """By its exit code, or that it could not be started."""
    office.targets({"name": "bell", "kind": "command", "command": command})
    office.bench.add()
    for minute in range(12):
        office.work(shift=minute * 61_000)
    assert office.told() == [("refused", f"bell: {reason}")]


def test_a_broken_file_delays_and_loses_nothing(office: Office, service: Service) -> None:
    """The job waits until the operator's file can be read again."""
    (office.folder / "broker.yaml").write_text("notifications: [")
    office.bench.add()
    office.work()
    office.targets({"name": "ops", "kind": "slack", "url": f"{service.url}/x"})
    office.work(shift=2_000)
    assert office.told() == [("granted", "ops")]


def test_a_process_that_dies_while_handing_on_tells_nobody_twice(office: Office, service: Service) -> None:
    """The first half is done again under the same ids: what waits already is not queued a second time."""
    office.targets({"name": "ops", "kind": "slack", "url": f"{service.url}/x"})
    process = JobProcess(office.bench.url, JOBS_KEY, "notifications", office.bench.now)
    functions = process.notifying(office.folder, {})
    for _ in range(2):
        payload = NOTIFY_APPROVAL.decode(NOTIFY_APPROVAL.encode(NOTICE))
        functions["notify_approval"].run(payload, Doing("job-1", office.bench.now()))
    with signals_kept():
        process.work(functions, burst=True)
    assert len(service.received) == 1
