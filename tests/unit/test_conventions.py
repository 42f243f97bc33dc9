"""Other programs' protocols: what they say is read strictly, and only what they are meant to have is answered."""

import asyncio
import errno
import json
import os
import socket
import struct
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from agent_sdk import InvalidRequest, Secret
from agent_sdk.cli import main
from agent_sdk.cli.docker_credential import docker_credential
from agent_sdk.conventions import aws, docker, git, ssh_agent
from agent_sdk.conventions.ssh_serving import SigningServer
from agent_sdk.source import AsyncSecretSource, SecretSource
from agent_sdk.testing import FakeAsyncSecretBroker, FakeDesk, FakeSecretBroker

VALUE = "canary-value-7f3a"
HOUR = 1_900_000_000_000


def secret(value: str | bytes = VALUE, name: str = "github.token") -> Secret:
    """A secret that ends at a known time."""
    return Secret(name, value.encode() if isinstance(value, str) else value, expires_at=HOUR)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("protocol=https\nhost=github.com\n\nrest=ignored\n", {"protocol": "https", "host": "github.com"}),
        ("a=1\na=2\nwwwauth[]=Basic\nb=c=d", {"a": "2", "b": "c=d"}),
        ("", {}),
    ],
)
def test_gits_description_is_read_to_its_end(text: str, expected: dict[str, str]) -> None:
    """Keys may come again, values may hold `=`."""
    assert git.parse_description(text.encode()) == expected


@pytest.mark.parametrize("text", ["host", "=x", "a=\0", "x" * 65_537, "host=evil.example\rhost=github.com"])
def test_what_git_would_never_say_is_refused_and_not_repeated(text: str) -> None:
    """Whoever calls the helper by hand is told the line."""
    with pytest.raises(InvalidRequest) as caught:
        git.parse_description(text.encode())
    assert text[:40] not in str(caught.value) or len(text) < 3 or text == "host"


