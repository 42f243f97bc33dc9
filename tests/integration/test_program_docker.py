"""Docker's command line itself asks our credential helper: for a registry that it calls, and for its engine."""

import asyncio
import base64
import hashlib
import json
from typing import Any

import pytest
from egress_upstream import Authority, Received, Upstream, answer
from program_bench import Bench, documented, program, value

PASSWORD = value("github.packages_token")
LOGIN = "Basic " + base64.b64encode(f"USER:{PASSWORD}".encode()).decode()
JSON = "Content-Type: application/json"
REGISTRY = "Docker-Distribution-Api-Version: registry/2.0"
KIND = "application/vnd.docker.distribution.manifest.v2+json"
IMAGE = b'{"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": []}}'
DIGEST = f"sha256:{hashlib.sha256(IMAGE).hexdigest()}"
PART = {"mediaType": "application/vnd.docker.container.image.v1+json", "size": len(IMAGE), "digest": DIGEST}
MANIFEST = json.dumps({"schemaVersion": 2, "mediaType": KIND, "config": PART, "layers": []}).encode()


def registry(upstream: Upstream, kind: str) -> str:
    """Have an upstream be a registry with one image, which wants a login, or a token that a login gets; its host."""
    host = f"localhost:{upstream.port}"
    challenge = 'Basic realm="tests"' if kind == "basic" else f'Bearer realm="https://{host}/token",service="tests"'
    wanted = LOGIN if kind == "basic" else "Bearer short-lived"

    def guarded(body: bytes, *headers: str) -> Any:
        async def behave(request: Received, writer: asyncio.StreamWriter) -> None:
            if request.header("authorization") == wanted:
                writer.write(answer(body, *headers))
            else:
                writer.write(answer(b"{}", JSON, REGISTRY, f"WWW-Authenticate: {challenge}", status="401 Unauthorized"))

        return behave

    async def token(request: Received, writer: asyncio.StreamWriter) -> None:
        if request.header("authorization") == LOGIN:
            writer.write(answer(b'{"token": "short-lived", "expires_in": 300}', JSON))
        else:
            writer.write(answer(b"{}", JSON, status="401 Unauthorized"))

    upstream.behave["/v2/"] = guarded(b"{}", JSON, REGISTRY)
    upstream.behave["/v2/acme/site/manifests/1"] = guarded(MANIFEST, f"Content-Type: {KIND}")
    upstream.behave[f"/v2/acme/site/blobs/{DIGEST}"] = guarded(IMAGE, "Content-Type: application/octet-stream")
    upstream.behave["/token"] = token
    return host


def configure(programs: Bench, host: str) -> dict[str, str]:
    """The documented file and variable, for a registry of this host."""
    config = documented("conventions.md", "## Docker\n", "json").replace("ghcr.io", host)
    programs.write(".docker/config.json", config)
    variable = documented("conventions.md", "## Docker\n", "console").removeprefix("$ export ").strip()
    name, _, text = variable.replace("ghcr.io", host).partition("=")
    assert host in config
    assert host in text
    return {name: text.strip('"')}


def shown(upstream: Upstream) -> set[str | None]:
    """The logins that an upstream was shown."""
    return {each.header("authorization") for each in upstream.received}


@pytest.mark.parametrize("kind", ["basic", "token"])
async def test_it_logs_in_to_a_registry_with_what_the_broker_has(
    programs: Bench, authority: Authority, kind: str
) -> None:
    """`docker manifest inspect` reads an image's manifest; the password is in no file of Docker's."""
    async with Upstream(authority.server("localhost")) as upstream:
        host = registry(upstream, kind)
        told = {**configure(programs, host), "SSL_CERT_FILE": str(authority.file)}
        done = await programs.run(program("docker"), "manifest", "inspect", f"{host}/acme/site:1", **told)
    assert done.code == 0, done
    assert json.loads(done.output)["config"]["digest"] == DIGEST
    assert LOGIN in shown(upstream)
    assert programs.traces() == []
    assert set(programs.asked()) == {("claude", "github.packages_token", f"docker {host}")}


async def test_it_goes_without_a_login_where_the_broker_refuses(programs: Bench, authority: Authority) -> None:
    """Or fails, and in any case shows none; our words are on its standard error."""
    programs.lend("codex")
    async with Upstream(authority.server("localhost")) as upstream:
        host = registry(upstream, "basic")
        told = {**configure(programs, host), "SSL_CERT_FILE": str(authority.file)}
        done = await programs.run(program("docker"), "manifest", "inspect", f"{host}/acme/site:1", **told)
    assert done.code == 1
    assert "github.packages_token: denied" in done.errors
    assert shown(upstream) == {None}


async def test_a_login_that_is_typed_in_is_not_kept(programs: Bench, authority: Authority) -> None:
    """`docker login` tries it at the registry, is refused by the helper, and leaves it in no file."""
    async with Upstream(authority.server("localhost")) as upstream:
        host = registry(upstream, "basic")
        told = {**configure(programs, host), "SSL_CERT_FILE": str(authority.file)}
        login = (program("docker"), "login", "--username", "USER", "--password-stdin", host)
        done = await programs.run(*login, given=PASSWORD, **told)
    assert shown(upstream) == {LOGIN, None}
    assert done.code == 1
    assert "credentials are kept by the broker" in done.errors
    assert PASSWORD not in done.errors
    assert programs.traces() == []


async def test_its_engine_is_handed_the_login_for_a_pull(programs: Bench) -> None:
    """As the engine's API has it, in `X-Registry-Auth`; for another registry there is none."""
    config = configure(programs, "registry.example")
    async with Upstream() as engine:
        engine.says("/_ping", answer(b"", "API-Version: 1.41", "Ostype: linux"))  # HEAD is answered without a body
        engine.says("/v1.41/images/create", answer(b'{"status": "done"}\n', JSON))
        told = {**config, "DOCKER_HOST": f"tcp://127.0.0.1:{engine.port}"}
        for registry_host in ("registry.example", "other.example"):
            done = await programs.run(program("docker"), "pull", f"{registry_host}/acme/site:1", **told)
            assert done.code == 0, done
    logins = [each.header("x-registry-auth") or "" for each in engine.received if "create" in each.line]
    first, second = (json.loads(base64.urlsafe_b64decode(login)) if login else {} for login in logins)
    assert (first["username"], first["password"]) == ("USER", PASSWORD)
    assert "password" not in second
    assert programs.traces() == []
