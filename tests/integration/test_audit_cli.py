"""`secret-broker audit`: what an operator sees, and exit codes."""

import base64
import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import redis
from audit_workbench import IDENTITY, START, access, open_sink, read_log, rewrite, write_log
from click.testing import CliRunner, Result

from agent_sdk.wire.audit import AuditRecord, decode_line, encode_line, event_schema, format_time
from agent_sdk.wire.audit_stream import ChainSegment, pack_segment
from agent_sdk.wire.errors import Code
from broker_worker.audit.follow import Follower
from broker_worker.audit.search import Query, search
from broker_worker.cli import main
from broker_worker.cli.audit_text import event_json, event_line
from broker_worker.core.errors import AuditError
from broker_worker.files.keys import QUEUE, create_broker_keys, create_seed

audit_command = import_module("broker_worker.cli.audit")
KEY = base64.urlsafe_b64encode(IDENTITY).rstrip(b"=").decode()
HOSTILE = "\x1b]0;pwned\x07\x9b31m\u202eevil\r\n2026-01-01 fake line \U000e0041"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with a log of two workers."""
    folder = tmp_path / "audit"
    sink = open_sink(folder)
    for number in range(5):
        sink.append([access(number, at=START + number * 1000)])
    sink.append([refusal()])
    sink.close()
    other = open_sink(folder, "worker-2")
    other.append([access(100, at=START + 2500)])
    other.close()
    return tmp_path


def refusal() -> AuditRecord:
    """A refused name with a purpose that would like to be obeyed."""
    return AuditRecord(
        v=1,
        event="access",
        timestamp=format_time(START + 10_000),
        agent_id="random-script",
        run_id="run-9",
        secret_name="stripe.key",
        outcome="refused",
        code=Code.DENIED,
        reason="no_grant",
        action="resolve",
        purpose=HOSTILE,
        task='say "rule x"',
        latency_us=7,
    )


@pytest.fixture
def run(home: Path) -> Callable[..., Result]:
    """Runs `secret-broker audit` in the home."""

    def call(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["--home", str(home), "audit", *arguments])

    return call


def log_of(home: Path) -> Path:
    """The file of worker-1."""
    return next((home / "audit").glob("worker-1-*.jsonl"))


def test_verify_says_ok_and_what_it_saw(run: Callable[..., Result]) -> None:
    """Exit code 0 and one line with the counts."""
    result = run("verify", "--identity", KEY)
    assert result.exit_code == 0
    assert result.output.startswith("ok: 14 lines with 7 signed checkpoints in 2 files, 2 chains of 2 workers in ")


def test_verify_names_the_place_and_fails(run: Callable[..., Result], home: Path) -> None:
    """Exit code 1, and a line a finding with file, line and sequence."""
    path = log_of(home)
    lines = read_log(path)
    rewrite(path, [*lines[:2], lines[2].replace(b"claude", b"nobody"), *lines[3:]])
    result = run("verify", "--identity", KEY)
    assert result.exit_code == 1
    assert f"FAIL  changed  {path.name}:3: sequence 2: this line does not have the hash" in result.output
    assert "FAILED: 1 problem; " in result.output


def test_verify_speaks_json(run: Callable[..., Result], home: Path) -> None:
    """A script gets the same in fields."""
    (home / "audit" / "worker-1.head").unlink()
    result = run("verify", "--json", "--identity", KEY)
    report = json.loads(result.output)
    assert result.exit_code == 1
    assert report["ok"] is False
    assert [(finding["fault"], finding["warning"]) for finding in report["findings"]] == [("no_head", False)]


def test_verify_fails_on_warnings_if_asked(run: Callable[..., Result], home: Path) -> None:
    """What a crash leaves passes, unless --strict."""
    (home / "audit" / "stranger").touch()
    assert run("verify", "--identity", KEY).exit_code == 0
    assert run("verify", "--strict", "--identity", KEY).exit_code == 1


def test_verify_needs_the_identity(run: Callable[..., Result]) -> None:
    """Without keys and without --identity it says what is missing; a bad key is a usage error."""
    assert run("verify").exit_code == 7
    result = run("verify", "--identity", "abc")
    assert result.exit_code == 2
    assert "as `secret-broker keys show` prints it" in result.output


def test_verify_without_an_audit_is_an_audit_error(run: Callable[..., Result], tmp_path: Path) -> None:
    """Exit code 6 with a hint."""
    result = run("verify", "--identity", KEY, "--folder", str(tmp_path / "none"))
    assert result.exit_code == 6
    assert "hint: " in result.output


def test_verify_compares_with_the_stream(home: Path, valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """--stream reads the queue of the installation."""
    (home / "keys").mkdir(mode=0o700)
    create_seed(home / "keys" / QUEUE)
    monkeypatch.setenv("REDIS_URL", valkey_url)
    monkeypatch.setattr(audit_command, "broker_url", lambda address, _key: address)
    path = log_of(home)
    lines = read_log(path)
    with redis.Redis.from_url(valkey_url) as server:
        for number, line in enumerate(lines):
            entry: dict[Any, Any] = {**pack_segment(ChainSegment(decode_line(line).chain, number, (line,)))}
            server.xadd("sb:audit", entry)
    arguments = ["--home", str(home), "audit", "verify", "--stream", "--identity", KEY]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    rewrite(path, lines[:-2])
    (home / "audit" / "worker-1.head").write_bytes(lines[-3] + b"\n")
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert "the stream holds its signed checkpoint 11" in result.output


def test_tail_shows_the_newest_of_all_workers_by_time(run: Callable[..., Result]) -> None:
    """Checkpoints are left out, workers are merged."""
    lines = run("tail", "-n", "4").output.splitlines()
    assert [line.split("  ")[1] for line in lines] == [
        "claude/run-100",
        "claude/run-3",
        "claude/run-4",
        "random-script/run-9",
    ]
    assert run("tail", "-n", "0").output == ""


def test_tail_follows_until_interrupted(
    run: Callable[..., Result], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written meanwhile appears, in new files too."""
    workers = iter(["worker-1", "worker-3"])

    def instead_of_sleeping(_: float) -> None:
        worker = next(workers, None)
        if worker is None:
            raise KeyboardInterrupt
        write_log(home / "audit", batches=1, size=1, worker=worker)

    monkeypatch.setattr(audit_command.time, "sleep", instead_of_sleeping)
    result = run("tail", "-n", "1", "-f")
    assert [line.split("  ")[1] for line in result.output.splitlines()[:3]] == [
        "random-script/run-9",
        "claude/run-0",
        "claude/run-0",
    ]


