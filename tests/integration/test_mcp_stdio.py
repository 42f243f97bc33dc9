"""`secret-agent mcp` over standard streams: a real process, a real client, and every byte between them."""

import asyncio
import json
import os
import sys
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import jsonschema
import pytest
import pytest_asyncio
from desk_workbench import until
from mcp import Client
from mcp_house import CANARY, PYTHON, House, Person, call, client, held_open, house, python, text_of

from agent_sdk.credential import FILE_VARIABLE, RunCredential

pytestmark = pytest.mark.asyncio(loop_scope="module")
PERSON = Person()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def home(valkey_socket: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with house(valkey_socket, tmp_path_factory.mktemp("mcp")) as made:
        yield made
        made.check_wire()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(home: House) -> AsyncIterator[Client]:
    process = await home.start("--dashboard-url", "https://desk.example")
    async with held_open(client(home.stdio(process), elicit=PERSON)) as made:
        yield made
    assert process.returncode == 0


def of(home: House, operation: str) -> list[Any]:
    """The requests of one kind that reached the desk."""
    return [each for each in home.desk.requests if each.operation == operation]


async def test_every_tool_is_described_strictly(served: Client) -> None:
    """Arguments and results have closed schemas, and each tool says whether it changes anything."""
    tools = {each.name: each for each in (await served.list_tools()).tools}
    assert set(tools) == {"list_secrets", "request_access", "run_command", "generate_secret", "store_secret"}
    for tool in tools.values():
        assert tool.annotations is not None
        for schema in (tool.input_schema, tool.output_schema):
            assert schema is not None
            jsonschema.Draft202012Validator.check_schema(schema)
            assert (schema["type"], schema["additionalProperties"]) == ("object", False)
        assert tool.annotations.read_only_hint == (tool.name == "list_secrets")
    assert "[masked NAME]" in (served.session.instructions or "")


async def test_names_are_listed_without_values(served: Client) -> None:
    """A model sees what it may use."""
    result = await call(served, "list_secrets")
    assert "openai.api_key" in result.structured_content["names"]


async def test_a_command_has_the_value_and_the_model_does_not(served: Client, home: House) -> None:
    """The program prints its variable plainly, encoded and cut in two writes; the model reads the name."""
    code = (
        "import os,sys,base64; v=os.environ['KEY']; print(len(v), v, base64.b64encode(v.encode()).decode());"
        "sys.stderr.write(v[:9]); sys.stderr.flush(); sys.stderr.write(v[9:])"
    )
    result = await call(served, "run_command", **python(code, env={"KEY": "secret://openai.api_key"}))
    shown = result.structured_content
    assert (shown["exit_code"], shown["stdout"].split()[0]) == (0, str(len(CANARY)))
    assert shown["stderr"] == "[masked openai.api_key]"
    assert "openai.api_key" in shown["stdout"]
    asked = of(home, "resolve")[-1]
    assert (asked.names, asked.purpose, asked.deliver) == (("openai.api_key",), "a test", "env")


async def test_a_command_that_reads_the_runs_credential_gives_it_to_no_model(served: Client, home: House) -> None:
    """Neither its token nor the key that the token is bound to, in the form in which the file has them."""
    path = home.environ[FILE_VARIABLE]
    run = RunCredential.load({FILE_VARIABLE: path})
    result = await call(served, "run_command", **python(f"print(open({path!r}).read())"))
    said = result.structured_content["stdout"]
    assert result.structured_content["exit_code"] == 0
    for held in (run.token, urlsafe_b64encode(run.seed).rstrip(b"=").decode()):
        assert held not in said
    assert "[masked run-key]" in said


async def test_what_was_granted_serves_its_purpose_only(served: Client, home: House) -> None:
    """The same purpose asks once; another one is another question to the broker, and to people."""
    arguments = python("pass", env={"T": "secret://github.read_token"})
    for purpose in ("first", "first", "second"):
        await call(served, "run_command", **{**arguments, "purpose": purpose})
    purposes = [each.purpose for each in of(home, "resolve") if each.names == ("github.read_token",)]
    assert purposes == ["first", "second"]


async def test_a_secret_that_is_no_text_comes_in_a_file_that_is_gone_afterwards(served: Client, home: House) -> None:
    """The variable holds the path; only this user can read it while the command runs."""
    code = "import os; p=os.environ['F']; print(p, os.path.getsize(p), oct(os.stat(p).st_mode)[-3:])"
    result = await call(served, "run_command", **python(code, files={"F": "secret://binary.key"}))
    path, size, mode = result.structured_content["stdout"].split()
    assert (int(size), mode) == (len(CANARY) + 2, "600")
    assert not await anyio.Path(path).exists()
    assert of(home, "resolve")[-1].deliver == "file"
    result = await call(served, "run_command", **python("pass", env={"F": "secret://binary.key"}))
    assert "use files" in text_of(result)


async def test_nothing_starts_without_its_secret(served: Client, home: House) -> None:
    """A name that is denied, or does not exist, ends the call; the model is told to stop there."""
    code = f"open({str(home.folder / 'started')!r},'w')"
    result = await call(served, "run_command", **python(code, env={"K": "secret://no.such_name"}))
    assert result.is_error
    assert "no.such_name (denied)" in text_of(result)
    assert "Do not try other names" in text_of(result)
    assert not (home.folder / "started").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"argv": ["sh", "-c", "env"], "purpose": "x"}, "this command is not allowed"),
        ({"argv": [sys.executable, "-m", "this"], "purpose": "x"}, f"allowed are: {PYTHON}"),
        (python("pass", cwd=".."), "leads out of the server's folder"),
        (python("pass", cwd="missing"), "no such file or folder"),
        (python("pass", env={"LD_PRELOAD": "secret://openai.api_key"}), "not allowed with these variables"),
        (python("pass", env={"K": "plain"}), "invalid"),
        (python("pass", env={"K": "secret://a"}, files={"K": "secret://a"}), "stands in env and in files"),
        ({"argv": [sys.executable, "-c", "pass"]}, "missing required field `purpose`"),
        (python("pass", shell=True), "unknown field `shell`"),
    ],
)
async def test_what_cannot_be_run_says_why(served: Client, arguments: dict[str, Any], told: str) -> None:
    """Each refusal is an error with what was expected, and nothing was started."""
    result = await call(served, "run_command", **arguments)
    assert result.is_error
    assert told in text_of(result)
    assert "hint: " in text_of(result)


