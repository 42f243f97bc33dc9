"""`secret-broker approvals`, `approve`, `deny`, `approvers`: people at a terminal, with a real queue."""

import asyncio
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from broker_home import COMMAND, Home
from click.testing import CliRunner, Result
from desk_workbench import until
from people_workbench import MINUTE, POLICY, AskingHome, Person, put_decision
from redis import Redis

from agent_sdk.wire import keynames
from broker_worker.cli import main
from broker_worker.core.approvals import decode_decision
from broker_worker.core.control import decode_control
from broker_worker.files.configuration import load_configuration
from broker_worker.people.approver_key import create_approver_key

PASSPHRASE = "correct horse battery"
SECRET_PASSPHRASE = {"SECRET_BROKER_APPROVER_PASSPHRASE": PASSPHRASE}


def now() -> int:
    return time.time_ns() // 1_000_000


class Terminal:
    """A person at a terminal of the broker's host.

    Args:
        asking: the installation.
        key: the person's key.
    """

    def __init__(self, asking: AskingHome, key: Path) -> None:
        self.asking = asking
        self.key = key

    def run(self, *arguments: str, env: dict[str, str] | None = None) -> Result:
        """Run a command on the installation."""
        home = str(self.asking.settings.home)
        url = {"REDIS_URL": self.asking.settings.redis_url or ""}
        return CliRunner().invoke(main, ["--home", home, *arguments], env={**url, **(env or {})})

    def approve(self, *arguments: str, env: dict[str, str] | None = None) -> Result:
        """Approve with the person's key."""
        return self.run("approve", *arguments, "--key", str(self.key), env=env)


@pytest.fixture
def asking(home: Home) -> AskingHome:
    """An installation whose policy asks `ops`, with its users on the queue and nobody in approvers.yaml."""
    home.write(policy=POLICY)
    asyncio.run(home.set_users())
    return AskingHome(home.settings)


@pytest.fixture
def redis(home: Home) -> Iterator["Redis"]:
    """The queue, with a worker's rights."""
    with home.redis() as client:
        yield client


@pytest.fixture
def alice(asking: AskingHome, tmp_path: Path) -> Terminal:
    """Alice, who has a key without a passphrase and may approve."""
    create_approver_key(tmp_path / "alice.key", None)
    terminal = Terminal(asking, tmp_path / "alice.key")
    added = terminal.run("approvers", "add", "alice", "--group", "ops", "--key-file", str(terminal.key))
    assert added.exit_code == 0, added.stderr
    return terminal


def test_approving_shows_what_is_signed_and_hands_it_over(alice: Terminal, redis: "Redis") -> None:
    """The decision on the queue counts; an id may be cut short."""
    asked = alice.asking.ask(redis, now(), asked_today=3, task="nightly report")
    done = alice.approve(asked.approval_id[:10])
    assert done.exit_code == 0, done.stderr
    for shown in ("openai.api_key", "claude", "run-1", "nightly report", "summarise the tickets", "one use"):
        assert shown in done.stdout
    assert "the agent asked 3 times before in 24 hours" in done.stdout
    assert done.stdout.endswith(f"signed as alice: approve {asked.digest().hex()}; approved\n")
    entries: Any = redis.xrange(keynames.CONTROL)
    ((_, fields),) = entries
    decision = decode_decision(decode_control(fields[b"m"]).body)
    people = load_configuration(alice.asking.settings.config_dir).approvers
    assert (people.fault_of(decision, asked, lambda *_: False), decision.verdict) == (None, "approve")


def test_denying_needs_a_reason_and_ends_it(alice: Terminal, redis: "Redis") -> None:
    """The reason is signed with it; afterwards nobody can approve."""
    asked = alice.asking.ask(redis, now())
    refused = alice.run("deny", asked.approval_id, "--key", str(alice.key))
    assert refused.exit_code == 2
    blank = alice.run("deny", asked.approval_id, "--reason", " ", "--key", str(alice.key))
    assert blank.exit_code == 2
    done = alice.run("deny", asked.approval_id, "--reason", "not at night", "--key", str(alice.key))
    assert done.stdout.endswith(f"signed as alice: deny (not at night) {asked.digest().hex()}; denied\n")
    late = alice.approve(asked.approval_id)
    assert late.exit_code == 1
    assert late.stderr == (
        f"error: {asked.approval_id} cannot be decided any more: it is denied\n"
        "hint: one who denies is enough; the agent may ask for something else\n"
    )


def test_several_are_approved_at_once_or_none(alice: Terminal, redis: "Redis") -> None:
    """If one of them cannot be, nothing is signed."""
    one, two = alice.asking.ask(redis, now()), alice.asking.ask(redis, now() + 1)
    assert alice.approve(one.approval_id, "ffffffffffffffff").exit_code == 1
    assert redis.xlen(keynames.CONTROL) == 0
    assert alice.approve(one.approval_id, two.approval_id, one.approval_id).stdout.count("signed as alice") == 2
    assert redis.xlen(keynames.CONTROL) == 2