@pytest.mark.parametrize("end", [b"\r", b"\x0b", b"\xc2\x85", b"\xe2\x80\xa8"])
def test_a_url_cannot_bring_a_host_of_its_own_into_gits_description(
    end: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but a line feed ends a line, on a terminal's standard input as well."""
    asked: list[str] = []
    monkeypatch.setattr("agent_sdk.cli.git_credential.ask_for", lambda name, **_: asked.append(name))
    command = ["git-credential", "--host", "github.com", "--secret", "github.token", "get"]
    description = b"protocol=https\nhost=evil.example" + end + b"host=github.com\n\n"
    result = CliRunner().invoke(main, command, input=description)
    assert (asked, result.stdout) == ([], "")


def test_git_asks_nobody_else_whatever_went_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that is no text, or a run without a credential, included."""
    command = ["git-credential", "--host", "github.com", "--secret", "github.token", "get"]
    for name in [name for name in os.environ if name.startswith("SECRET_BROKER_")]:
        monkeypatch.delenv(name)
    result = CliRunner().invoke(main, command, input=b"protocol=https\nhost=github.com\n\n")
    assert (result.exit_code, result.stdout) == (7, "quit=1\n")
    monkeypatch.setattr("agent_sdk.cli.git_credential.ask_for", lambda name, **_: {name: secret(b"\xff", name)})
    result = CliRunner().invoke(main, command, input=b"protocol=https\nhost=github.com\n\n")
    assert (result.exit_code, result.stdout) == (1, "quit=1\n")


def test_git_gets_the_bytes_of_a_value_in_any_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    """A password with an umlaut is UTF-8 to the server, whatever the encoding of standard output."""
    monkeypatch.setattr("agent_sdk.cli.git_credential.ask_for", lambda name, **_: {name: secret("k\u00fc", name)})
    command = ["git-credential", "--host", "github.com", "--secret", "github.token", "get"]
    result = CliRunner(charset="latin-1").invoke(main, command, input=b"protocol=https\nhost=github.com\n\n")
    assert b"password=k\xc3\xbc\n" in result.stdout_bytes


def test_docker_that_asks_for_bytes_that_are_no_text_is_told_that_there_is_nothing() -> None:
    """And not that this is a defect of ours."""
    result = CliRunner().invoke(docker_credential, ["get"], input=b"\xff\xfe")
    assert (result.exit_code, result.stdout) == (1, f"{docker.NOT_FOUND}\n")


@pytest.mark.parametrize(
    ("protocol", "host", "expected"),
    [
        ("https", "github.com", True),
        ("https", "GitHub.com", True),
        ("https", "evil.example", False),
        ("https", "github.com.evil.example", False),
        ("https", "github.com:8443", False),
        ("http", "github.com", False),
        ("http", "127.0.0.1:3000", True),
        ("ssh", "github.com", False),
        ("", "", False),
    ],
)
def test_git_gets_a_credential_only_for_the_named_hosts_and_where_nobody_reads_along(
    protocol: str, host: str, expected: bool
) -> None:
    """Plain http only to this machine itself."""
    assert git.covers({"protocol": protocol, "host": host}, ["github.com", "127.0.0.1:3000"]) == expected


def test_git_is_told_when_the_password_ends() -> None:
    """So that no cache of git's keeps it longer."""
    assert git.credential("me", secret()) == f"username=me\npassword={VALUE}\npassword_expiry_utc=1900000000\n"
    with pytest.raises(InvalidRequest) as caught:
        git.credential("me", secret("two\nlines"))
    assert "two" not in str(caught.value)


def test_docker_is_answered_for_the_registries_that_the_variable_names() -> None:
    """As a host or as an https URL."""
    registries = docker.parse_registries("ghcr.io=me:github.packages index.docker.io=you:hub.token\n r:5000=a:b:reg.x")
    assert [(each.username, each.secret) for each in registries.values()] == [
        ("me", "github.packages"),
        ("you", "hub.token"),
        ("a:b", "reg.x"),
    ]
    for server in ("ghcr.io", "GHCR.io/path", "https://ghcr.io", "https://ghcr.io/v1/\n"):
        assert docker.registry_of(server, registries) == registries["ghcr.io"]
    others = ("http://ghcr.io", "ghcr.io.evil", "https://evil/ghcr.io", "", "https://ghcr.io@evil/", "https://[ghcr.io")
    for server in others:
        assert docker.registry_of(server, registries) is None
    answer = json.loads(docker.credential("ghcr.io\n", registries["ghcr.io"], secret()))
    assert answer == {"ServerURL": "ghcr.io", "Username": "me", "Secret": VALUE}
    assert json.loads(docker.listing(registries))["https://ghcr.io"] == "me"


@pytest.mark.parametrize("text", ["ghcr.io", "ghcr.io=me", "=me:a", "ghcr.io=:a", "ghcr.io=me:A", "a=b:c d"])
def test_a_mistake_in_the_variable_is_named_with_its_place(text: str) -> None:
    """And not repeated."""
    with pytest.raises(InvalidRequest, match=r"SECRET_AGENT_DOCKER: entry [12] is not of the form"):
        docker.parse_registries(text)


@pytest.mark.parametrize(
    "keys",
    [
        ("AccessKeyId", "SecretAccessKey", "SessionToken"),
        ("aws_access_key_id", "aws_secret_access_key", "aws_session_token"),
        ("access_key", "secret_key", "security_token"),
    ],
)
def test_aws_reads_credentials_whatever_the_vault_calls_their_parts(keys: tuple[str, str, str]) -> None:
    """AWS's names, those of its files, and those of Vault's AWS engine."""
    value = json.dumps(dict(zip(keys, ("AKIA1", VALUE, "token"), strict=True)))
    assert json.loads(aws.credential_of_one(secret(value))) == {
        "Version": 1,
        "AccessKeyId": "AKIA1",
        "SecretAccessKey": VALUE,
        "SessionToken": "token",
        "Expiration": "2030-03-17T17:46:40Z",
    }


@pytest.mark.parametrize("value", [VALUE, "[]", '{"AccessKeyId": "a"}', '{"AccessKeyId": 1, "SecretAccessKey": "b"}'])
def test_what_holds_no_aws_credentials_is_refused_without_showing_it(value: str) -> None:
    """The message names the secret and what is missing."""
    with pytest.raises(InvalidRequest, match=r"github\.token") as caught:
        aws.credential_of_one(secret(value))
    assert VALUE not in str(caught.value)


def test_aws_parts_may_be_secrets_of_their_own() -> None:
    """The first that ends, ends all."""
    early = Secret("id", b"AKIA1", expires_at=HOUR - 60_000)
    answer = json.loads(aws.credential_of_parts(early, secret()))
    assert answer["Expiration"] == datetime.fromtimestamp(HOUR / 1000 - 60, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert "SessionToken" not in answer


def openssh(key: Any) -> bytes:
    """A private key as `ssh-keygen` writes it."""
    form = serialization.PrivateFormat.OpenSSH
    return bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))