async def test_a_command_gets_little_of_the_environment_and_nothing_of_the_broker(served: Client) -> None:
    """Neither the credential, nor where it is, nor what else the server was started with; not even by its parent."""
    code = (
        "import os,json; parent=f'/proc/{os.getppid()}/environ'\n"
        "try: open(parent).read(); seen='yes'\n"
        "except OSError: seen='no'\n"
        "print(json.dumps([sorted(os.environ), seen]))"
    )
    result = await call(served, "run_command", **python(code))
    names, seen = json.loads(result.structured_content["stdout"])
    assert not [name for name in names if name.startswith("SECRET_BROKER") or name == "UNRELATED"]
    assert "PATH" in names
    assert (seen == "no") or sys.platform != "linux" or os.geteuid() == 0


async def test_a_failing_program_is_a_result(served: Client) -> None:
    """Its exit code and output are what the model needs to go on."""
    result = await call(served, "run_command", **python("import sys; print(sys.stdin.read()); sys.exit(3)", stdin="in"))
    assert (result.is_error, result.structured_content["exit_code"]) == (False, 3)
    assert result.structured_content["stdout"] == "in\n"


async def test_much_output_is_shortened_after_it_was_masked(served: Client) -> None:
    """The middle is left out, and a value on the edge is not shown in part."""
    code = "import os; v=os.environ['K']; print(v*3000)"
    result = await call(served, "run_command", **python(code, env={"K": "secret://openai.api_key"}))
    shown = result.structured_content
    assert shown["left_out"] > 0
    assert CANARY[:6] not in shown["stdout"]
    assert len(shown["stdout"]) < 40_000