def test_a_quorum_says_how_many_are_missing(alice: Terminal, redis: "Redis") -> None:
    """One approval of two leaves it waiting."""
    asked = alice.asking.ask(redis, now(), quorum=2)
    assert alice.approve(asked.approval_id).stdout.endswith("; waits for 1 more of ops\n")
    again = alice.approve(asked.approval_id)
    assert (again.exit_code, "that person has decided already" in again.stderr) == (1, True)


def test_a_key_that_nobody_listed_cannot_decide(alice: Terminal, redis: "Redis", tmp_path: Path) -> None:
    """Found before anything is signed, like a name that is not the key's."""
    asked = alice.asking.ask(redis, now())
    create_approver_key(tmp_path / "mallory.key", None)
    stranger = Terminal(alice.asking, tmp_path / "mallory.key").approve(asked.approval_id)
    assert (stranger.exit_code, "approvers.yaml lists nobody with the key of" in stranger.stderr) == (7, True)
    other = alice.approve(asked.approval_id, "--as", "bob")
    assert (other.exit_code, "is alice's, not bob's" in other.stderr) == (7, True)
    assert alice.approve(asked.approval_id, "--as", "alice").exit_code == 0


def test_a_person_of_another_group_cannot_decide(alice: Terminal, redis: "Redis") -> None:
    """The policy names who may."""
    asked = alice.asking.ask(redis, now(), approvers=("leads",))
    done = alice.approve(asked.approval_id)
    assert (done.exit_code, "the policy does not let that person decide this" in done.stderr) == (1, True)


def test_a_key_with_a_passphrase_asks_for_it(alice: Terminal, redis: "Redis", tmp_path: Path) -> None:
    """From the environment where there is no terminal; a wrong one signs nothing."""
    made = create_approver_key(tmp_path / "bob.key", PASSPHRASE, passes=1, memory_kib=8)
    bob = Terminal(alice.asking, made.path)
    assert bob.run("approvers", "add", "bob", "--group", "ops", "--key-file", str(made.path)).exit_code == 0
    asked = alice.asking.ask(redis, now())
    assert (bob.approve(asked.approval_id).exit_code, redis.xlen(keynames.CONTROL)) == (7, 0)
    wrong = bob.approve(asked.approval_id, env={"SECRET_BROKER_APPROVER_PASSPHRASE": "wrong"})
    assert (wrong.exit_code, redis.xlen(keynames.CONTROL)) == (7, 0)
    assert bob.approve(asked.approval_id, env=SECRET_PASSPHRASE).exit_code == 0


def test_listing_shows_what_waits_and_with_all_the_rest(alice: Terminal, redis: "Redis") -> None:
    """As a table and as JSON; nothing that could be mistaken for a terminal's commands."""
    waits = alice.asking.ask(redis, now(), purpose="evil \x1b[2J \u202e purpose")
    old = alice.asking.ask(redis, now() - 11 * MINUTE)
    listed = alice.run("approvals", "list")
    assert (waits.approval_id in listed.stdout, old.approval_id in listed.stdout) == (True, False)
    assert not set(listed.stdout) & {"\x1b", "\u202e"}
    shown = alice.run("approvals", "show", waits.approval_id)
    assert not set(shown.stdout) & {"\x1b", "\u202e"}
    everything = json.loads(alice.run("approvals", "list", "--all", "--json").stdout)
    assert {(each["approval_id"], each["state"]) for each in everything} == {
        (waits.approval_id, "waiting"),
        (old.approval_id, "expired"),
    }
    assert json.loads(alice.run("approvals", "show", waits.approval_id[:12], "--json").stdout)["agent_id"] == "claude"


def test_an_empty_list_says_so(alice: Terminal) -> None:
    """In words."""
    assert alice.run("approvals", "list").stdout == "nothing waits for a decision\n"
    assert alice.run("approvals", "list", "--all").stdout == "nobody was asked anything\n"
    assert json.loads(alice.run("approvals", "list", "--json").stdout) == []


async def test_watching_prints_what_happens(alice: Terminal, redis: "Redis") -> None:
    """What waits at first, then what is asked and decided, a line each as JSON."""
    first = alice.asking.ask(redis, now())
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        "--home",
        str(alice.asking.settings.home),
        "approvals",
        "watch",
        "--json",
        stdout=asyncio.subprocess.PIPE,
        env={"REDIS_URL": alice.asking.settings.redis_url or "", "PATH": "/usr/bin:/bin"},
    )
    try:
        assert process.stdout is not None
        seen = json.loads(await asyncio.wait_for(process.stdout.readline(), 20))
        assert (seen["approval_id"], seen["state"]) == (first.approval_id, "waiting")
        await asyncio.to_thread(alice.approve, first.approval_id)
        seen = json.loads(await asyncio.wait_for(process.stdout.readline(), 20))
        assert (seen["state"], seen["decisions"][0]["approver"]) == ("approved", "alice")
    finally:
        process.terminate()
        await until(lambda: process.returncode is not None)