def test_query_finds_by_every_field(run: Callable[..., Result]) -> None:
    """Each option narrows; nothing found is no error."""
    assert len(run("query").output.splitlines()) == 7
    assert len(run("query", "--agent", "claude").output.splitlines()) == 6
    assert len(run("query", "--run", "run-9").output.splitlines()) == 1
    assert len(run("query", "--secret", "stripe.key", "--outcome", "refused").output.splitlines()) == 1
    assert len(run("query", "--event", "checkpoint").output.splitlines()) == 7
    assert len(run("query", "--since", format_time(START + 2000)).output.splitlines()) == 5
    assert len(run("query", "--until", format_time(START + 2000)).output.splitlines()) == 3
    assert len(run("query", "--limit", "2").output.splitlines()) == 2
    assert run("query", "--since", "1h").stdout.count("\n") in {0, 7}  # by the clock of whoever runs this
    none = run("query", "--agent", "nobody")
    assert (none.exit_code, none.stdout, none.stderr) == (0, "", "the audit has no such event\n")


def test_query_takes_a_run_as_it_is_printed(run: Callable[..., Result]) -> None:
    """AGENT/RUN, copied from any list; an answer of nothing would say that the run asked for nothing."""
    assert run("query", "--run", "random-script/run-9").stdout == run("query", "--run", "run-9").stdout != ""
    assert run("query", "--run", "claude/run-9").stdout == ""
    assert run("query", "--run", "random-script/run-9", "--agent", "claude").exit_code == 2


@pytest.mark.parametrize("time", ["yesterday", "1w", "", "99999999999d", "2026-13-01"])
def test_a_time_that_is_none_is_a_usage_error(run: Callable[..., Result], time: str) -> None:
    """Exit code 2 and the forms that are understood."""
    result = run("query", "--since", time)
    assert result.exit_code == 2
    assert "expected 30s, 15m, 1h, 2d" in result.output


def test_a_time_may_have_an_offset_or_none() -> None:
    """ISO 8601 with an offset is turned into UTC; without one it is UTC."""
    command = audit_command.query
    (option,) = [parameter for parameter in command.params if parameter.name == "since"]
    assert option.callback is not None
    read = [option.callback(None, option, text) for text in ("2026-01-31T12:00:00+02:00", "2026-01-31T10:00:00")]
    assert read == ["2026-01-31T10:00:00.000Z"] * 2


