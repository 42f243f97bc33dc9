"""Rotation on a real vault, audit and files: its steps, probes that fail, and a process killed in every one of them."""

import asyncio
import functools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from desk_workbench import until

from agent_sdk.wire.audit import AuditEvent, decode_line
from broker_worker.app import operator_vault, rotating
from broker_worker.app.operator_vault import OperatorVault
from broker_worker.app.probing import probe
from broker_worker.app.rotating import RotationFailedError, rotate
from broker_worker.audit.chain_files import list_files
from broker_worker.audit.sink import JsonlSink
from broker_worker.audit.verify import verify_folder
from broker_worker.cli import main
from broker_worker.core.rotation import CommandProbe, HttpProbe, RotationState
from broker_worker.files.keys import load_broker_keys, load_seed
from broker_worker.people import revoking
from broker_worker.providers.local_vault import LocalVault, VaultKeys
from broker_worker.settings import Settings
from broker_worker.state.rotation_file import RotationFile
from broker_worker.state.write_file import WriteFile

NAME, OLD = "db.password", b"canary-old-60d1"
READS = "import sys; value = sys.stdin.read(); sys.exit(0 if len(value) == 24 else 3)"
ENTRY = """
secrets:
  db.password:
    ref: "local://db.password"
    ttl_seconds: 1
    rotation:
      recipe: alnum:24
      probe: {{command: ["{python}", "-c", "{code}"]{more}}}
      old_leases: {leases}
"""


class Bench:
    """A home with one secret that can be rotated."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(home=folder, redis_url="unix:///nowhere/queue.sock")
        assert CliRunner().invoke(main, ["--home", str(folder), "init"]).exit_code == 0
        self.vault = LocalVault(
            self.settings.vault_file, VaultKeys(lambda: load_seed(self.settings.keys_dir / "vault.key"), lambda: None)
        )
        self.vault.set(NAME, OLD, 0)
        (self.settings.config_dir / "policy.yaml").write_text("agents: {claude: {allow: [db.password]}}\n")
        self.write()

    def write(self, code: str = READS, leases: str = "revoke", more: str = "") -> None:
        """The registry, with that probe."""
        text = ENTRY.format(python=sys.executable, code=code, leases=leases, more=more)
        (self.settings.config_dir / "secrets.yaml").write_text(text)

    def rotate(self) -> rotating.Progress:
        """One call, as the command makes it."""
        return asyncio.run(rotate(self.settings, NAME, "olivia"))

    @property
    def value(self) -> bytes:
        """What is in force."""
        return self.vault.read([NAME])[NAME].value

    @property
    def draft(self) -> bytes | None:
        """What is in the draft's place."""
        found = self.vault.read([f"{NAME}.draft"])
        return found[f"{NAME}.draft"].value if found else None

    @property
    def state(self) -> RotationState | None:
        """How far it is."""
        return RotationFile(self.settings.rotations_dir, NAME).load()

    def records(self, event: str = "rotation") -> list[AuditEvent]:
        """What the audit says."""
        files = list_files(self.settings.audit_dir)
        lines = [line for file in files for line in file.path.read_bytes().split(b"\n") if line]
        return [each for each in map(decode_line, lines) if each.event == event]

    def said(self) -> bytes:
        """Everything that is written in the open."""
        folders = (self.settings.audit_dir, self.settings.state_dir)
        return b"".join(path.read_bytes() for each in folders for path in each.rglob("*") if path.is_file())


