"""Programs, the gateway and a real broker: who gets what over HTTP, and what the audit says of it."""

import asyncio
import json
import os
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from typing import Any

import pytest
from broker_home import Home, Processes
from desk_workbench import until
from gateway_bench import Reached, serving

from agent_sdk.credential import RunCredential
from agent_sdk.wire.proof import sign_proof
from agent_sdk.wire.static_tokens import mint
from broker_worker.files.tokens_file import TokensFile
from broker_worker.loopback import listening

AUDIENCE = "http://127.0.0.1:7700"
FILES = {
    "registry": 'secrets: {openai_key: "local://openai", github_token: "local://github"}',
    "policy": f"""
        agents:
          claude: {{allow: [openai_key]}}
          codex: {{allow: [openai_key], proof: required}}
          backup: {{allow: [github_token]}}
          gateway:
            allow: []
            acts_for: {{all_agents: true, deliver: [value], audience: "{AUDIENCE}"}}
    """,
}
Reply = tuple[int, dict[str, Any]]


@pytest.fixture
async def reached(home: Home) -> AsyncIterator[Reached]:
    """A gateway of a real broker."""
    home.write(**FILES)
    async with home.working(reloading=True), serving(lambda: home.credential("gateway")) as gateway:
        yield gateway


def shown(run: RunCredential, **more: str) -> dict[str, str]:
    """What a run sends of itself."""
    who = {"X-Agent-Id": run.agent_id, "X-Agent-Run-Id": run.run_id}
    return {"Authorization": f"Bearer {run.token}", "Content-Type": "application/json", **who, **more}


def proof(run: RunCredential, home: Home, audience: str = AUDIENCE) -> str:
    """A proof of a run."""
    return sign_proof(run.seed, run.token, audience, home.clock.now(), 60_000, os.urandom(8).hex())


async def ask(gateway: Reached, headers: dict[str, str], *names: str) -> Reply:
    """As a script does, with nothing but Python's own library."""
    body = json.dumps({"secrets": names or ["openai_key"], "purpose": "a test"}).encode()
    request = urllib.request.Request(f"{gateway.origin}/v1/secrets/resolve", body, headers)

    def send() -> Reply:
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    return await asyncio.to_thread(send)


async def test_a_run_s_own_rights_decide(reached: Reached, home: Home) -> None:
    """The audit names the run, the gateway that asked for it, and why a name was refused."""
    run = home.credential("claude")
    status, content = await ask(reached, shown(run))
    assert (status, content["resolved"]["openai_key"]["value"]) == (200, "value of openai")
    assert content["cached"] is False
    assert (await ask(reached, shown(run)))[1]["cached"] is True
    status, content = await ask(reached, shown(run), "openai_key", "github_token")
    assert (status, [each["name"] for each in content["refusals"]]) == (403, ["github_token"])
    assert "value of openai" not in str(content)
    records = home.records("access")
    assert {(record.agent_id, record.run_id) for record in records} == {("claude", run.run_id)}
    assert all((record.actor or "").startswith("gateway/") for record in records)
    home.check_audit()


async def test_whoever_shows_no_good_token_is_nobody(reached: Reached, home: Home) -> None:
    """Forged, another agent's, another run's, unknown: the same answer, word for word but the request's id."""
    run, other = home.credential("claude"), home.credential("claude")
    forged = home.credential("claude", issuer_seed=bytes([9]) * 32)
    unknown, _ = mint(os.urandom(37))
    attempts = [
        shown(forged),
        shown(run, **{"X-Agent-Id": "codex"}),
        shown(run, **{"X-Agent-Run-Id": other.run_id}),
        shown(run, Authorization=f"Bearer {unknown}"),
        shown(run, Authorization=f"Bearer {run.token[:-1]}"),
    ]
    answers = [await ask(reached, headers) for headers in attempts]
    assert {status for status, _ in answers} == {401}
    assert len({json.dumps({**content, "requestId": ""}) for _, content in answers}) == 1


