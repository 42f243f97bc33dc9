"""The commands of `secret-agent` that ask for one thing: what they print, write and refuse."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from agent_sdk.cli import asking, main
from agent_sdk.credential import RunCredential
from agent_sdk.testing import FakeAsyncSecretBroker, FakeDesk
from agent_sdk.wire.errors import Code

Agent = Callable[..., Result]
ENVIRON = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


@pytest.fixture
def desk() -> FakeDesk:
    return FakeDesk({"a.key": "value-a", "b.key": b"\0value-b\n"})


@pytest.fixture
def agent(desk: FakeDesk, monkeypatch: pytest.MonkeyPatch) -> Agent:
    """Runs `secret-agent ARGUMENTS` in this process."""
    credential = desk.credential("claude")
    monkeypatch.setattr(RunCredential, "load", lambda environ=None: credential)
    monkeypatch.setattr(asking, "AsyncSecretBroker", lambda run: FakeAsyncSecretBroker(desk=desk))

    def run(*arguments: str, stdin: bytes | None = None) -> Result:
        return CliRunner().invoke(main, arguments, input=stdin)

    return run


def test_get_prints_exactly_the_value(agent: Agent, desk: FakeDesk) -> None:
    """Its bytes, and no line feed of ours; a reference is as good as a name."""
    assert agent("get", "b.key", "--purpose", "try").stdout_bytes == b"\0value-b\n"
    assert agent("get", "secret://a.key").stdout_bytes == b"value-a"
    assert [(r.names, r.purpose, r.deliver) for r in desk.requests] == [
        (("b.key",), "try", "value"),
        (("a.key",), "", "value"),
    ]


def test_get_writes_a_private_file_and_says_so_to_the_policy(agent: Agent, desk: FakeDesk, tmp_path: Path) -> None:
    """Mode 0600, delivered as a file; a private file of ours is replaced."""
    path = tmp_path / "key"
    for _ in range(2):
        assert agent("get", "a.key", "-o", str(path)).exit_code == 0
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("value-a", 0o600)
    assert desk.requests[0].deliver == "file"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_does_not_leave_a_value_beside_its_place(tmp_path: Path, number: signal.Signals) -> None:
    """Whoever is ended while writing leaves the whole file and nothing else."""
    code = f"""
import os
from pathlib import Path
from agent_sdk.cli.private_output import write_output
sync = os.fsync
os.fsync = lambda descriptor: (os.kill(os.getpid(), {number}), sync(descriptor))
write_output(Path("key"), b"value", force=False)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=ENVIRON, timeout=60, check=False)
    assert done.returncode == -number
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("key", "value")]


def test_a_file_that_others_can_read_is_replaced_only_by_force(agent: Agent, tmp_path: Path) -> None:
    """And then it is private; a link is replaced, and what it leads to is left alone."""
    path, link = tmp_path / "notes", tmp_path / "link"
    path.write_text("mine")
    path.chmod(0o644)
    link.symlink_to(path)
    for each in (path, link):
        done = agent("get", "a.key", "-o", str(each))
        assert (done.exit_code, path.read_text()) == (1, "mine")
        assert "exists, and others could read it or it is another's\nhint: --force replaces it" in done.stderr
    assert agent("get", "a.key", "-o", str(link), "--force").exit_code == 0
    assert (link.is_symlink(), link.read_text(), path.read_text()) == (False, "value-a", "mine")
    assert "is a folder" in agent("get", "a.key", "-o", str(tmp_path)).stderr
    assert "neither a file nor a pipe" in agent("get", "a.key", "-o", "/dev/null").stderr


@pytest.mark.skipif(sys.platform != "linux", reason="this system's /dev/stdout is no link")
def test_the_systems_own_links_are_not_replaced(tmp_path: Path) -> None:
    """Root could replace /dev/stdout, which every program uses; a pipe of a shell's `>(…)` is written to."""
    code = """
import os, sys
from pathlib import Path
from agent_sdk.cli.private_output import OutputError, check_output
reading, writing = os.pipe()
check_output(Path(f"/dev/fd/{writing}"), force=True)
try:
    check_output(Path("/dev/stdout"), force=True)
except OutputError as error:
    print(error, file=sys.stderr)
"""
    with (tmp_path / "out").open("wb") as out:
        done = subprocess.run([sys.executable, "-c", code], stdout=out, stderr=subprocess.PIPE, check=True)
    assert done.stderr == b"/dev/stdout is a link of the system's own\n"