def test_unreadable_lines_are_told(run: Callable[..., Result], home: Path) -> None:
    """tail and query go on and point to verify."""
    path = log_of(home)
    rewrite(path, [b"junk", *read_log(path)])
    for command in ("tail", "query"):
        result = run(command)
        assert len(result.stdout.splitlines()) == 7
        assert "1 line cannot be read as audit events; `secret-broker audit verify` says which" in result.stderr


def test_hostile_text_cannot_reach_the_terminal() -> None:
    """No control, bidirectional or invisible character is printed raw, and no text leaves its quotes."""
    event = decode_line(encode_line(refusal(), "worker-1", "0" * 16, 0, "0" * 64))
    line = event_line(event)
    assert line.isprintable()
    assert "\\u001b]0;pwned" in line
    assert 'task "say \\"rule x\\""' in line


def test_json_output_is_ascii_and_means_the_same() -> None:
    """Escapes keep the content and harm no terminal."""
    event = decode_line(encode_line(refusal(), "worker-1", "0" * 16, 0, "0" * 64))
    text = event_json(event)
    assert text.isascii()
    assert text.isprintable()
    assert json.loads(text)["purpose"] == HOSTILE


def test_a_line_for_people_says_it_all() -> None:
    """Time, who, what, name, outcome and source, rule, purpose, latency."""
    event = decode_line(encode_line(access(1), "worker-1", "0" * 16, 0, "0" * 64))
    assert event_line(event) == (
        f"{format_time(START).replace('T', ' ')}  claude/run-1  resolve  openai.api_key  granted from cache  "
        'rule policy.yaml:12  purpose "call the model"  300 µs'
    )


def test_a_line_about_a_worker_names_the_worker() -> None:
    """Events without an agent say which worker wrote them."""
    record = AuditRecord(v=1, event="unauthenticated", timestamp=format_time(START), count=7, reason="cannot_open")
    event = decode_line(encode_line(record, "worker-1", "0" * 16, 0, "0" * 64))
    assert event_line(event).endswith("  worker-1  unauthenticated  cannot_open  count 7")


def test_the_schema_is_printed(run: Callable[..., Result]) -> None:
    """What is printed is the published schema."""
    assert json.loads(run("schema").output) == event_schema()


def test_a_follower_reads_long_logs_from_their_end(tmp_path: Path) -> None:
    """The newest lines are found over blocks and files without reading all."""
    folder = tmp_path / "audit"
    sink = open_sink(folder, max_file_bytes=600_000)
    for number in range(12):
        sink.append([access(number * 200 + i, at=START + number) for i in range(200)])
    sink.close()
    follower = Follower(folder)
    newest = follower.last(1500)
    assert [event.run_id for event in newest] == [f"run-{number}" for number in range(900, 2400)]
    assert follower.poll() == []


def test_a_search_skips_files_that_are_too_old(tmp_path: Path) -> None:
    """Files before the time asked for are not even read."""
    folder = tmp_path / "audit"
    sink = open_sink(folder, max_file_bytes=100)
    for number in range(4):
        sink.append([access(number, at=START + number * 1000)])
    sink.close()
    first = min(folder.glob("*.jsonl"))
    first.write_bytes(b"junk\n" * 3)
    found = search(folder, Query(since=format_time(START + 2000)), 10)
    assert ([event.run_id for event in found.events], found.unreadable) == (["run-2", "run-3"], 0)
    assert search(folder, Query(), 10).unreadable == 3


@pytest.mark.parametrize(
    "read", [lambda f: search(f, Query(), 1), lambda f: Follower(f).last(1), lambda f: Follower(f).poll()]
)
def test_a_folder_that_cannot_be_read_is_an_audit_error(tmp_path: Path, read: Callable[[Path], object]) -> None:
    """Whoever asks learns which folder and what to do."""
    with pytest.raises(AuditError, match="cannot read the audit") as caught:
        read(tmp_path / "none")
    assert "--folder" in caught.value.hint


@pytest.mark.parametrize("command", [("tail",), ("query",), ("verify",)])
def test_an_installation_that_never_ran_has_nothing_to_show(tmp_path: Path, command: tuple[str, ...]) -> None:
    """It is said so, with what begins the audit; it is no success, since an audit that is gone looks the same."""
    (tmp_path / "config").mkdir()
    create_broker_keys(tmp_path / "keys", START)
    result = CliRunner().invoke(main, ["--home", str(tmp_path), "audit", *command])
    assert result.exit_code == 6
    assert "nothing has been recorded yet" in result.stderr
    assert "secret-broker up" in result.stderr
