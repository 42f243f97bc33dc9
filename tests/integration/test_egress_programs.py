"""Programs that know nothing of the broker use a key through the proxy, with the run's token in its place."""

import asyncio
import base64
import json
from pathlib import Path

from egress_upstream import Authority, Received, answer
from egress_workbench import ROUTE, SECRET, VALUE, Bench, open_bench

GIT = """\
    git:
      upstream: https://localhost:{port}
      secret: openai.api_key
      send: {{basic: {{user: x-access-token}}}}
      allow: [{{method: GET, path: /acme/site.git/info/refs}}]
      ca_file: {ca}
      allow_private: [127.0.0.0/8, '::1/128']
"""


async def run(*command: str, **variables: str) -> tuple[int, str]:
    """Run a program with these variables alone; its exit code and all that it printed."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "GIT_TERMINAL_PROMPT": "0", **variables},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode or 0, out.decode()


async def test_openais_sdk(bench: Bench) -> None:
    """`OPENAI_BASE_URL` and the token as the key: answers, streams and refusals are those that the SDK knows."""
    import openai  # noqa: PLC0415  # half a second, which every process of pytest would take to collect the tests

    said = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
    message = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hello"}}
    whole = json.dumps({**said, "choices": [message]}).encode()
    parts = [{"index": 0, "delta": {"content": text}} for text in ("hel", "lo")]
    events = b"".join(
        b"data: " + json.dumps({**said, "object": "chat.completion.chunk", "choices": [part]}).encode() + b"\n\n"
        for part in parts
    )

    async def complete(request: Received, writer: asyncio.StreamWriter) -> None:
        assert request.header("authorization") == f"Bearer {VALUE}"
        if json.loads(request.body).get("stream"):
            writer.write(answer(events + b"data: [DONE]\n\n", "Content-Type: text/event-stream"))
        else:
            writer.write(answer(whole, "Content-Type: application/json"))

    bench.upstream.behave["/v1/chat/completions"] = complete
    async with openai.AsyncOpenAI(
        base_url=f"{bench.address}/openai/v1", api_key=bench.run.token, max_retries=0
    ) as client:
        asked: dict[str, object] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        got = await client.chat.completions.create(**asked)  # type: ignore[call-overload]  # one of many overloads
        assert got.choices[0].message.content == "hello"
        stream = await client.chat.completions.create(**asked, stream=True)  # type: ignore[call-overload]  # as above
        assert "".join([chunk.choices[0].delta.content async for chunk in stream]) == "hello"
        bench.desk.revoke(SECRET)
        try:
            await client.chat.completions.create(**asked)  # type: ignore[call-overload]  # as above
        except openai.PermissionDeniedError as error:
            assert error.body == {  # noqa: PT017  # what the agent's author reads
                "type": "about:blank",
                "title": "Forbidden",
                "status": 403,
                "detail": "this run, or what it held, was revoked",
                "code": "revoked",
            }
        else:
            raise AssertionError


async def test_curl_and_git(tmp_path: Path, authority: Authority) -> None:
    """curl sends the token as a header, git as the password of its URL, and both get what the key gets."""
    async with open_bench(tmp_path, authority, text=ROUTE + GIT) as bench:
        url, token = bench.address, bench.run.token
        code, said = await run("curl", "-sS", "-f", f"{url}/openai/v1/f", "-H", f"x-api-key: {token}", "-d", "hello")
        assert (code, said) == (0, "echo:hello")
        code, said = await run("curl", "-sS", "-f", f"{url}/openai/v2/f", "-H", f"x-api-key: {token}")
        assert (code, "403" in said) == (22, True)
        refs = b"0123456789012345678901234567890123456789\trefs/heads/main\n"
        bench.upstream.says("/acme/site.git/info/refs", answer(refs, "Content-Type: text/plain"))
        place = url.replace("http://", f"http://run:{token}@") + "/git/acme/site.git"
        code, said = await run("git", "ls-remote", place)
        assert (code, said) == (0, refs.decode())
        expected = base64.b64encode(f"x-access-token:{VALUE}".encode()).decode()
        assert bench.upstream.received[-1].header("authorization") == f"Basic {expected}"
        code, said = await run("git", "ls-remote", place.replace("site", "other"))
        assert code != 0
        assert token not in said
