"""What a command of `secret-agent mcp` needs is asked for in one request, however each value reaches it."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from desk_workbench import until
from mcp import Client
from mcp_house import CANARY, House, Person, call, client, held_open, house, python, text_of

pytestmark = pytest.mark.asyncio(loop_scope="module")
PERSON = Person()
SHOW_SIZES = (
    "import os; print(len(os.environ['A']), os.path.getsize(os.environ['B']), os.path.getsize(os.environ['C']))"
)
WANTED: dict[str, Any] = {
    "env": {"A": "secret://openai.api_key"},
    "files": {"B": "secret://binary.key", "C": "secret://openai.api_key"},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def home(valkey_socket: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with house(valkey_socket, tmp_path_factory.mktemp("mcp")) as made:
        made.desk.values["prod.ca"] = f"{CANARY}-ca"
        made.desk.needs_approval.add("prod.ca")
        yield made
        made.check_wire()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(home: House) -> AsyncIterator[Client]:
    process = await home.start("--dashboard-url", "https://desk.example")
    async with held_open(client(home.stdio(process), elicit=PERSON)) as made:
        yield made
    assert process.returncode == 0


def asked(home: House, purpose: str) -> list[Any]:
    """The requests for values that reached the desk for one purpose."""
    return [each for each in home.desk.requests if each.operation == "resolve" and each.purpose == purpose]


async def test_a_command_asks_once_for_all_that_it_needs(served: Client, home: House) -> None:
    """Variables and files are one request, which says for each name how it goes; wanted in both, it is named once."""
    purpose = "variables and files"
    result = await call(served, "run_command", **python(SHOW_SIZES, **WANTED) | {"purpose": purpose})
    size = len(CANARY)
    assert result.structured_content["stdout"].split() == [str(size), str(size + 2), str(size)]
    (request,) = asked(home, purpose)
    assert request.ways == {"openai.api_key": "env,file", "binary.key": "file"}


async def test_what_was_granted_for_both_ways_serves_either(served: Client, home: House) -> None:
    """Asked for ahead in both ways, a value is there for a variable, a file or both, and nobody is asked again."""
    purpose = "asked for ahead"
    names = ["openai.api_key", "binary.key"]
    await call(served, "request_access", names=names, purpose=purpose, deliver="env,file")
    for code, wanted in (
        (SHOW_SIZES, WANTED),
        ("pass", {"env": {"A": "secret://openai.api_key"}}),
        ("pass", {"files": {"A": "secret://openai.api_key"}}),
    ):
        result = await call(served, "run_command", **python(code, **wanted) | {"purpose": purpose})
        assert result.structured_content["exit_code"] == 0
    (request,) = asked(home, purpose)
    assert (request.names, request.deliver) == (("openai.api_key", "binary.key"), "env,file")


async def test_what_was_granted_for_a_variable_is_not_put_into_a_file(served: Client, home: House) -> None:
    """The broker decides about each way, so it is asked for the other one."""
    purpose = "a way at a time"
    for place in ("env", "files"):
        arguments = python("pass", **{place: {"A": "secret://openai.api_key"}})
        await call(served, "run_command", **arguments | {"purpose": purpose})
    assert [each.deliver for each in asked(home, purpose)] == ["env", "file"]


async def test_a_person_is_shown_both_approvals_of_a_command_at_once(served: Client, home: House) -> None:
    """One for the variable and one for the file, asked for by one request and shown by one link; then it runs."""
    purpose, before = "release 4.3", len(home.desk.approvals)

    def decide() -> str:
        home.desk.approve()
        return "accept"

    PERSON.decides, PERSON.shown = decide, []
    arguments = python("pass", env={"A": "secret://prod.deploy_key"}, files={"B": "secret://prod.ca"})
    result = await call(served, "run_command", **arguments | {"purpose": purpose})
    assert result.structured_content["exit_code"] == 0
    approvals = home.desk.approvals[before:]
    assert [(each.names, each.way) for each in approvals] == [(("prod.deploy_key",), "env"), (("prod.ca",), "file")]
    (shown,) = PERSON.shown
    assert shown.url == "https://desk.example/approvals"
    assert all(each.approval_id in shown.message for each in approvals)
    assert {tuple(each.names) for each in asked(home, purpose)} == {("prod.deploy_key", "prod.ca")}


async def test_what_ends_while_a_person_is_waited_for_is_asked_for_again(
    served: Client, home: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable's value lives shorter than the person thinks about the file: the command runs all the same."""
    purpose = "a slow person"
    monkeypatch.setattr(home.desk, "ttl", timedelta(seconds=1))
    PERSON.decides, PERSON.shown = lambda: "accept", []
    arguments = python("pass", env={"A": "secret://openai.api_key"}, files={"B": "secret://prod.ca"}, wait_seconds=50)
    running = asyncio.create_task(call(served, "run_command", **arguments | {"purpose": purpose}))
    await until(home.pending)
    first_ends = home.desk.clock() + 1000
    await until(lambda: home.desk.clock() > first_ends)
    monkeypatch.setattr(home.desk, "ttl", timedelta(minutes=5))
    home.desk.approve()
    result = await running
    assert result.structured_content["exit_code"] == 0
    assert asked(home, purpose)[-1].names == ("openai.api_key",)


async def test_nobody_is_waited_for_when_the_command_cannot_run_anyway(served: Client, home: House) -> None:
    """The variable waits for a person and the file is denied: the call ends, tells both, and shows nobody a link."""
    purpose, marker = "half of it denied", home.folder / "started"
    PERSON.decides, PERSON.shown = lambda: "accept", []
    wanted = {"env": {"A": "secret://prod.deploy_key"}, "files": {"B": "secret://no.such_name"}}
    arguments = python(f"open({str(marker)!r},'w')", wait_seconds=1, **wanted)
    result = await call(served, "run_command", **arguments | {"purpose": purpose})
    assert result.is_error
    assert "no.such_name (denied)" in text_of(result)
    assert "prod.deploy_key (approval_pending)" in text_of(result)
    assert PERSON.shown == []
    assert len(asked(home, purpose)) == 1
    assert not marker.exists()


async def test_more_secrets_than_one_request_holds_are_refused_before_anybody_is_asked(
    served: Client, home: House
) -> None:
    """The limit counts names, in whichever of both places they stand."""
    purpose = "too many"
    env = {f"E{number}": f"secret://many.e{number}" for number in range(64)}
    arguments = python("pass", env=env, files={"F": "secret://many.f"})
    result = await call(served, "run_command", **arguments | {"purpose": purpose})
    assert result.is_error
    assert "at most 64 secrets; got 65" in text_of(result)
    assert asked(home, purpose) == []