async def test_where_a_proof_is_required_a_token_alone_is_nothing(reached: Reached, home: Home) -> None:
    """A stolen token serves nobody without the run's key; the proof goes in either of the two headers."""
    run, thief = home.credential("codex"), home.credential("codex")
    good = proof(run, home)
    assert (await ask(reached, shown(run)))[0] == 401
    assert (await ask(reached, shown(run, **{"Workload-Proof-Token": proof(thief, home)})))[0] == 401
    elsewhere = proof(run, home, "http://127.0.0.1:7711")
    assert (await ask(reached, shown(run, **{"Workload-Proof-Token": elsewhere})))[0] == 401
    assert (await ask(reached, shown(run, **{"Workload-Proof-Token": good})))[0] == 200
    assert (await ask(reached, shown(run, **{"Workload-Proof-Token": good})))[0] == 401, "it served twice"
    draft = {"Authorization": f"WPT {proof(run, home)}", "Workload-Identity-Token": run.token}
    assert (await ask(reached, shown(run, **draft)))[0] == 200


async def test_a_static_token_serves_from_its_issue_to_its_revocation(reached: Reached, home: Home) -> None:
    """A running broker takes both as it takes every change of its files."""
    file, now = TokensFile(home.settings.config_dir), home.clock.now()
    text, record = mint(os.urandom(37))
    headers = {"Authorization": f"Bearer {text}", "Content-Type": "application/json", "X-Agent-Id": "backup"}
    assert (await ask(reached, headers, "github_token"))[0] == 401
    file.add(record, "backup", now, now + 60_000)

    async def status() -> int:
        return (await ask(reached, headers, "github_token"))[0]

    async def becomes(expected: int) -> bool:
        return await status() == expected

    await until(lambda: becomes(200))
    assert home.records("access")[-1].run_id == f"static-{record.token_id}"
    assert (await ask(reached, {**headers, "X-Agent-Id": "claude"}, "github_token"))[0] == 401
    file.remove(record.token_id)
    await until(lambda: becomes(401))


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_the_lines_of_the_documentation_work(embedded_home: Home, tmp_path: Any) -> None:
    """`up` with `server:`, a token from the command line, and curl with the token in a file; all ends with `up`."""
    with listening(0, ("127.0.0.1",), "") as sockets:
        port = sockets[0].getsockname()[1]
    embedded_home.write(
        broker=f"{{provider: {{type: env}}, server: {{port: {port}}}}}",
        registry='secrets: {openai_key: "env://OPENAI"}',
        policy=FILES["policy"].replace("github_token", "openai_key"),
    )
    processes = Processes(embedded_home)
    settings = embedded_home.settings
    text, record = mint(os.urandom(37))
    now = embedded_home.clock.now()
    TokensFile(settings.config_dir).add(record, "backup", now, now + 600_000)
    headers = tmp_path / "headers"
    headers.write_text(f"Authorization: Bearer {text}\nX-Agent-Id: backup\n")
    command = ["curl", "-sS", "--max-time", "20", "-H", f"@{headers}", "-H", "Content-Type: application/json"]
    command += ["-d", '{"secrets": ["openai_key"], "purpose": "nightly backup"}']
    command += [f"http://127.0.0.1:{port}/v1/secrets/resolve"]
    try:
        house = processes.start("up", "--no-dashboard", "--no-ledger")
        await until(lambda: "gateway_ready" in processes.log and "worker_ready" in processes.log, 30)
        answer = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
        assert json.loads(answer.stdout)["resolved"]["openai_key"]["value"] == "value of openai", answer
        credential = settings.run_dir / "gateway.credential"
        assert RunCredential.from_json(credential.read_text()).agent_id == "gateway"
        house.terminate()
        assert await processes.ended(house) == 0
        assert not credential.exists()
        assert "value of openai" not in processes.log
        assert text not in processes.log
    finally:
        processes.close()
