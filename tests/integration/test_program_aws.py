"""AWS's command line itself signs with what `credential_process` says, as documented."""

import hashlib
import hmac
import json
import re

from egress_upstream import Received, Upstream, answer
from program_bench import Bench, documented, program, value

ACCESS, SECRET, SESSION = "AKIACANARYCANARY", value("aws.deploy"), "session-canary"
IDENTITY = (
    b'<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>'
    b"<Arn>arn:aws:iam::123456789012:user/deploy</Arn><UserId>U</UserId><Account>123456789012</Account>"
    b"</GetCallerIdentityResult></GetCallerIdentityResponse>"
)
CALL = ("sts", "get-caller-identity", "--profile", "deploy", "--region", "eu-central-1", "--output", "json")


def configure(programs: Bench) -> None:
    """The documented file, and a secret in the form of AWS's own files."""
    programs.write(".aws/config", documented("conventions.md", "## AWS's command line and SDKs\n", "ini"))
    parts = {"aws_access_key_id": ACCESS, "aws_secret_access_key": SECRET, "aws_session_token": SESSION}
    programs.vault.values["local://aws.deploy"] = json.dumps(parts).encode()


def signature(request: Received, secret: str) -> tuple[str, str]:
    """The signature that a request has, and the one that it should have (AWS Signature Version 4)."""
    found = re.search(
        r"Credential=[^/]+/(\S+), SignedHeaders=(\S+), Signature=(\w+)", request.header("authorization") or ""
    )
    assert found is not None
    scope, names, shown = found.groups()
    method, path, _ = request.line.split(" ")
    headers = "".join(f"{name}:{request.header(name)}\n" for name in names.split(";"))
    asked = "\n".join((method, path, "", headers, names, hashlib.sha256(request.body).hexdigest()))
    day = request.header("x-amz-date")
    text = f"AWS4-HMAC-SHA256\n{day}\n{scope}\n{hashlib.sha256(asked.encode()).hexdigest()}"
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return shown, hmac.digest(key, text.encode(), "sha256").hex()


async def test_it_signs_with_what_the_broker_has(programs: Bench) -> None:
    """The signature is that of the secret key, which is in no file of AWS's."""
    configure(programs)
    async with Upstream() as upstream:
        upstream.says("/", answer(IDENTITY, "Content-Type: text/xml"))
        url = f"http://127.0.0.1:{upstream.port}"
        done = await programs.run(program("aws"), *CALL, "--endpoint-url", url)
    assert done.code == 0, done
    assert json.loads(done.output)["Account"] == "123456789012"
    (request,) = upstream.received
    shown, right = signature(request, SECRET)
    assert shown == right
    assert f"Credential={ACCESS}/" in (request.header("authorization") or "")
    assert request.header("x-amz-security-token") == SESSION
    assert {asked[:2] for asked in programs.asked()} == {("claude", "aws.deploy")}
    assert programs.traces() == []


async def test_it_calls_nobody_when_the_broker_refuses(programs: Bench) -> None:
    """And says why in the broker's words."""
    configure(programs)
    programs.lend("codex")
    async with Upstream() as upstream:
        url = f"http://127.0.0.1:{upstream.port}"
        done = await programs.run(program("aws"), *CALL, "--endpoint-url", url)
    assert done.code != 0
    assert "aws.deploy: denied" in done.errors
    assert upstream.received == []