async def announced(_settings: Settings, _messages: Sequence[bytes]) -> str:
    """A queue that takes whatever it is given."""
    return ""


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A fresh one, whose queue takes orders."""
    monkeypatch.setattr(revoking, "announce", announced)
    monkeypatch.setattr(operator_vault, "announce", announced)
    return Bench(tmp_path / "home")


def test_a_rotation_takes_its_steps_and_leaves_nothing_behind(bench: Bench) -> None:
    """Recorded each, told to the workers, the old version revoked, the draft blanked, and no value in the open."""
    progress = bench.rotate()
    assert (progress.state.step, progress.state.replaces, progress.state.version) == ("retired", "1", "2")
    assert len(bench.value) == 24
    assert bench.draft == b"-"
    steps = [(r.reason, r.outcome, r.approver) for r in bench.records()]
    assert steps == [(step, "granted", "olivia") for step in ("started", "drafted", "probed", "promoted", "retired")]
    assert [(r.outcome, r.version) for r in bench.records("value_written")] == [("granted", "2")]
    (note,) = WriteFile(bench.settings.writes_file, lambda: 0).poll()
    assert (note.state, note.version) == ("written", "2")
    orders = CliRunner().invoke(main, ["--home", str(bench.settings.home), "revocations", "--json"])
    assert [(each["subject"], each["version"]) for each in json.loads(orders.stdout)] == [(NAME, "1")]
    for value in (OLD, bench.value):
        assert value not in bench.said()


def test_a_failed_probe_leaves_the_old_version_in_force(bench: Bench) -> None:
    """The draft is blanked, the audit says why, and the next rotation begins anew."""
    bench.write("import sys; print(sys.stdin.read()); sys.exit(4)")
    with pytest.raises(RotationFailedError) as caught:
        bench.rotate()
    assert caught.value.fault == "probe_exit_4"
    assert (bench.value, bench.draft) == (OLD, b"-")
    assert bench.records()[-1].outcome == "refused"
    bench.write()
    assert bench.rotate().state.version == "2"


def test_old_leases_are_waited_for(bench: Bench) -> None:
    """The command leaves, or waits itself; in both cases the draft is blanked once the last lease can be over."""
    bench.write(leases="wait")
    progress = bench.rotate()
    assert (progress.state.step, progress.state.version) == ("promoted", "2")
    assert progress.wait_until == (progress.state.promoted_at or 0) + 1_000 + rotating.HEARD_MS
    assert bench.draft == bench.value
    again = bench.rotate()
    assert again == progress
    state = bench.state
    assert state is not None
    earlier = (state.promoted_at or 0) - 60_000
    RotationFile(bench.settings.rotations_dir, NAME).store(RotationState(
        name=NAME, step="promoted", started_at=earlier, replaces="1", version="2", promoted_at=earlier
    ))  # fmt: skip
    assert bench.rotate().state.step == "retired"
    assert bench.draft == b"-"


def test_what_somebody_else_changed_meanwhile_is_left_alone(bench: Bench) -> None:
    """A value that was replaced while the probe ran is newer than the draft."""
    code = "import os, sys; os.kill(os.getppid(), 9)"
    bench.write(code)
    assert _in_a_process(bench.rotate) == -signal.SIGKILL
    bench.vault.set(NAME, b"by somebody else", 0)
    bench.write()
    with pytest.raises(RotationFailedError) as caught:
        bench.rotate()
    assert caught.value.fault == "place_differs"
    assert (bench.value, bench.draft) == (b"by somebody else", b"-")


def _in_a_process(run: Callable[[], object]) -> int:
    """Run something in a process of its own, and say how that ended."""
    child = os.fork()
    if child == 0:
        try:
            run()
            os._exit(0)
        except BaseException:  # noqa: BLE001  # the parent must not go on twice
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), status
    return status


class _Deadly:
    """Counts calls of ports, and kills its process before or after one of them."""

    def __init__(self, at: int, *, before: bool) -> None:
        self._left = at
        self._before = before

    def wrap(self, owner: type, method: str) -> None:
        """Count the calls of a method."""
        call = getattr(owner, method)
        if asyncio.iscoroutinefunction(call):

            @functools.wraps(call)
            async def waited(*arguments: Any, **named: Any) -> Any:
                self._strike(self._before)
                result = await call(*arguments, **named)
                self._fall(self._before)
                return result

            setattr(owner, method, waited)
            return

        @functools.wraps(call)
        def called(*arguments: Any, **named: Any) -> Any:
            self._strike(self._before)
            result = call(*arguments, **named)
            self._fall(self._before)
            return result

        setattr(owner, method, called)

    def _strike(self, before: bool) -> None:
        self._left -= 1
        if self._left == 0 and before:
            os.kill(os.getpid(), signal.SIGKILL)

    def _fall(self, before: bool) -> None:
        if self._left == 0 and not before:
            os.kill(os.getpid(), signal.SIGKILL)


PORTS: Sequence[tuple[type, str]] = (
    (LocalVault, "set"),
    (LocalVault, "read"),
    (JsonlSink, "append"),
    (RotationFile, "store"),
    (WriteFile, "note"),
)


@pytest.mark.parametrize("before", [True, False], ids=["before a call", "after a call"])
def test_a_process_killed_anywhere_is_gone_on_from(bench: Bench, before: bool) -> None:
    """Killed at every single call of vault, audit and files: one value or the other is in force, and the next finishes.

    Each round kills one process at one call and lets the next one finish; the rounds go on until none was killed.
    """

    def dies(at: int) -> Callable[[], object]:
        def run() -> object:
            deadly = _Deadly(at, before=before)
            for owner, method in PORTS:
                deadly.wrap(owner, method)
            return bench.rotate()

        return run

    killed = 0
    for at in range(1, 100):
        old, version = bench.value, bench.vault.read([NAME])[NAME].version
        if _in_a_process(dies(at)) == 0:
            break
        killed += 1
        assert bench.value == old or bench.draft in {bench.value, b"-"}
        progress = bench.rotate()
        assert progress.state.step == "retired"
        assert bench.value != old
        assert bench.vault.read([NAME])[NAME].version in {version + 1, version + 2}  # over before it died: once more
        assert bench.draft == b"-"
    assert killed > 15
    steps = {r.reason for r in bench.records()}
    assert steps == {"started", "drafted", "probed", "promoted", "retired"}
    report = verify_folder(bench.settings.audit_dir, load_broker_keys(bench.settings.keys_dir).identity_public)
    assert report.problems == []


def test_two_rotations_of_one_name_do_not_meet(bench: Bench) -> None:
    """The second says so, and changes nothing."""
    with RotationFile(bench.settings.rotations_dir, NAME).held():
        result = CliRunner().invoke(main, ["--home", str(bench.settings.home), "rotate", NAME])
    assert result.exit_code == 7
    assert "is being rotated by another process" in result.output
    assert bench.value == OLD


def test_the_command_says_what_it_did(bench: Bench) -> None:
    """As text and as JSON; a name without a rule is refused."""
    home = ["--home", str(bench.settings.home)]
    assert "rotated, version 2 in the place of 1" in CliRunner().invoke(main, [*home, "rotate", NAME]).output
    bench.write(leases="wait")
    found = json.loads(CliRunner().invoke(main, [*home, "rotate", NAME, "--no-wait", "--json"]).stdout)
    assert (found["step"], found["version"], found["replaces"]) == ("promoted", "3", "2")
    (bench.settings.config_dir / "secrets.yaml").write_text('secrets: {db.password: "local://db.password"}')
    assert CliRunner().invoke(main, [*home, "rotate", NAME]).exit_code == 7


# --- probes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "variable", "fault"),
    [
        ("import sys; sys.exit(sys.stdin.read() != 'value')", None, ""),
        ("import os, sys; sys.exit(os.environ['NEW'] != 'value' or sys.stdin.read() != '')", "NEW", ""),
        ("import os, sys; sys.exit(len(os.environ) > 4)", None, ""),
        ("import sys; sys.exit(7)", None, "exit_7"),
        ("import os; os.kill(os.getpid(), 9)", None, "exit_-9"),
        ("import time; time.sleep(60)", None, "timeout"),
    ],
)
async def test_a_command_says_by_its_end_whether_a_value_works(code: str, variable: str | None, fault: str) -> None:
    """The value comes by standard input or a variable, and the environment holds nothing of the broker's."""
    assert await probe(CommandProbe((sys.executable, "-c", code), variable, 2), b"value") == fault


