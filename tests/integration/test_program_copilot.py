"""Copilot's command line itself, told by the lines of the documents: by its key command, through the proxy, by MCP."""

import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from egress_upstream import Authority, Upstream
from model_service import Call, Model
from program_bench import KEY, LOOK, Bench, documented, program, proxied, value

ROUTES = documented("egress.md", "acts_for: {agents: [claude]", "yaml")
SHOWN = value("openai.api_key")
OFFLINE = {"COPILOT_OFFLINE": "true", "COPILOT_AUTO_UPDATE": "false"}
"""No word to anybody but the model."""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where Copilot unpacks itself, which takes seconds and 235 MB: once for all tests."""
    folder = tmp_path_factory.mktemp("copilot")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def copilot(programs: Bench, unpacked: Path) -> Bench:
    """A home in which Copilot finds itself unpacked; all else that it writes, it writes there."""
    program("copilot")
    (programs.folder / ".cache/copilot").mkdir(parents=True)
    (programs.folder / ".cache/copilot/pkg").symlink_to(unpacked)
    return programs


def settings(url: str, **changes: str) -> dict[str, str]:
    """The documented variables, for a service of this host."""
    lines = documented("conventions.md", "## Copilot's command line", "console").replace(
        "https://api.openai.com/v1", url
    )
    words = [word for line in lines.splitlines() for word in shlex.split(line.removeprefix("$ export "))]
    found = dict(word.split("=", 1) for word in words)
    assert found["COPILOT_PROVIDER_BASE_URL"] == url
    return {**found, **OFFLINE, **changes}


async def ask(programs: Bench, environ: dict[str, str], *options: str) -> None:
    """Have Copilot answer one question, and say what it was answered."""
    done = await programs.run(program("copilot"), "-p", "hello", *options, **environ)
    assert (done.code, done.output.split()[-1:]) == (0, ["fine"]), done


async def test_its_key_command_is_asked_and_what_it_says_is_sent(copilot: Bench) -> None:
    """With the documented variables: in the header exactly the value, and in no file of Copilot's."""
    async with Upstream() as upstream:
        model = Model(upstream)
        await ask(copilot, settings(f"http://127.0.0.1:{upstream.port}/v1"))
        asked = copilot.asked()
        assert {each.header("authorization") for each in upstream.received} == {f"Bearer {SHOWN}"}
        await ask(copilot, settings(f"http://127.0.0.1:{upstream.port}", COPILOT_PROVIDER_TYPE="anthropic"))
        assert model.asked[-1].header("x-api-key") == SHOWN
    assert set(asked) == {("claude", "openai.api_key", "Copilot")}
    assert copilot.traces() == []


async def test_it_uses_a_key_through_the_proxy_and_never_has_it(copilot: Bench, authority: Authority) -> None:
    """A run that may not have the value: the service gets it, and Copilot shows the run's token."""
    copilot.lend("guest")
    async with Upstream(authority.server("localhost")) as upstream:
        model = Model(upstream)
        async with proxied(copilot, authority, upstream, ROUTES) as url:
            told = {"COPILOT_PROVIDER_API_KEY_COMMAND": "secret-agent token"}
            await ask(copilot, settings(f"{url}/openai/v1", **told))
    assert {each.header("authorization") for each in upstream.received} == {f"Bearer {SHOWN}"}
    assert model.asked
    assert copilot.traces() == []


async def test_a_model_runs_a_command_by_mcp_and_reads_no_value(copilot: Bench) -> None:
    """`copilot mcp add` as documented; the model lists names, and runs a command that prints what it was given."""
    line = documented("mcp.md", "**Copilot's command line**", "console").removeprefix("$ ")
    added = await copilot.run(*shlex.split(line), **OFFLINE)
    assert added.code == 0, added
    async with Upstream() as upstream:
        model = Model(upstream, Call("secrets-list_secrets", {}), Call("secrets-run_command", LOOK))
        await ask(copilot, settings(f"http://127.0.0.1:{upstream.port}/v1"), "--allow-tool", "secrets")
    assert "token: [masked github.read_token]" in model.read
    assert KEY not in model.read
    assert copilot.traces() == []
