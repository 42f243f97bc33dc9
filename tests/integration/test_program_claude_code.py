"""Claude Code itself, told by the lines of the documents: by its key helper, through the proxy, and by MCP."""

import asyncio
import json
import shlex

import pytest
from desk_workbench import until
from egress_upstream import Authority, Received, Upstream
from model_service import Call, Model
from program_bench import KEY, LOOK, Bench, documented, program, proxied, server_over_http, value

HELPER = documented("conventions.md", "## Claude Code\n", "json")
ROUTES = documented("egress.md", "Routes for what agents use most:", "yaml")
QUIET = {"DISABLE_AUTOUPDATER": "1", "DISABLE_TELEMETRY": "1", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"}
"""No word to anybody but the model."""
TOOLS = ("mcp__secrets__list_secrets", "mcp__secrets__run_command")
SHOWN = value("anthropic.api_key")


async def ask(programs: Bench, *options: str, **environ: str) -> None:
    """Have Claude Code answer one question, and say what it was answered."""
    done = await programs.run(program("claude"), "-p", "hello", *options, **QUIET, **environ)
    assert (done.code, done.output) == (0, "fine\n"), done


async def test_its_key_helper_is_asked_and_what_it_says_is_sent(programs: Bench) -> None:
    """With the documented settings: in both headers exactly the value, and in no file of Claude Code's."""
    programs.write(".claude/settings.json", HELPER)
    async with Upstream() as upstream:
        model = Model(upstream)
        await ask(programs, ANTHROPIC_BASE_URL=f"http://127.0.0.1:{upstream.port}")
    shown = {(each.header("x-api-key"), each.header("authorization")) for each in model.asked}
    assert shown == {(SHOWN, f"Bearer {SHOWN}")}
    assert programs.asked() == [("claude", "anthropic.api_key", "Claude Code")]
    assert programs.traces() == []


async def test_its_key_helper_is_asked_again_when_a_key_is_refused(programs: Bench) -> None:
    """As after a rotation: the service answers 401 once, and the next request has what the broker says then."""
    programs.write(".claude/settings.json", HELPER)
    async with Upstream() as upstream:
        model = Model(upstream)
        model.refuse_next()
        await ask(programs, ANTHROPIC_BASE_URL=f"http://127.0.0.1:{upstream.port}")
    assert len(model.asked) > 1
    assert len(programs.asked()) == 2


async def test_its_key_helper_is_asked_again_when_its_time_is_over(programs: Bench) -> None:
    """The documented variable says when. It is asked beside the request at hand, which is held here until then."""
    programs.write(".claude/settings.json", HELPER.replace('"240000"', '"1"'))
    note = programs.write("work/note", "nothing")
    async with Upstream() as upstream:
        model = Model(upstream, Call("Read", {"file_path": str(note)}))
        speak = upstream.behave["/v1/messages"]

        async def patient(request: Received, writer: asyncio.StreamWriter) -> None:
            if len(model.asked) == 2:
                await until(lambda: len(programs.asked()) == 2)
            await speak(request, writer)

        upstream.behave["/v1/messages"] = patient
        await ask(programs, ANTHROPIC_BASE_URL=f"http://127.0.0.1:{upstream.port}")
    assert len(programs.asked()) == 2


async def test_it_says_why_there_is_no_key_and_shows_none(programs: Bench) -> None:
    """When the broker refuses, in the broker's words."""
    programs.lend("codex")
    programs.write(".claude/settings.json", HELPER)
    async with Upstream() as upstream:
        model = Model(upstream)
        url = f"http://127.0.0.1:{upstream.port}"
        done = await programs.run(program("claude"), "-p", "hello", **QUIET, ANTHROPIC_BASE_URL=url)
    assert done.code == 1
    assert "anthropic.api_key: denied" in done.errors
    assert {each.header("x-api-key") for each in model.asked} <= {"", None}


async def test_it_uses_a_key_through_the_proxy_and_never_has_it(programs: Bench, authority: Authority) -> None:
    """A run that may not have the value: the service gets it, and Claude Code shows the run's token."""
    programs.lend("guest")
    async with Upstream(authority.server("localhost")) as upstream:
        model = Model(upstream)
        async with proxied(programs, authority, upstream, ROUTES) as url:
            programs.write(".claude/settings.json", through(url))
            await ask(programs)
    assert {(each.header("x-api-key"), each.header("authorization")) for each in model.asked} == {(SHOWN, None)}
    assert programs.traces() == []


def through(url: str) -> str:
    """The documented settings for the proxy, which is elsewhere here."""
    found = documented("conventions.md", "To let Claude Code use the key without having it", "json")
    assert "http://127.0.0.1:7720/" in found
    return found.replace("http://127.0.0.1:7720", url)


async def ask_with_tools(programs: Bench, *options: str, **environ: str) -> str:
    """Have the model find our tools, list names, and run a command that prints what it was given; all it was sent."""
    find = Call("ToolSearch", {"query": f"select:{','.join(TOOLS)}", "max_results": 5})
    async with Upstream() as upstream:
        model = Model(upstream, find, Call(TOOLS[0], {}), Call(TOOLS[1], LOOK))
        told = {"ANTHROPIC_BASE_URL": f"http://127.0.0.1:{upstream.port}", "ANTHROPIC_API_KEY": "unused"}
        await ask(programs, "--allowedTools", "mcp__secrets", *options, **told, **environ)
    return model.read


@pytest.mark.parametrize("way", ["command", "file", "http"])
async def test_a_model_runs_a_command_by_mcp_and_reads_no_value(programs: Bench, way: str) -> None:
    """The three documented ways: `claude mcp add`, `.mcp.json`, and a server over HTTP that is there already."""
    if way == "command":
        line = documented("mcp.md", "**Claude Code**", "console").removeprefix("$ ")
        name, *rest = shlex.split(line)
        added = await programs.run(program(name), *rest, **QUIET)
        assert added.code == 0, added
        read = await ask_with_tools(programs)
    elif way == "file":
        programs.write("work/.mcp.json", documented("mcp.md", "or `.mcp.json` in the project", "json"))
        read = await ask_with_tools(programs, "--settings", json.dumps({"enableAllProjectMcpServers": True}))
    else:
        async with server_over_http(programs) as (url, token):
            row = documented("mcp.md", "| Claude Code, `.mcp.json` | ", "`")
            programs.write("work/.mcp.json", row.replace("http://127.0.0.1:7730", url))
            told = {"SECRETS_MCP_TOKEN": token}
            settings = ("--settings", json.dumps({"enableAllProjectMcpServers": True}))
            read = await ask_with_tools(programs, *settings, **told)
    assert "token: [masked github.read_token]" in read
    assert KEY not in read
    assert ("claude", "github.read_token", "look") in programs.asked()
    assert programs.traces() == []
