"""The proxy with a real worker: rights, records and revocations are the run's own; and as a process of its own."""

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from broker_home import COMMAND, Home
from desk_workbench import until
from egress_upstream import Authority, Upstream
from egress_workbench import ROUTE, SECRET, VALUE
from fake_vault import FakeVault

from agent_sdk.credential import RunCredential
from agent_sdk.wire.proof import sign_proof
from broker_worker.egress.serving import Egress
from broker_worker.people.revoking import revoke

POLICY = """\
agents:
  claude:
    allow: [{secret: openai.api_key, deliver: [proxy]}]
  careful:
    proof: required
    allow: [{secret: openai.api_key, deliver: [proxy]}]
  grok:
    allow: []
  stranger:
    allow: [openai.api_key]
  egress:
    allow: []
    acts_for: {agents: [claude, careful, grok], deliver: [proxy], audience: "http://127.0.0.1:7720"}
"""
REGISTRY = "secrets: {openai.api_key: 'local://openai.api_key'}\n"


@asynccontextmanager
async def proxied(home: Home, authority: Authority) -> AsyncIterator[tuple[str, Upstream]]:
    """A worker, a proxy that asks it, and an upstream; the proxy's address and the upstream."""
    home.write(policy=POLICY, registry=REGISTRY)
    vault = FakeVault({"local://openai.api_key": VALUE.encode()})
    async with Upstream(authority.server("localhost")) as upstream, home.working(vault):
        file = home.settings.home / "egress.yaml"
        file.write_text(ROUTE.format(port=upstream.port, ca=authority.file))
        egress = Egress(file, home.credential("egress", run_id="proxy-1"), port=0)
        address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        running = asyncio.create_task(egress.run(address.set_result))
        try:
            yield await asyncio.wait_for(address, 10), upstream
        finally:
            egress.stop()
            await running


async def ask(address: str, run: RunCredential, **headers: str) -> tuple[int, str]:
    """Call the proxy as a run; the status, and the code of a refusal."""
    sent = {"x-api-key": run.token, **headers}
    async with aiohttp.ClientSession() as agent, agent.get(f"{address}/openai/v1/models", headers=sent) as got:
        body = await got.read()
        assert VALUE.encode() not in body
        return got.status, json.loads(body)["code"] if got.status != 200 else ""


async def test_the_runs_own_rights_decide_and_all_is_recorded(home: Home, authority: Authority) -> None:
    """Who may use the secret by the proxy does; who may not, or for whom nobody acts, does not; all is recorded."""
    async with proxied(home, authority) as (address, upstream):
        claude = home.credential("claude", run_id="run-1")
        assert await ask(address, claude) == (200, "")
        assert upstream.received[0].header("authorization") == f"Bearer {VALUE}"
        assert await ask(address, home.credential("grok")) == (403, "denied")
        assert await ask(address, home.credential("stranger")) == (403, "denied")
        forged = home.credential("claude", issuer_seed=b"x" * 32)
        assert await ask(address, forged) == (401, "unauthenticated")
        await until(lambda: home.records("call"))
    resolved = next(each for each in home.records("access") if each.agent_id == "claude")
    assert (resolved.agent_id, resolved.run_id, resolved.outcome) == ("claude", "run-1", "granted")
    call = next(each for each in home.records("call") if each.agent_id == "claude")
    assert (call.run_id, call.secret_name, call.host, call.actor) == ("run-1", SECRET, "localhost", "egress/proxy-1")
    assert (call.path, call.status) == ("/v1/**", 200)
    home.check_audit()
    audit = b"".join(file.read_bytes() for file in home.settings.audit_dir.rglob("*") if file.is_file())
    assert VALUE.encode() not in audit
    assert claude.token.encode() not in audit


async def test_a_revoked_run_is_refused_within_a_second(home: Home, authority: Authority) -> None:
    """The value that is remembered for the run is gone as soon as the order is in force."""
    async with proxied(home, authority) as (address, upstream):
        claude, other = home.credential("claude", run_id="run-1"), home.credential("claude", run_id="run-2")
        assert await ask(address, claude) == (200, "")
        assert await ask(address, other) == (200, "")
        await revoke(home.settings, "run", "claude/run-1", reason="off the rails", by="olivia")

        async def is_refused() -> bool:
            return await ask(address, claude) == (403, "revoked")

        ordered = time.monotonic()
        await until(is_refused)
        assert time.monotonic() - ordered < 5
        before = len(upstream.received)
        assert await ask(address, claude) == (403, "revoked")
        assert len(upstream.received) == before
        assert await ask(address, other) == (200, "")


async def test_a_policy_can_want_the_runs_key(home: Home, authority: Authority) -> None:
    """With `proof: required` the token alone is not enough; a proof for this proxy is, and for another is not."""
    async with proxied(home, authority) as (address, _):
        run = home.credential("careful")
        now = home.clock.now()
        assert await ask(address, run) == (401, "unauthenticated")
        for audience, found in (("http://127.0.0.1:7720", 200), ("http://127.0.0.1:7700", 401)):
            proof = sign_proof(run.seed, run.token, audience, now, 60_000, "proof-1")
            assert (await ask(address, run, **{"Workload-Proof-Token": proof}))[0] == found
            assert (await ask(address, run, **{"Workload-Proof-Token": proof}))[0] == 401  # each serves once
        assert await ask(address, run) == (401, "unauthenticated")


async def test_as_a_process(home: Home, authority: Authority, tmp_path: Path) -> None:
    """`secret-broker egress` serves from a file and a credential alone, and ends with its calls when it is told to."""
    home.write(policy=POLICY, registry=REGISTRY)
    credential, file = tmp_path / "credential", tmp_path / "routes.yaml"
    credential.touch(mode=0o600)
    async with (
        Upstream(authority.server("localhost")) as upstream,
        home.working(FakeVault({"local://openai.api_key": VALUE.encode()})),
    ):
        credential.write_text(home.credential("egress").to_json())
        file.write_text(ROUTE.format(port=upstream.port, ca=authority.file))
        environ = {key: os.environ[key] for key in ("PATH", "PYTHONPATH") if key in os.environ}
        environ |= {"SECRET_BROKER_CREDENTIAL_FILE": str(credential), "SECRET_BROKER_HOME": str(tmp_path / "nothing")}
        process = await asyncio.create_subprocess_exec(
            *COMMAND, "--log-json", "egress", "--config", str(file), "--port", "0", env=environ, stderr=subprocess.PIPE
        )
        assert process.stderr is not None
        ready = json.loads(await asyncio.wait_for(process.stderr.readline(), 60))
        assert ready["event"] == "egress_ready"
        assert await ask(ready["address"], home.credential("claude")) == (200, "")
        process.send_signal(signal.SIGTERM)
        said = await asyncio.wait_for(process.stderr.read(), 60)
        assert (await process.wait(), said) == (0, b"")
        assert home.records("call")