async def test_a_command_that_is_not_there_is_a_fault() -> None:
    """Like any other."""
    assert await probe(CommandProbe(("/nowhere/check",)), b"value") == "cannot_run"


async def test_nothing_that_a_command_started_is_left_when_its_time_is_over(tmp_path: Path) -> None:
    """A program that it left behind may hold the value."""
    noted = tmp_path / "pid"
    code = (
        "import subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        f"open({str(noted)!r}, 'w').write(str(child.pid)); time.sleep(60)"
    )
    assert await probe(CommandProbe((sys.executable, "-c", code), None, 2), b"value") == "timeout"
    child = int(noted.read_text())
    await until(lambda: not _is_running(child))


def _is_running(pid: int) -> bool:
    """Whether a process lives; one that ended and that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def address() -> Iterator[str]:
    """A service on this host that knows one key, and sends others elsewhere."""

    class Service(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            good = self.headers["Authorization"] == "Bearer value"
            self.send_response(200 if good else 302)
            self.send_header("Location", "/again")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = HTTPServer(("127.0.0.1", 0), Service)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/me"
    server.shutdown()
    thread.join()
    server.server_close()


async def test_a_request_says_by_its_status_whether_a_value_works(address: str) -> None:
    """Redirections are not followed: they could take the value elsewhere."""
    assert await probe(HttpProbe(address), b"value") == ""
    assert await probe(HttpProbe(address), b"other") == "status_302"
    assert await probe(HttpProbe(address), b"two\r\nlines") == "not_a_header"
    assert await probe(HttpProbe("http://127.0.0.1:9/"), b"value") == "unreachable"


def test_a_vault_without_versions_is_not_rotated(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody could tell whether the value is still the one that the rotation began with."""
    fetch = OperatorVault.fetch

    async def unversioned(self: OperatorVault, ref: str) -> Any:
        found: Any = await fetch(self, ref)
        return type(found)(found.value, None)

    monkeypatch.setattr(OperatorVault, "fetch", unversioned)
    result = CliRunner().invoke(main, ["--home", str(bench.settings.home), "rotate", NAME])
    assert result.exit_code == 7
    assert "tells no versions" in result.output