async def test_a_timeout_ends_all_that_was_started(served: Client, home: House) -> None:
    """The program and its own children."""
    pids = home.folder / "pids"
    code = (
        "import os,subprocess,sys,time\n"
        "child=subprocess.Popen([sys.executable,'-c','import time; time.sleep(600)'])\n"
        f"open({str(pids)!r},'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
        "time.sleep(600)"
    )
    result = await call(served, "run_command", **python(code, timeout_seconds=1))
    assert (result.structured_content["ended"], result.structured_content["exit_code"]) == ("timeout", None)
    await until(lambda: not [pid for pid in pids.read_text().split() if _lives(int(pid))])


async def test_a_cancelled_call_ends_its_command(served: Client, home: House) -> None:
    """The client gives up; nothing goes on with the secret."""
    pid = home.folder / "pid"
    code = (
        f"import os,time; pid={str(pid)!r}; open(pid+'.new','w').write(str(os.getpid()));"
        "os.rename(pid+'.new', pid); time.sleep(600)"
    )
    task = asyncio.create_task(call(served, "run_command", **python(code, env={"K": "secret://openai.api_key"})))
    await until(pid.exists)
    task.cancel()
    await until(lambda: not _lives(int(pid.read_text())))


async def test_a_revocation_ends_the_command_that_uses_the_secret(served: Client, home: House) -> None:
    """What the operator takes back is not used a moment longer."""
    home.desk.values["short.lived"] = f"{CANARY}-short"
    pid = home.folder / "revoked.pid"
    code = f"import time; open({str(pid)!r},'w'); time.sleep(600)"
    task = asyncio.create_task(call(served, "run_command", **python(code, env={"K": "secret://short.lived"})))
    await until(pid.exists)
    home.desk.revoke("short.lived")
    assert (await task).structured_content["ended"] == "revoked"
    result = await call(served, "run_command", **python(code, env={"K": "secret://short.lived"}))
    assert "(revoked)" in text_of(result)


async def test_a_person_is_shown_where_to_approve(served: Client, home: House) -> None:
    """URL elicitation: the dashboard's page of that approval; the call goes on once they decided there."""

    async def decide() -> str:
        home.desk.approve()
        return "accept"

    PERSON.decides = decide
    result = await call(served, "request_access", names=["prod.deploy_key", "openai.api_key"], purpose="release 4.2")
    assert [each["name"] for each in result.structured_content["granted"]] == ["prod.deploy_key", "openai.api_key"]
    approval = home.desk.approvals[-1]
    assert (approval.purpose, approval.names) == ("release 4.2", ("prod.deploy_key",))
    assert PERSON.shown[-1].url == f"https://desk.example/approvals#matter-{approval.approval_id}"
    assert "release 4.2" in PERSON.shown[-1].message
    assert b"notifications/elicitation/complete" in home.wire
    before = len(home.desk.requests)
    code = python("import os; print(len(os.environ['K']))", env={"K": "secret://prod.deploy_key"})
    ran = await call(served, "run_command", **{**code, "purpose": "release 4.2"})
    assert (ran.structured_content["exit_code"], len(home.desk.requests)) == (0, before)


@pytest.mark.parametrize("answer", ["decline", "cancel", "refuse"])
async def test_who_does_not_look_ends_the_wait_and_decides_nothing(served: Client, home: House, answer: str) -> None:
    """The approval still waits; the model is told where, and to ask again with the same words."""
    PERSON.decides = lambda: answer
    purpose = f"release with {answer}"
    result = await call(served, "request_access", names=["prod.deploy_key"], purpose=purpose)
    (refused,) = result.structured_content["refused"]
    assert result.is_error
    assert (refused["code"], refused["approval"]) == ("approval_pending", home.pending()[-1])
    assert refused["link"].endswith(f"#matter-{refused['approval']}")
    home.desk.approve()
    again = await call(served, "request_access", names=["prod.deploy_key"], purpose=purpose)
    assert again.structured_content["granted"][0]["name"] == "prod.deploy_key"


