"""`secret-broker ledger|runs|leases|exposure`, `audit export` and `policy replay`: what an operator sees."""

import asyncio
import gc
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from audit_workbench import START, TurnedClock
from broker_home import Home, running_server
from click.testing import CliRunner, Result
from ledger_workbench import MINUTE, fresh_ledger, lease, record
from redis import Redis
from sqlalchemy import text

from agent_sdk.wire import keynames
from broker_worker.audit.sink import JsonlSink
from broker_worker.cli import main
from broker_worker.cli.init import create_installation
from broker_worker.cli.ledger import stream_lag
from broker_worker.files.keys import QUEUE, create_broker_keys, load_broker_keys, load_seed
from broker_worker.ledger.keeping import GROUP
from broker_worker.people.revoking import orders_of
from broker_worker.private_files import write_private
from broker_worker.queue.acl import CONSOLE, LEDGER, broker_url, user_password
from broker_worker.queue.login import password_file
from broker_worker.queue.users import ensure_users
from broker_worker.settings import Settings

NOW = time.time_ns() // 1_000_000 - START
"""The time, as records count it."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with keys and an audit of two runs, of which one holds a secret now."""
    for name in ("REDIS_URL", "LEDGER_URL", "SECRET_BROKER_HOME"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "home"
    folder.mkdir(mode=0o700)
    settings = Settings(home=folder)
    create_broker_keys(settings.keys_dir, 0)
    sink = JsonlSink(
        settings.audit_dir,
        "worker-1",
        load_broker_keys(settings.keys_dir).identity_seed,
        TurnedClock(),
        write_ahead_bytes=0,
    )
    held: dict[str, Any] = {"lease_id": lease(1), "version": "v7", "source": "cache", "age_s": 41}
    held["expires_at"] = NOW + 10 * MINUTE
    over: dict[str, Any] = {"lease_id": lease(2), "version": "v6", "source": "stale", "age_s": 700}
    over["expires_at"] = NOW - 50 * MINUTE
    sink.append([record(at=NOW - 60 * MINUTE, uses=1, task="old one", run_id="run-0", **over)])
    sink.append([record(at=NOW - MINUTE, uses=1, task="nightly \x1b[2J", purpose="=cmd", **held)])
    sink.append([record(at=NOW - 1000, outcome="refused", code="denied", reason="no_grant", secret_name="db.password")])
    sink.close()
    return folder


def invoke(home: Path, *arguments: str, code: int = 0) -> Result:
    """Run a command on a home; it must leave with a code."""
    done = CliRunner().invoke(main, ["--home", str(home), *arguments])
    assert done.exit_code == code, done.output + done.stderr
    return done


@pytest.fixture
def ledger(home: Path) -> Path:
    """The same home with a ledger."""
    done = invoke(home, "ledger", "rebuild")
    assert "3 events, 0 findings" in done.output
    return home


def test_asking_without_a_ledger_says_what_to_do(home: Path) -> None:
    """The error names the command that makes one."""
    done = invoke(home, "runs", "list", code=7)
    assert "there is no ledger" in done.stderr
    assert "ledger rebuild" in done.stderr


def test_runs_are_listed_newest_first(ledger: Path) -> None:
    """With what they were given and refused; a terminal obeys nothing of it."""
    done = invoke(ledger, "runs", "list")
    titles, first, second = done.output.splitlines()
    assert titles.split() == ["LAST", "AGENT", "RUN", "GRANTED", "REFUSED", "TASK"]
    assert first.split()[2:6] == ["claude", "run-1", "1", "1"]
    assert second.split()[2:4] == ["claude", "run-0"]
    assert "\x1b" not in done.output
    assert invoke(ledger, "runs", "list", "--agent", "nobody").output.count("\n") == 1
    assert "run-0" not in invoke(ledger, "runs", "list", "--since", "10m").output


def test_one_runs_story_is_told_in_order(ledger: Path) -> None:
    """Requests and refusals as they happened, and what the run holds now."""
    done = invoke(ledger, "runs", "show", "claude/run-1")
    lines = done.output.splitlines()
    assert "1 granted, 1 refused" in lines[1]
    assert "openai.api_key" in lines[2]
    assert "refused" in lines[3]
    assert lines[-1].startswith("holds now: openai.api_key until ")
    assert "\x1b" not in done.output
    events = [json.loads(line) for line in invoke(ledger, "runs", "show", "run-1", "--json").output.splitlines()]
    assert [event["outcome"] for event in events] == ["granted", "refused"]


def test_a_run_that_nobody_knows_is_an_error(ledger: Path) -> None:
    """It says how to find the right one."""
    assert "runs list" in invoke(ledger, "runs", "show", "run-7", code=1).stderr


def test_leases_are_those_that_are_open_unless_all_are_asked_for(ledger: Path) -> None:
    """Who holds what until when; with --all also what is over."""
    shown = invoke(ledger, "leases", "list").output
    assert lease(1) in shown
    assert lease(2) not in shown
    assert re.search(r"\(in [0-9]+m", shown)
    everything = invoke(ledger, "leases", "list", "--all").output
    assert lease(1) in invoke(ledger, "leases", "list", "--run", "claude/run-1").output
    assert invoke(ledger, "leases", "list", "--run", "codex/run-1").stdout == ""
    assert "expired" in everything
    assert re.search(rf"{lease(1)}.*  cache, 41s old", shown)
    assert re.search(rf"{lease(2)}.*  stale cache, 11m 40s old", everything)
    (one,) = [json.loads(line) for line in invoke(ledger, "leases", "list", "--json").output.splitlines()]
    assert (one["run_id"], one["version"], one["open"]) == ("run-1", "v7", True)
    assert (one["source"], one["age_s"]) == ("cache", 41)


@pytest.fixture
def delegated(home: Path) -> Path:
    """The same home with a ledger; a proxy's run has a value that it asked for on behalf of `claude/run-1`."""
    settings = Settings(home=home)
    identity = load_broker_keys(settings.keys_dir).identity_seed
    sink = JsonlSink(settings.audit_dir, "worker-2", identity, TurnedClock(), write_ahead_bytes=0)
    held: dict[str, Any] = {"lease_id": lease(3), "version": "v1", "expires_at": NOW + 10 * MINUTE}
    held |= {"secret_name": "stripe.key", "deliver": "proxy", "actor": "egress/run-9"}
    sink.append([record(at=NOW - 2000, uses=1, **held)])
    refused: dict[str, Any] = {"outcome": "refused", "code": "denied", "reason": "may_not_act_for_this_agent"}
    sink.append([record("request_refused", at=NOW - 1500, agent_id="egress", run_id="run-9", **refused)])
    sink.close()
    invoke(home, "ledger", "rebuild")
    return home


def test_who_has_a_value_on_behalf_of_a_run_is_shown(delegated: Path) -> None:
    """In the list, and in the story of the run and of who acts for it; one's own is held by itself."""
    rows = [re.split(r"  +", line) for line in invoke(delegated, "leases", "list").output.splitlines()]
    assert [row[1:4] for row in rows] == [
        ["AGENT/RUN", "HELD BY", "SECRET"],
        ["claude/run-1", "egress/run-9", "stripe.key"],
        ["claude/run-1", "itself", "openai.api_key"],
    ]
    story = invoke(delegated, "runs", "show", "claude/run-1").output.splitlines()
    assert re.search(r"^holds now: stripe.key until .* \(egress/run-9 has it\), openai.api_key until [^(]*$", story[-1])
    own, kept = invoke(delegated, "runs", "show", "egress/run-9").output.splitlines()[-2:]
    assert own == "holds now: nothing"
    assert kept.startswith("holds for others: stripe.key for claude/run-1 until ")
    for arguments in (["--agent", "egress"], ["--run", "run-9"], ["--agent", "egress", "--run", "run-9"]):
        (one,) = invoke(delegated, "leases", "list", "--json", *arguments).output.splitlines()
        found = json.loads(one)
        assert (found["secret_name"], found["keeper_agent_id"], found["keeper_run_id"]) == (
            "stripe.key",
            "egress",
            "run-9",
        )
    assert invoke(delegated, "leases", "list", "--json", "--agent", "egress", "--run", "run-1").output == ""


@pytest.mark.parametrize("subject", ["agent:egress", "run:egress/run-9", "run:claude/run-1"])
def test_an_order_about_who_has_a_value_ends_what_it_has_for_others(delegated: Path, subject: str) -> None:
    """Also in the ledger, where no worker recorded the end of the lease; what the run has itself is another's."""
    settings = Settings(home=delegated)
    identity = load_broker_keys(settings.keys_dir).identity_seed
    sink = JsonlSink(settings.audit_dir, "worker-3", identity, TurnedClock(), write_ahead_bytes=0)
    nobody: dict[str, Any] = {"agent_id": None, "run_id": None}
    sink.append([record("revoked", at=NOW - 500, subject=subject, reason="x", approver="bo", **nobody)])
    sink.close()
    invoke(delegated, "ledger", "rebuild")
    names = [
        json.loads(one)["secret_name"] for one in invoke(delegated, "leases", "list", "--json").output.splitlines()
    ]
    assert names == ([] if subject == "run:claude/run-1" else ["openai.api_key"])


def test_exposure_names_every_run_that_held_a_secret(ledger: Path) -> None:
    """Since when and until when, by version where one is named."""
    shown = invoke(ledger, "exposure", "--secret", "openai.api_key").output
    assert "2 runs in 2 leases, 1 open now" in shown
    one = json.loads(invoke(ledger, "exposure", "--secret", "openai.api_key", "--version", "v6", "--json").stdout)
    assert [held["run_id"] for held in one["leases"]] == ["run-0"]
    assert one["open"] == 0


def test_exposure_revokes_exactly_the_open_leases(ledger: Path) -> None:
    """Orders for the leases that are open, for nothing else, and with their reason."""
    assert (
        "--revoke needs --reason" in invoke(ledger, "exposure", "--secret", "openai.api_key", "--revoke", code=2).stderr
    )
    done = invoke(ledger, "exposure", "--secret", "openai.api_key", "--revoke", "--reason", "it leaked", "--by", "ana")
    assert "revoked 1 lease" in done.output
    (order,) = orders_of(Settings(home=ledger))
    assert (order.kind, order.subject, order.reason, order.by) == ("lease", lease(1), "it leaked", "ana")


def test_exposure_of_a_name_that_nobody_knows_says_so(ledger: Path, tmp_path: Path) -> None:
    """A slip of the pen must not look like a secret that nobody ever had."""
    other = Settings(home=tmp_path / "other")
    create_installation(other, "local", 0)
    other.config_dir.rename(Settings(home=ledger).config_dir)
    assert "no secret of that name" in invoke(ledger, "exposure", "--secret", "openai.apikey").stderr
    assert "no secret of that name" not in invoke(ledger, "exposure", "--secret", "openai.api_key").stderr


def test_nothing_found_is_said(ledger: Path) -> None:
    """Rather than a table without rows."""
    assert "no such run" in invoke(ledger, "runs", "list", "--agent", "nobody").stderr
    assert "no such lease" in invoke(ledger, "leases", "list", "--agent", "nobody").stderr


def test_a_damaged_ledger_is_an_error_that_says_how_to_make_it_again(ledger: Path) -> None:
    """The file is no database any more: moved away, it is made again from the audit."""
    path = ledger / "ledger" / "ledger.sqlite3"
    gc.collect()  # a connection that ends later would write what it has over the damage
    for beside in path.parent.glob("ledger.sqlite3-*"):
        beside.unlink()
    path.write_bytes(b"\x00no database" * 1000)
    assert "move it away" in invoke(ledger, "runs", "list", code=7).stderr
    assert "move it away" in invoke(ledger, "ledger", "rebuild", code=7).stderr
    path.rename(ledger / "damaged")
    assert "3 events" in invoke(ledger, "ledger", "rebuild").output


def test_the_status_says_how_much_there_is(ledger: Path) -> None:
    """Counts, the newest event, and the chains; the queue need not run."""
    status = json.loads(invoke(ledger, "ledger", "status", "--json").stdout)
    assert (status["events"], status["runs"], status["leases"], status["findings"]) == (3, 2, 2, 0)
    assert status["lag"] is None
    assert [chain["worker"] for chain in status["chains"]] == ["worker-1"]
    assert "3 events" in invoke(ledger, "ledger", "status").output


def test_a_rebuild_tells_of_files_that_were_changed(home: Path) -> None:
    """Exit code 1, and what is wrong where."""
    (path,) = (home / "audit").glob("*.jsonl")
    path.write_bytes(path.read_bytes().replace(b"no_grant", b"no_grunt"))
    done = invoke(home, "ledger", "rebuild", code=1)
    assert "FAIL  removed" in done.output
    assert "2 events, 2 findings" in done.output


def test_a_rebuild_does_not_lose_what_the_files_lack(ledger: Path) -> None:
    """If the audit was archived away, the ledger is kept unless that is asked for."""
    for path in (ledger / "audit").iterdir():
        path.unlink()
    assert "a rebuild would lose their events" in invoke(ledger, "ledger", "rebuild", code=7).stderr
    assert "3 events" in invoke(ledger, "ledger", "status").output
    assert "0 events" in invoke(ledger, "ledger", "rebuild", "--drop-missing").output


def test_a_newer_ledger_is_an_error_for_people(ledger: Path) -> None:
    """An older program says that it is older, in one line."""
    engine = fresh_ledger(ledger / "ledger" / "ledger.sqlite3")
    with engine.begin() as connection:
        connection.execute(text("update alembic_version set version_num = '9999'"))
    for command in (("runs", "list"), ("ledger", "rebuild")):
        assert "newer than this program" in invoke(ledger, *command, code=7).stderr


def test_an_export_is_complete_and_can_be_narrowed(home: Path) -> None:
    """All events in time's order; by run, secret and time; into a new private file."""
    lines = invoke(home, "audit", "export").output.splitlines()
    assert [json.loads(line)["run_id"] for line in lines] == ["run-0", "run-1", "run-1"]
    assert len(invoke(home, "audit", "export", "--since", "10m").output.splitlines()) == 2
    assert len(invoke(home, "audit", "export", "--run", "run-1", "--secret", "db.password").output.splitlines()) == 1
    assert len(invoke(home, "audit", "export", "--run", "claude/run-1").output.splitlines()) == 2
    for form, mark in (("cloudevents", '"specversion":"1.0"'), ("ocsf", '"class_uid":6003')):
        assert mark in invoke(home, "audit", "export", "--format", form).output
    target = home / "audit.csv"
    assert "3 events" in invoke(home, "audit", "export", "--format", "csv", "-o", str(target)).stderr
    assert target.stat().st_mode & 0o777 == 0o600
    assert len(target.read_bytes().split(b"\r\n")) == 5
    assert b",'=cmd," in target.read_bytes()
    assert "exists already" in invoke(home, "audit", "export", "-o", str(target), code=7).stderr


def test_a_replay_lists_what_another_policy_would_change(home: Path) -> None:
    """What is newly refused and allowed, what nobody used, and with --strict an exit code."""
    candidate = home / "candidate.yaml"
    candidate.write_text("agents: {claude: {allow: [db.password, github.token]}}\n")
    shown = invoke(home, "policy", "replay", str(candidate), "--since", "2h").output
    assert "2 would newly be refused" in shown
    assert "1 would newly be allowed" in shown
    assert "claude: github.token (candidate.yaml:1)" in shown
    document = json.loads(invoke(home, "policy", "replay", str(candidate), "--json", "--strict", code=1).stdout)
    assert {each["change"] for each in document["differences"]} == {"refused", "allowed"}
    assert "1 decisions" not in invoke(home, "policy", "replay", str(candidate), "--since", "10m").output


def test_the_process_keeps_the_ledger_until_its_stdin_ends(home: Path, valkey_url: str) -> None:
    """`ledger run` as the supervisor starts it, with the rights of its own user on the queue."""
    settings = Settings(home=home, redis_url=valkey_url)
    asyncio.run(ensure_users(valkey_url, load_seed(settings.keys_dir / "queue.key"), []))
    command = [sys.executable, "-m", "broker_worker.cli", "--home", str(home), "ledger", "run", "--until-stdin-ends"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={"REDIS_URL": valkey_url}
    )
    assert process.stderr is not None
    assert process.stdin is not None
    try:
        lines: list[str] = []
        while not any("ledger_caught_up" in line for line in lines):
            line = process.stderr.readline()
            assert line, lines
            lines.append(line)
        process.stdin.close()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait(60)
        process.stderr.close()
    assert "3 events" in invoke(home, "ledger", "status").output


@pytest.mark.parametrize("user", [LEDGER, CONSOLE])
async def test_either_password_tells_how_far_the_ledger_is(embedded_home: Home, user: str) -> None:
    """The dashboard's container has no password of the ledger's, and the ledger's none of the dashboard's."""
    keys, password = embedded_home.settings.keys_dir, user_password(embedded_home.queue_key, user)
    async with running_server(embedded_home):
        with Redis.from_url(broker_url(embedded_home.settings.queue_address, embedded_home.queue_key)) as broker:
            broker.xgroup_create(keynames.AUDIT, GROUP, id="0", mkstream=True)
            broker.xadd(keynames.AUDIT, {"m": b"an entry"})
        (keys / QUEUE).unlink()
        assert stream_lag(embedded_home.settings) is None
        write_private(password_file(keys, user), password.encode())
        assert stream_lag(embedded_home.settings) == 1
