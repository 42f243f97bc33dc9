"""git itself clones and pushes over HTTPS: with its credential helper as documented, and through the egress proxy."""

import asyncio
import base64
import os
from pathlib import Path

from egress_upstream import Authority, Received, Upstream, answer
from program_bench import Bench, Done, documented, program, proxied, value

TOKEN = value("github.read_token")
LOGIN = "Basic " + base64.b64encode(f"x-access-token:{TOKEN}".encode()).decode()
GIT = ("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main")
ROUTES = documented("egress.md", "Routes for what agents use most:", "yaml")
SECTIONS = ("credential.https://github.example", "credential")
SERVICES = ("info/refs", "git-upload-pack", "git-receive-pack")


def host_repository(upstream: Upstream, root: Path) -> None:
    """Have an upstream serve `acme/site.git` by git's own `http-backend` to who logs in."""

    async def behave(request: Received, writer: asyncio.StreamWriter) -> None:
        if request.header("authorization") != LOGIN:
            writer.write(answer(b"", 'WWW-Authenticate: Basic realm="tests"', status="401 Unauthorized"))
            return
        method, target, _ = request.line.split(" ")
        path, _, query = target.partition("?")
        told = {"GIT_PROJECT_ROOT": str(root), "GIT_HTTP_EXPORT_ALL": "1", "REMOTE_USER": "t", "PATH_INFO": path}
        told |= {"REQUEST_METHOD": method, "QUERY_STRING": query, "CONTENT_LENGTH": str(len(request.body))}
        told |= {"CONTENT_TYPE": request.header("content-type") or "", "PATH": os.environ["PATH"]}
        told |= {"HTTP_CONTENT_ENCODING": request.header("content-encoding") or ""}
        told |= {"GIT_PROTOCOL": request.header("git-protocol") or "", "GIT_CONFIG_NOSYSTEM": "1", "HOME": str(root)}
        pipe = asyncio.subprocess.PIPE
        git = await asyncio.create_subprocess_exec("git", "http-backend", stdin=pipe, stdout=pipe, env=told)
        output, _ = await git.communicate(request.body)
        head, _, body = output.partition(b"\r\n\r\n")
        headers = [line for line in head.decode().split("\r\n") if not line.startswith("Status: ")]
        writer.write(answer(body, *headers))

    for service in SERVICES:
        upstream.behave[f"/acme/site.git/{service}"] = behave


async def git(programs: Bench, *arguments: str, **environ: str) -> Done:
    """Run git, which may ask nobody."""
    return await programs.run(program("git"), *GIT[1:], *arguments, GIT_TERMINAL_PROMPT="0", **environ)


async def make_repository(programs: Bench) -> Path:
    """A bare repository with one commit that takes pushes; the folder that it is served from."""
    root = programs.folder.parent / "served"
    there = str(root / "acme/site.git")
    assert (await git(programs, "init", "-q", "--bare", there)).code == 0
    assert (await git(programs, "init", "-q", "first")).code == 0
    assert (await git(programs, "-C", "first", "commit", "-q", "--allow-empty", "-m", "one")).code == 0
    assert (await git(programs, "-C", "first", "push", "-q", there, "main")).code == 0
    return root


async def configure(programs: Bench, host: str) -> None:
    """Type the documented lines, for a host of this machine."""
    lines = documented("conventions.md", "## git\n", "console").replace("$ ", "").replace("github.com", host)
    assert host in lines
    done = await programs.run("sh", "-c", lines)
    assert done.code == 0, done


async def test_it_clones_and_pushes_with_what_the_broker_has(programs: Bench, authority: Authority) -> None:
    """The server is shown the documented login and no other; the token is in no file, neither git's nor the clone's."""
    root = await make_repository(programs)
    async with Upstream(authority.server("localhost")) as upstream:
        host_repository(upstream, root)
        host = f"localhost:{upstream.port}"
        await configure(programs, host)
        trust = {"GIT_SSL_CAINFO": str(authority.file)}
        cloned = await git(programs, "clone", "-q", f"https://{host}/acme/site.git", "site", **trust)
        assert cloned.code == 0, cloned
        await git(programs, "-C", "site", "commit", "-q", "--allow-empty", "-m", "two")
        pushed = await git(programs, "-C", "site", "push", "-q", **trust)
        assert pushed.code == 0, pushed
    assert {each.header("authorization") for each in upstream.received} == {None, LOGIN}
    log = await git(programs, "-C", str(root / "acme/site.git"), "log", "--format=%s")
    assert log.output.split() == ["two", "one"]
    assert programs.traces() == []
    assert set(programs.asked()) == {("claude", "github.read_token", "git")}


async def test_it_shows_the_password_to_no_other_host(programs: Bench, authority: Authority) -> None:
    """Even if git is told to ask our helper for every host: `--host` says for which it answers."""
    async with Upstream(authority.server("localhost")) as upstream:
        host_repository(upstream, programs.folder)
        await configure(programs, "github.example")
        everywhere = await git(programs, "config", "--global", "--rename-section", *SECTIONS)
        assert everywhere.code == 0, everywhere
        trust = {"GIT_SSL_CAINFO": str(authority.file)}
        done = await git(programs, "ls-remote", f"https://localhost:{upstream.port}/acme/site.git", **trust)
    assert done.code != 0
    assert {each.header("authorization") for each in upstream.received} == {None}
    assert programs.asked() == []


async def test_it_clones_through_the_proxy_and_never_has_the_token(programs: Bench, authority: Authority) -> None:
    """The documented line, in a run that may not have the value; what the route does not allow, a push, is refused."""
    programs.lend("guest")
    root = await make_repository(programs)
    async with Upstream(authority.server("localhost")) as upstream:
        host_repository(upstream, root)
        async with proxied(programs, authority, upstream, ROUTES) as url:
            lines = documented("egress.md", "for this run and until the run ends or is revoked.", "sh")
            (line,) = [each for each in lines.splitlines() if each.startswith("git clone")]
            done = await programs.run("sh", "-c", line.replace("127.0.0.1:7720", url.removeprefix("http://")))
            assert done.code == 0, done
            await git(programs, "-C", "site", "commit", "-q", "--allow-empty", "-m", "two")
            pushed = await git(programs, "-C", "site", "push", "-q")
            assert pushed.code != 0
            assert "403" in pushed.errors
    log = await git(programs, "-C", "site", "log", "--format=%s")
    assert log.output.split() == ["two", "one"]
    assert {each.header("authorization") for each in upstream.received} == {LOGIN}
    assert programs.traces() == []