async def test_a_new_secret_is_made_and_used_unseen(served: Client, home: House) -> None:
    """The broker makes it; the model gets a version, and may use the name."""
    made = await call(served, "generate_secret", name="agents.claude.made", recipe="password:24", purpose="a database")
    assert made.structured_content["name"] == "agents.claude.made"
    again = await call(served, "generate_secret", name="agents.claude.made", recipe="hex:32", purpose="a database")
    assert again.is_error
    assert "error: conflict" in text_of(again)


async def test_a_value_is_stored_from_its_place(served: Client, home: House) -> None:
    """From a file or from what an allowed command prints; neither is shown, and both are searched for from then on."""
    (home.folder / "key.txt").write_text(f"{CANARY}-file\n")
    first = await call(served, "store_secret", name="agents.one", purpose="x", from_file="key.txt")
    argv = [sys.executable, "-c", f"print('{CANARY}'[:20] + 'tail-of-it')"]
    second = await call(served, "store_secret", name="agents.two", purpose="x", from_command=argv)
    assert not first.is_error
    assert not second.is_error
    assert home.desk.values["agents.one"] == f"{CANARY}-file".encode()
    assert home.desk.values["agents.two"] == f"{CANARY[:20]}tail-of-it".encode()
    result = await call(served, "run_command", **python("print(open('key.txt').read())"))
    assert result.structured_content["stdout"].startswith("[masked agents.one]")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({}, "either from_file or from_command"),
        ({"from_file": "../run.json"}, "leads out of the server's folder"),
        ({"from_file": "."}, "regular file"),
        ({"from_command": ["sh", "-c", "echo x"]}, "not allowed"),
        ({"from_command": [sys.executable, "-c", "1/0"]}, "left with exit code 1"),
        ({"from_command": [sys.executable, "-c", "pass"]}, "1 to 131072 bytes"),
    ],
)
async def test_what_cannot_be_stored_says_why(served: Client, arguments: dict[str, Any], told: str) -> None:
    """And shows nothing of what was found there."""
    result = await call(served, "store_secret", name="agents.three", purpose="x", **arguments)
    assert result.is_error
    assert told in text_of(result)


async def test_a_broker_that_does_not_answer_is_told_as_such(served: Client, home: House) -> None:
    """Limits and outages are codes with what to do."""
    home.desk.rate_limited["openai.api_key"] = 7.0
    result = await call(served, "request_access", names=["openai.api_key"], purpose="limited")
    (refused,) = result.structured_content["refused"]
    assert (refused["code"], refused["retry_after"]) == ("rate_limited", 7.0)
    home.desk.rate_limited.clear()


@pytest.mark.parametrize("ending", ["signal", "gone"])
async def test_whatever_ends_the_server_ends_its_commands(home: House, ending: str) -> None:
    """SIGTERM, or a client that died: the program is ended, what it had is given back, and nobody sees a traceback."""
    process = await home.start()
    pid = home.folder / f"{ending}.pid"
    code = (
        f"import os,time; pid={str(pid)!r}; open(pid+'.new','w').write(str(os.getpid()));"
        "os.rename(pid+'.new', pid); time.sleep(600)"
    )
    call = {"name": "run_command", "arguments": python(code, purpose=ending, env={"K": "secret://openai.api_key"})}
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    assert process.stdin
    assert process.stderr
    for number, (method, params) in enumerate([("initialize", hello), ("tools/call", call)]):
        message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        process.stdin.write(json.dumps(message).encode() + b"\n")
    await until(pid.exists)
    before = len(of(home, "release"))
    if ending == "signal":
        process.terminate()
    else:
        pipe: Any = process
        pipe._transport.get_pipe_transport(1).close()
        process.stdin.write(b'{"jsonrpc": "2.0", "id": 9, "method": "ping"}\n')
    assert await process.wait() == (143 if ending == "signal" else 0)
    assert not _lives(int(pid.read_text()))
    assert len(of(home, "release")) == before + 1
    assert await process.stderr.read() == b""


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return (
        Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z" if sys.platform == "linux" else True
    )