@pytest.mark.parametrize("output", [(), ("-o", "-")])
def test_a_value_is_not_shown_on_a_terminal(
    agent: Agent, desk: FakeDesk, monkeypatch: pytest.MonkeyPatch, output: tuple[str, ...]
) -> None:
    """By whatever name standard output is called; nothing is asked for."""
    terminal = SimpleNamespace(isatty=lambda: True)
    monkeypatch.setattr("agent_sdk.cli.get.standard_output", lambda: terminal)
    done = agent("get", "a.key", *output)
    assert (done.exit_code, done.stdout, desk.requests) == (2, "", [])
    assert "standard output is a terminal" in done.stderr


def test_a_pipe_is_written_to(agent: Agent, tmp_path: Path) -> None:
    """A named one, as of a shell's >(…)."""
    path = tmp_path / "pipe"
    os.mkfifo(path, 0o600)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()))
    reader.start()
    assert agent("get", "a.key", "-o", str(path)).exit_code == 0
    reader.join(10)
    assert got == [b"value-a"]
    assert path.is_fifo()


def test_inject_fills_a_template_with_one_request(agent: Agent, desk: FakeDesk, tmp_path: Path) -> None:
    """From a file to a file, and from standard input to standard output."""
    template, out = tmp_path / "t", tmp_path / "o"
    template.write_text("a={{ secret://a.key }} {{ other }} b={{secret://b.key}}")
    assert agent("inject", "-i", str(template), "-o", str(out)).exit_code == 0
    assert out.read_bytes() == b"a=value-a {{ other }} b=\0value-b\n"
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert [(r.names, r.deliver) for r in desk.requests] == [(("a.key", "b.key"), "file")]
    assert agent("inject", "-i", "-", "-o", "-", stdin=template.read_bytes()).stdout_bytes == out.read_bytes()


def test_inject_writes_nothing_if_anything_is_wrong(agent: Agent, desk: FakeDesk, tmp_path: Path) -> None:
    """A refused name, a reference that is none, a file that is not to be replaced; if it can, before it asks."""
    out = tmp_path / "o"
    done = agent("inject", "-i", "-", "-o", str(out), stdin=b"{{ secret://a.key }} {{ secret://no.key }}")
    assert (done.exit_code, out.exists()) == (1, False)
    assert "error: no.key: denied" in done.stderr
    asked = len(desk.requests)
    done = agent("inject", "-i", "-", "-o", str(out), stdin=b"\n {{ secret://A }}")
    assert (done.exit_code, out.exists()) == (2, False)
    assert "error: standard input:2:2: expected {{ secret://NAME }}" in done.stderr
    out.write_text("mine")
    out.chmod(0o644)
    assert agent("inject", "-i", "-", "-o", str(out), stdin=b"{{ secret://a.key }}").exit_code == 1
    done = agent("inject", "-i", str(tmp_path / "none"), "-o", "-")
    assert (done.exit_code, "none cannot be read: No such file" in done.stderr) == (2, True)
    done = agent("get", "a.key", "-o", str(tmp_path / "gone" / "o"))
    assert (done.exit_code, f"the folder {tmp_path / 'gone'} is not there\nhint: name" in done.stderr) == (1, True)
    assert len(desk.requests) == asked


def test_a_request_that_the_broker_finds_invalid_says_where_to_look(agent: Agent, desk: FakeDesk) -> None:
    """Such as a recipe that would make a short password."""
    desk.refused["a.key"] = Code.INVALID
    done = agent("generate", "a.key", "password:4")
    assert (done.exit_code, "hint: `--help` of the command" in done.stderr) == (2, True)


def test_a_template_without_references_asks_nobody(agent: Agent, desk: FakeDesk) -> None:
    """It is copied as it is."""
    assert agent("inject", "-i", "-", "-o", "-", stdin=b"{{ x }}").stdout_bytes == b"{{ x }}"
    assert desk.requests == []


def test_put_stores_what_is_piped_in(agent: Agent, desk: FakeDesk) -> None:
    """Without the line feed at its end, unless it is wanted; a name is created once, and replaced by its version."""
    done = agent("put", "new.key", stdin=b"sk-canary\r\n")
    assert (done.exit_code, done.stdout, desk.values["new.key"]) == (0, "new.key: stored, version 1\n", b"sk-canary")
    clash = agent("put", "new.key", stdin=b"other")
    assert clash.exit_code == 1
    assert "hint: name the version that is to be replaced with --replaces" in clash.stderr
    done = agent("put", "new.key", "--raw", "--replaces", "1", "--json", stdin=b"other\n")
    assert json.loads(done.stdout) == {"name": "new.key", "version": "2"}
    assert desk.values["new.key"] == b"other\n"


def test_a_value_on_the_command_line_is_refused_and_not_repeated(agent: Agent, desk: FakeDesk) -> None:
    """Others can read it there."""
    done = agent("put", "new.key", "sk-canary")
    assert done.exit_code == 2
    assert "error: a value on the command line can be read by others" in done.stderr
    assert "canary" not in done.output
    assert desk.requests == []