def test_a_forged_decision_changes_nothing_that_is_shown(alice: Terminal, redis: "Redis") -> None:
    """Whoever owns the queue cannot approve."""
    asked = alice.asking.ask(redis, now())
    imposter = Person("mallory")
    imposter.name = "alice"
    put_decision(redis, imposter.decide(asked, at=now()))
    (shown,) = json.loads(alice.run("approvals", "list", "--json").stdout)
    assert (shown["state"], shown["decisions"]) == ("waiting", [])


def test_a_key_is_made_with_a_passphrase_or_with_a_warning(alice: Terminal, tmp_path: Path) -> None:
    """And its public half shown, with what to do next."""
    protected, open_to_readers = tmp_path / "p.key", tmp_path / "o.key"
    arguments = ["approvers", "new-key", str(protected)]
    made = CliRunner().invoke(main, arguments, env=SECRET_PASSPHRASE)
    assert made.exit_code == 0
    public = re.search(r"--key ([A-Za-z0-9_-]{43})\n", made.stdout)
    assert public is not None
    assert "whoever can read that file" not in made.stdout
    assert PASSPHRASE not in made.output
    bare = CliRunner().invoke(main, ["approvers", "new-key", str(open_to_readers), "--no-passphrase"])
    assert "whoever can read that file can approve in your name" in bare.stdout
    again = CliRunner().invoke(main, ["approvers", "new-key", str(open_to_readers), "--no-passphrase"])
    assert (again.exit_code, "exists already" in again.stderr) == (7, True)
    arguments = ["approvers", "new-key", str(tmp_path / "s.key")]
    short = CliRunner().invoke(main, arguments, env={"SECRET_BROKER_APPROVER_PASSPHRASE": "short"})
    nobody = CliRunner().invoke(main, arguments, input=f"{PASSPHRASE}\n{PASSPHRASE}\n")
    assert (short.exit_code, nobody.exit_code, (tmp_path / "s.key").exists()) == (2, 7, False)
    assert "there is no terminal to ask for it" in nobody.stderr
    assert alice.run("approvers", "add", "bob", "--group", "ops", "--key", public[1]).exit_code == 0
    (person,) = [each for each in json.loads(alice.run("approvers", "list", "--json").stdout) if each["name"] == "bob"]
    assert person["keys"] == [{"kind": "ed25519", "public_key": public[1]}]


def test_people_are_listed_and_removed(alice: Terminal, redis: "Redis") -> None:
    """What a removed person decided counts no more."""
    asked = alice.asking.ask(redis, now(), quorum=1)
    alice.approve(asked.approval_id)
    assert "alice, in ops (approvers.yaml:" in alice.run("approvers", "list").stdout
    assert alice.run("approvers", "remove", "alice").exit_code == 0
    assert alice.run("approvers", "list").stdout == ""
    (shown,) = json.loads(alice.run("approvals", "list", "--all", "--json").stdout)
    assert shown["state"] == "waiting"


@pytest.mark.parametrize(
    "arguments",
    [
        ("approvers", "add", "Bob", "--key", "A" * 43),
        ("approvers", "add", "bob"),
        ("approvers", "add", "bob", "--key", "short"),
        ("approvers", "add", "bob", "--key", "A" * 43),
        ("approvers", "add", "bob", "--group", "Ops", "--key", "A" * 43),
        ("approvers", "enrol", "Bob"),
    ],
)
def test_a_mistake_on_the_command_line_is_one(alice: Terminal, arguments: tuple[str, ...]) -> None:
    """Exit code 2, and nothing is written."""
    before = (alice.asking.settings.config_dir / "approvers.yaml").read_bytes()
    assert alice.run(*arguments).exit_code == 2
    assert (alice.asking.settings.config_dir / "approvers.yaml").read_bytes() == before


def test_a_file_that_cannot_be_changed_safely_is_left_with_the_lines_to_write(alice: Terminal) -> None:
    """The lines go to stdout, the error to stderr."""
    path = alice.asking.settings.config_dir / "approvers.yaml"
    (key,) = json.loads(alice.run("approvers", "list", "--json").stdout)[0]["keys"]
    path.write_text(f"approvers: [{{name: alice, keys: [{{kind: ed25519, public_key: {key['public_key']}}}]}}]\n")
    create_approver_key(path.parent.parent / "b.key", None)
    done = alice.run("approvers", "add", "bob", "--key-file", str(path.parent.parent / "b.key"))
    assert done.exit_code == 7
    assert "  - name: bob\n    keys:\n      - {kind: ed25519" in done.stdout
    assert done.stderr.splitlines()[1] == "hint: change it by hand"