KEYS: dict[str, ssh_agent.PrivateKey] = {
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
    "rsa": rsa.generate_private_key(65537, 2048),
    "ecdsa": ec.generate_private_key(ec.SECP256R1()),
}


@pytest.mark.parametrize("kind", KEYS)
def test_keys_are_read_and_listed(kind: str) -> None:
    """In OpenSSH's form and in PKCS #8, with or without the last line feed."""
    key = KEYS[kind]
    pkcs8 = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    identities = {
        ssh_agent.identity_of(ssh_agent.load_private_key(text, "k"), "k") for text in (openssh(key), pkcs8.rstrip())
    }
    (identity,) = identities
    answer = ssh_agent.answer(b"\x0b", [identity], lambda *_: b"")
    assert answer[:5] == b"\x0c\x00\x00\x00\x01"
    assert identity.blob in answer


def test_what_is_no_key_is_refused_without_showing_it() -> None:
    """Among it kinds that nobody should sign with any more, and keys that need a passphrase."""
    old = dsa.generate_private_key(1024).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    locked = KEYS["ed25519"].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"pass")
    )
    for value in (VALUE.encode(), b"", b"-----BEGIN OPENSSH PRIVATE KEY-----\n" + VALUE.encode(), old, locked):
        with pytest.raises(InvalidRequest, match=r"the value of deploy\.key is no") as caught:
            ssh_agent.load_private_key(value, "deploy.key")
        assert VALUE not in str(caught.value)


@given(message=st.binary(max_size=64))
def test_no_message_breaks_the_agent(message: bytes) -> None:
    """What is not understood is a failure, and nothing is signed for it."""
    identity = ssh_agent.identity_of(KEYS["ed25519"], "k")
    signed: list[bytes] = []

    def sign(_: ssh_agent.Identity, data: bytes, flags: int) -> bytes:
        signed.append(data)
        return b"s"

    answer = ssh_agent.answer(message, [identity], sign)
    assert answer == ssh_agent.FAILURE or message[:1] == b"\x0b"
    assert signed == []


def test_only_listed_keys_sign_and_nothing_can_be_added() -> None:
    """Every other request of the protocol is refused."""
    mine, other = (ssh_agent.identity_of(KEYS[kind], kind) for kind in ("ed25519", "ecdsa"))

    def request(identity: ssh_agent.Identity) -> bytes:
        return b"\x0d" + b"".join(struct.pack(">I", len(part)) + part for part in (identity.blob, b"data")) + bytes(4)

    assert ssh_agent.answer(request(mine), [mine], lambda *_: b"sig") == b"\x0e\x00\x00\x00\x03sig"
    assert ssh_agent.answer(request(other), [mine], lambda *_: b"sig") == ssh_agent.FAILURE
    for kind in (*range(11), 12, *range(14, 256)):
        assert ssh_agent.answer(bytes([kind]) + request(mine)[1:], [mine], lambda *_: b"sig") == ssh_agent.FAILURE


def test_a_callable_asks_once_and_again_when_it_must() -> None:
    """While the value is lent it is the same; what is revoked or rotated is asked for anew."""
    desk = FakeDesk({"openai.api_key": VALUE})
    with FakeSecretBroker(desk=desk) as broker:
        source = broker.source("openai.api_key", purpose="chat")
        assert isinstance(source, SecretSource)
        assert repr(source) == "SecretSource('openai.api_key')"
        assert [source(), source()] == [VALUE, VALUE]
        assert [(each.names, each.purpose) for each in desk.requests] == [(("openai.api_key",), "chat")]
        desk.values["openai.api_key"] = "newer"
        held = source._secret
        assert held is not None
        broker.release(held)
        assert source() == "newer"