def test_generate_stores_a_value_that_nobody_sees(agent: Agent, desk: FakeDesk) -> None:
    """Only its version is told."""
    done = agent("generate", "made.key", "hex:32", "--purpose", "db")
    assert done.stdout == "made.key: stored, version 1\n"
    assert str(desk.values["made.key"]) not in done.output
    assert [(r.operation, r.purpose) for r in desk.requests] == [("generate", "db")]


def test_list_tells_names(agent: Agent) -> None:
    """For people a line each, for scripts an object."""
    assert agent("list").stdout == "a.key\nb.key\n"
    assert json.loads(agent("list", "--json").stdout)["names"] == ["a.key", "b.key"]


def test_list_tells_the_ways_that_are_left(agent: Agent, desk: FakeDesk) -> None:
    """Behind a tab, where the policy narrows them: a name that only a proxy can use is seen to be one."""
    desk.values |= {"c.key": "value-c"}
    desk.ways = {"b.key": ("proxy",), "c.key": ("env", "file")}
    assert agent("list").stdout == "a.key\nb.key\tproxy only\nc.key\tenv, file\n"
    assert json.loads(agent("list", "--json").stdout) == {
        "names": ["a.key", "b.key", "c.key"],
        "ways": {"a.key": ["value", "env", "file", "proxy"], "b.key": ["proxy"], "c.key": ["env", "file"]},
    }
    assert agent("get", "b.key").exit_code == 1


def test_whoami_shows_no_key(agent: Agent, desk: FakeDesk) -> None:
    """Agent, run, queue and end, and nobody is asked."""
    facts = json.loads(agent("whoami", "--json").stdout)
    assert facts["agent"] == "claude"
    assert list(facts) == ["agent", "run", "queue", "expires"]
    assert f"run      {facts['run']}\n" in agent("whoami").stdout
    assert desk.requests == []


def test_whoami_shows_an_end_beyond_the_calendar_as_its_last_second(
    agent: Agent, desk: FakeDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A credential may say any time up to 2^53 ms, and datetime reaches less far."""
    run = desk.credential("claude")
    run.expires_at = 2**53 - 1
    monkeypatch.setattr(RunCredential, "load", lambda environ=None: run)
    assert json.loads(agent("whoami", "--json").stdout)["expires"] == "9999-12-31T23:59:59Z"


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (Code.DENIED, "`secret-agent list` shows what this run may ask for"),
        (Code.EXPIRED, "start the run again"),
        (Code.REVOKED, "ask the broker's operator why"),
        (Code.UNAVAILABLE, "is the broker running?"),
        (Code.APPROVAL_EXPIRED, "ask again, and tell those who may approve"),
    ],
)
def test_a_refusal_says_what_to_do(agent: Agent, desk: FakeDesk, code: Code, hint: str) -> None:
    """One line what, one line what to do; the exit code is 1."""
    desk.refused["a.key"] = code
    done = agent("get", "a.key")
    assert (done.exit_code, done.stdout) == (1, "")
    error, hinted = done.stderr.splitlines()
    assert error.startswith("error: a.key: ")
    assert hinted.startswith(f"hint: {hint}")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "say what to start: secret-agent run [OPTIONS] -- COMMAND"),
        (["--on-revoke", "SIGFOO", "--", "true"], "expected end, ignore or a signal such as TERM, HUP or USR1"),
        (["--env", "A=plain", "--", "true"], "--env A takes a reference, secret://…"),
        (["--timeout", "0", "--", "true"], "0.0 is not in the range"),
        ([*(f"--env=A{n}=secret://k{n}" for n in range(65)), "--", "true"], "can be given 64 secrets; found 65"),
        (
            [*(f"--env=A{n}=secret://k{n}" for n in range(64)), "--file=F=secret://f", "--", "true"],
            "can be given 64 secrets; found 65",
        ),
    ],
)
def test_a_run_that_is_not_understood_starts_nothing(agent: Agent, arguments: list[str], expected: str) -> None:
    """The exit code is 2."""
    done = agent("run", *arguments)
    assert done.exit_code == 2
    assert expected in done.stderr


def test_a_run_without_a_credential_says_how_to_start_it() -> None:
    """Before anything is started; the exit code is 7."""
    nothing = dict.fromkeys(
        ("SECRET_BROKER_CREDENTIAL", "SECRET_BROKER_CREDENTIAL_FD", "SECRET_BROKER_CREDENTIAL_FILE")
    )
    done = CliRunner().invoke(main, ["run", "--env", "A=secret://a", "--", "true"], env=nothing)
    assert done.exit_code == 7
    assert "error: this run was handed no credential" in done.stderr
    assert "hint: start it with `secret-broker launch --agent ID" in done.stderr
