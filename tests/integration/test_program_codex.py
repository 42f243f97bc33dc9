"""Codex itself, told by the lines of the documents: by its auth command, through the proxy, and by MCP."""

import json
import re

from egress_upstream import Authority, Upstream
from model_service import Call, Model
from program_bench import KEY, LOOK, ROOT, Bench, documented, program, proxied, server_over_http, value

LOGIN = documented("conventions.md", "## Codex\n", "toml")
ROUTES = documented("egress.md", "acts_for: {agents: [claude]", "yaml")
SHOWN = value("openai.api_key")
SERVER = documented("mcp.md", "**Codex**", "toml")


def settings(url: str) -> str:
    """The documented lines, for a service of this host."""
    here = LOGIN.replace("https://api.openai.com/v1", url)
    assert url in here
    return here


async def ask(programs: Bench, config: str, **environ: str) -> None:
    """Have Codex answer one question, and say what it was answered."""
    programs.write(".codex/config.toml", config)
    done = await programs.run(program("codex"), "exec", "--skip-git-repo-check", "hello", **environ)
    assert (done.code, done.output) == (0, "fine\n"), done


async def test_its_auth_command_is_asked_and_what_it_says_is_sent(programs: Bench) -> None:
    """With the documented settings: in the header exactly the value, and in no file of Codex's."""
    async with Upstream() as upstream:
        model = Model(upstream)
        await ask(programs, settings(f"http://127.0.0.1:{upstream.port}/v1"))
    assert {each.header("authorization") for each in upstream.received} == {f"Bearer {SHOWN}"}
    assert model.asked
    assert programs.asked() == [("claude", "openai.api_key", "Codex")]
    assert programs.traces() == []


async def test_its_auth_command_is_asked_again_when_a_key_is_refused(programs: Bench) -> None:
    """As after a rotation: the service answers 401 once, and the next request has what the broker says then."""
    async with Upstream() as upstream:
        model = Model(upstream)
        model.refuse_next()
        await ask(programs, settings(f"http://127.0.0.1:{upstream.port}/v1"))
    assert len(model.asked) == 2
    assert len(programs.asked()) == 2


async def test_its_auth_command_is_asked_again_when_its_time_is_over(programs: Bench) -> None:
    """The documented setting says when: here it is over when the model's first call was carried out."""
    async with Upstream() as upstream:
        model = Model(upstream, Call("exec", "text('done')"))
        often = settings(f"http://127.0.0.1:{upstream.port}/v1").replace("_ms = 240000", "_ms = 1")
        await ask(programs, often)
    assert len(model.asked) == 2
    assert len(programs.asked()) > 1


async def test_it_says_why_there_is_no_key_and_shows_none(programs: Bench) -> None:
    """When the broker refuses, in the broker's words."""
    programs.lend("codex")
    async with Upstream() as upstream:
        Model(upstream)
        config = settings(f"http://127.0.0.1:{upstream.port}/v1").replace(
            "requires_openai_auth", "request_max_retries = 0\nstream_max_retries = 0\nrequires_openai_auth"
        )
        programs.write(".codex/config.toml", config)
        done = await programs.run(program("codex"), "exec", "--skip-git-repo-check", "hello")
    assert done.code == 1
    assert "openai.api_key: denied" in done.errors
    assert {each.header("authorization") for each in upstream.received} == {None}


async def test_it_uses_a_key_through_the_proxy_and_never_has_it(programs: Bench, authority: Authority) -> None:
    """A run that may not have the value: the service gets it, and Codex shows the run's token."""
    programs.lend("guest")
    async with Upstream(authority.server("localhost")) as upstream:
        model = Model(upstream)
        async with proxied(programs, authority, upstream, ROUTES) as url:
            config = settings(f"{url}/openai/v1").replace(
                '["get", "openai.api_key", "--purpose", "Codex"]', '["token"]'
            )
            assert '["token"]' in config
            await ask(programs, config)
    assert {each.header("authorization") for each in upstream.received} == {f"Bearer {SHOWN}"}
    assert model.asked
    assert programs.traces() == []


async def test_a_model_runs_a_command_by_mcp_and_reads_no_value(programs: Bench) -> None:
    """With the documented server, which is a run of its own."""
    read = await ask_with_tools(programs, SERVER)
    assert "token: [masked github.read_token]" in read
    assert KEY not in read
    assert ("codex", "github.read_token", "look") in programs.asked()
    assert programs.traces() == []


async def test_a_model_runs_a_command_by_mcp_over_http(programs: Bench) -> None:
    """With the documented lines for a server that is there already; Codex's token for it is in no file of its own."""
    async with server_over_http(programs) as (url, token):
        read = await ask_with_tools(programs, over_http(url), SECRETS_MCP_TOKEN=token)
    assert "token: [masked github.read_token]" in read
    assert KEY not in read
    assert programs.traces() == programs.traces(token) == []


async def ask_with_tools(programs: Bench, server: str, **environ: str) -> str:
    """Have the model list names, and run a command that prints what it was given; all that it was sent."""
    script = "text(await tools.mcp__secrets__list_secrets({}));"
    script += f"text(await tools.mcp__secrets__run_command({json.dumps(LOOK)}));"
    unasked = documented("mcp.md", "refuses most tools unless that section also says", "`")
    async with Upstream() as upstream:
        model = Model(upstream, Call("exec", script))
        await ask(programs, f"{settings(f'http://127.0.0.1:{upstream.port}/v1')}{server}{unasked}\n", **environ)
    return model.read


def over_http(url: str) -> str:
    """The documented lines for a server that is there already, at a port of its own."""
    row = next(line for line in (ROOT / "docs/mcp.md").read_text().splitlines() if line.startswith("| Codex, "))
    section, *lines = re.findall("`([^`]+)`", row.partition("|")[2].partition("|")[2])
    assert section == "[mcp_servers.secrets]"
    return "\n".join((section, *lines)).replace("http://127.0.0.1:7730", url) + "\nrequired = true\n"