def test_a_callable_asks_again_before_the_value_ends() -> None:
    """What is begun with it should not outlive it."""
    desk = FakeDesk({"a": VALUE})
    with FakeSecretBroker(desk=desk) as broker:
        source = broker.source("a", ttl=5)
        source()
        source()
    assert len(desk.requests) == 2


async def test_an_asynchronous_client_has_one_as_well() -> None:
    """A coroutine function."""
    async with FakeAsyncSecretBroker({"a": VALUE}) as broker:
        source = broker.source("a")
        assert isinstance(source, AsyncSecretSource)
        assert await source() == await source() == VALUE
        assert len(broker.desk.requests) == 1
        assert VALUE not in repr(source)


async def test_tasks_that_start_at_once_ask_once() -> None:
    """As threads do."""
    async with FakeAsyncSecretBroker({"a": VALUE}) as broker:
        source = broker.source("a")
        assert await asyncio.gather(*(source() for _ in range(8))) == [VALUE] * 8
        assert len(broker.desk.requests) == 1


def exchange(path: Path, *messages: bytes) -> list[bytes]:
    """What an SSH agent answers to messages on one connection."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(path))
        told = []
        for message in messages:
            client.sendall(struct.pack(">I", len(message)) + message)
            (size,) = struct.unpack(">I", client.recv(4, socket.MSG_WAITALL))
            told.append(client.recv(size, socket.MSG_WAITALL))
        return told


def sign_request(identity: ssh_agent.Identity) -> bytes:
    """A request for a signature over `data`."""
    return b"\x0d" + b"".join(struct.pack(">I", len(part)) + part for part in (identity.blob, b"data")) + bytes(4)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no such sockets here")
def test_an_agent_goes_on_after_a_key_that_cannot_sign_and_a_client_that_has_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its clients are told that it failed, and nobody what the library said."""
    good, bad = (ssh_agent.identity_of(KEYS[kind], kind) for kind in ("ed25519", "ecdsa"))
    sources = {
        kind: SecretSource(lambda kind=kind: Secret(kind, openssh(KEYS[kind]), expires_at=HOUR), kind)  # type: ignore[misc]  # a default
        for kind in ("ed25519", "ecdsa")
    }
    signature = ssh_agent.signature

    def failing(key: ssh_agent.PrivateKey, data: bytes, flags: int) -> bytes:
        if hasattr(key, "curve"):
            raise ValueError(VALUE)
        return signature(key, data, flags)

    monkeypatch.setattr("agent_sdk.conventions.ssh_serving.signature", failing)
    accept, errors = socket.socket.accept, iter([errno.ECONNABORTED, errno.EMFILE])

    def troubled(self: socket.socket) -> Any:
        number = next(errors, None)
        if number is not None:
            raise OSError(number, "passing")
        return accept(self)

    monkeypatch.setattr(socket.socket, "accept", troubled)
    path = tmp_path / "agent.sock"
    with SigningServer([(good, sources["ed25519"]), (bad, sources["ecdsa"])]) as server:
        server.listen(path)
        failed, signed = exchange(path, sign_request(bad), sign_request(good))
    assert (failed, signed[:1]) == (ssh_agent.FAILURE, b"\x0e")
    assert "ValueError" in caplog.text
    assert VALUE not in caplog.text


def test_a_socket_whose_path_is_too_long_says_what_to_do(tmp_path: Path) -> None:
    """Instead of being told as a defect."""
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    with SigningServer([]) as server, pytest.raises(OSError, match="choose a shorter TMPDIR"):
        server.listen(folder / "agent.sock")


@pytest.mark.parametrize("line", [b"ssh-ed25519 \xff\xfe x", "ssh-ed25519 \u00fc\u00fc\u00fc\u00fc x".encode(), b""])
def test_a_file_that_is_no_public_key_is_said_to_be_none(
    line: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever bytes it has: it is the caller's mistake, and no defect."""
    (tmp_path / "key.pub").write_bytes(line)
    monkeypatch.setattr("agent_sdk.cli.ssh_agent.SecretBroker", lambda timeout: FakeSecretBroker())
    result = CliRunner().invoke(main, ["ssh-agent", "--key", f"a.key={tmp_path}/key.pub", "--", "true"])
    assert result.exit_code == 2
    assert "this is no line of an SSH public key" in result.stderr
