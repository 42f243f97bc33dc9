"""AWS in trouble: each kind told apart, nobody else held up, and no value in anything that is said."""

import asyncio
import logging
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from aws_server import REGION, AwsServer, Fault, answer_of, aws_server, refusal_of
from provider_conformance import CANARY, failure_of
from vault_workbench import StateNotebook, hardened

from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.ports import Fetched
from broker_worker.providers.aws_client import CONCURRENCY, AwsSettings
from broker_worker.providers.aws_credentials import fingerprint_of
from broker_worker.providers.aws_parameter_store import ParameterStoreProvider
from broker_worker.providers.aws_secrets_manager import SecretsManagerProvider

K = FailureKind
QUICK = 0.4
"""A timeout that tests can wait for, in seconds."""


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[AwsServer]:
    """A server whose errors all say a secret value."""
    with aws_server(monkeypatch, says=CANARY) as server:
        yield server


TROUBLE = [
    (Fault("ResourceNotFoundException"), K.NOT_FOUND),
    (Fault("AccessDeniedException"), K.FORBIDDEN),
    (Fault("ExpiredTokenException"), K.UNAUTHENTICATED),
    (Fault("UnrecognizedClientException"), K.UNAUTHENTICATED),
    (Fault("ThrottlingException", headers={"x-amz-retry-after": "40"}), K.RATE_LIMITED),
    (Fault("DecryptionFailure"), K.FORBIDDEN),
    (Fault("InvalidRequestException"), K.NOT_FOUND),
    (Fault("InternalServiceError", 500), K.UNREACHABLE),
    (Fault(status=503, body=b"<html>%s</html>" % CANARY.encode()), K.UNREACHABLE),
    (Fault(status=403, body=b"<html>%s</html>" % CANARY.encode()), K.UNKNOWN),
    (Fault(status=200, body=b"<html>%s</html>" % CANARY.encode()), K.UNKNOWN),
    (Fault(status=200, body=b'["%s"]' % CANARY.encode()), K.UNKNOWN),
    (Fault(status=200, body=b"{}"), K.UNKNOWN),
    (Fault(status=302, headers={"Location": "http://127.0.0.1:1/"}), K.UNKNOWN),
]


@pytest.mark.parametrize("trouble", TROUBLE, ids=lambda trouble: f"{trouble[0].status} {trouble[0].code}")
@pytest.mark.parametrize(
    ("kind", "ref"), [(SecretsManagerProvider, "aws-sm://a"), (ParameterStoreProvider, "aws-ssm:///a")]
)
async def test_each_trouble_has_its_kind(
    aws: AwsServer,
    kind: type[SecretsManagerProvider] | type[ParameterStoreProvider],
    ref: str,
    trouble: tuple[Fault, FailureKind],
) -> None:
    """As botocore makes it of what comes over the wire; AWS's text, which holds a value here, is not repeated."""
    provider = kind(aws.settings())
    aws.fail_always("*", trouble[0])
    error = await refusal_of(provider, ref)
    assert error.kind is trouble[1]
    if error.kind is K.RATE_LIMITED:
        assert error.retry_after == 40
    await provider.close()


async def test_a_closed_port_is_unreachable(aws: AwsServer) -> None:
    """With a hint where to look."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    provider = SecretsManagerProvider(AwsSettings(REGION, None, f"http://127.0.0.1:{port}", 10))
    error = await refusal_of(provider, "aws-sm://a")
    assert (error.kind, "network" in error.hint) == (K.UNREACHABLE, True)
    await provider.close()


async def test_no_tls_where_it_should_be_is_unreachable(aws: AwsServer) -> None:
    """A server in the clear behind an https:// address gets no request."""
    provider = SecretsManagerProvider(AwsSettings(REGION, None, aws.url.replace("http:", "https:"), 10))
    error = await refusal_of(provider, "aws-sm://a")
    assert (error.kind, aws.asked) == (K.UNREACHABLE, [])
    assert "no safe connection" in str(error)
    await provider.close()


async def test_an_aws_that_hangs_is_given_up(aws: AwsServer) -> None:
    """Calls end at their deadline, also those that waited for their turn."""
    aws.fail_always("*", Fault(hangs=True))
    provider = SecretsManagerProvider(aws.settings(QUICK))
    calls = [refusal_of(provider, f"aws-sm://s{number}") for number in range(4 * CONCURRENCY)]
    assert {error.kind for error in await asyncio.gather(*calls)} == {K.TIMEOUT}
    await provider.close()


async def test_an_aws_that_hangs_holds_up_nobody_else(aws: AwsServer) -> None:
    """Whoever needs a thread for another vault gets one meanwhile."""
    aws.fail_always("*", Fault(hangs=True))
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    provider = SecretsManagerProvider(aws.settings())
    call = asyncio.ensure_future(answer_of(provider, "aws-sm://a"))
    with ThreadPoolExecutor(1) as another:
        await asyncio.get_running_loop().run_in_executor(another, aws.wait_for, "GetSecretValue", 1)
    assert await asyncio.wait_for(asyncio.to_thread(lambda: 7), 3) == 7
    assert not call.done()
    aws.release()
    assert isinstance(await call, ProviderError)
    await provider.close()


async def test_without_credentials_it_says_where_they_could_come_from(
    aws: AwsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `health` and as the failure of a call; nothing is sent."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    provider = SecretsManagerProvider(aws.settings())
    error = await refusal_of(provider, "aws-sm://a")
    assert error.kind is K.UNAUTHENTICATED
    health = await provider.health()
    assert (health.ok, "AWS_ACCESS_KEY_ID" in health.hint) == (False, True)
    assert aws.asked == []
    await provider.close()


async def test_without_a_region_it_says_how_to_name_one(aws: AwsServer) -> None:
    """There is no default."""
    provider = ParameterStoreProvider(AwsSettings(None, None, aws.url))
    health = await provider.health()
    assert (health.ok, "no AWS region" in health.detail, "region:" in health.hint) == (False, True, True)
    await provider.close()


@pytest.mark.parametrize("config", ["[profile other]\n", "[profile mine\n"])
async def test_a_profile_that_is_not_there_is_named_as_the_cause(
    aws: AwsServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, config: str
) -> None:
    """Also where AWS's configuration cannot be read at all."""
    (tmp_path / "config").write_text(config)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    provider = SecretsManagerProvider(AwsSettings(REGION, "mine", aws.url))
    assert "profile" in str(await refusal_of(provider, "aws-sm://a"))
    await provider.close()


async def test_a_program_that_gives_no_credentials_is_not_quoted(
    aws: AwsServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What it writes to stderr may hold anything, and botocore repeats it."""
    (tmp_path / "config").write_text(f'[profile mine]\ncredential_process = sh -c "echo {CANARY} >&2; exit 1"\n')
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    provider = SecretsManagerProvider(AwsSettings(REGION, "mine", aws.url))
    error = await refusal_of(provider, "aws-sm://a")
    assert (error.kind, "cannot be got" in str(error)) == (K.UNAUTHENTICATED, True)
    await provider.close()


async def test_refused_credentials_are_not_tried_for_everything_that_waits(aws: AwsServer) -> None:
    """However many secrets are asked for, the refusal of those under way answers the others."""
    aws.fail_always("BatchGetSecretValue", Fault("AccessDeniedException"))
    provider = SecretsManagerProvider(aws.settings())
    await provider.get_many(["aws-sm://a", "aws-sm://b"])
    aws.fail_always("*", Fault("ExpiredTokenException"))
    before = len(aws.asked)
    error = await failure_of(provider.get_many([f"aws-sm://s{number}" for number in range(5 * CONCURRENCY)]))
    assert "expired" in str(error)
    assert len(aws.asked) - before <= CONCURRENCY
    await provider.close()


async def test_mended_credentials_count_at_once_and_others_soon(
    aws: AwsServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file that the operator mended ends the wait; what mends itself, as a role does, is tried within a minute."""
    aws.add_secret("a", "x")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    states = StateNotebook()
    provider = hardened(SecretsManagerProvider(aws.settings()), states)
    for wait in (1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000):
        assert (await failure_of(provider.get_many(["aws-sm://a"]))).kind is K.UNAUTHENTICATED
        waiting = await failure_of(provider.get_many(["aws-sm://a"]))
        assert waiting.retry_after == wait
        states.now += wait
    assert (await failure_of(provider.get_many(["aws-sm://a"]))).kind is K.UNAUTHENTICATED
    (tmp_path / "credentials").write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n")
    assert isinstance((await provider.get_many(["aws-sm://a"]))["aws-sm://a"], Fetched)
    await provider.close()


@pytest.mark.parametrize(
    "change",
    [
        {"AWS_ACCESS_KEY_ID": "AKIAOTHER"},
        {"AWS_SESSION_TOKEN": "other"},
        {"AWS_CONFIG_FILE": "config"},
        {"AWS_WEB_IDENTITY_TOKEN_FILE": "config"},
        {"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "config"},
    ],
)
def test_a_fingerprint_tells_credentials_apart_and_shows_none(tmp_path: Path, change: dict[str, str]) -> None:
    """By variables and by what files hold; a file that is replaced counts, wherever boto3 would read it."""
    (tmp_path / "config").write_text("[default]\n")
    change = {name: str(tmp_path / value) if value == "config" else value for name, value in change.items()}
    before = {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": CANARY, "HOME": "/nonexistent"}
    first = fingerprint_of(None, bytes(16), before)
    assert fingerprint_of(None, bytes(16), {**before, **change}) != first == fingerprint_of(None, bytes(16), before)
    assert len({fingerprint_of(None, bytes(range(16)), before), fingerprint_of("a", bytes(16), before), first}) == 3
    written = fingerprint_of(None, bytes(16), {**before, **change})
    (tmp_path / "config").write_text("[other]\n")
    assert (fingerprint_of(None, bytes(16), {**before, **change}) != written) == ("config" in str(change))
    assert len(first) == 16


@pytest.mark.parametrize(
    ("kind", "action"), [(SecretsManagerProvider, "GetRandomPassword"), (ParameterStoreProvider, "DescribeParameters")]
)
async def test_health_needs_no_permission(
    aws: AwsServer, kind: type[SecretsManagerProvider] | type[ParameterStoreProvider], action: str
) -> None:
    """That the policy refuses the question shows that AWS knows who asks; no secret is read for it."""
    aws.fail_always(action, Fault("AccessDeniedException"))
    provider = kind(aws.settings())
    assert (await provider.health()).ok
    assert [asked for asked, _ in aws.asked] == [action]
    await provider.close()


async def test_addresses_in_the_environment_do_not_count(aws: AwsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the operator's files say where secrets come from: nothing goes to an address in a variable."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SECRETS_MANAGER"):
        monkeypatch.setenv(name, aws.url)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")  # and nothing leaves this host for AWS itself
    provider = SecretsManagerProvider(AwsSettings(REGION, None, None, 5))
    assert (await refusal_of(provider, "aws-sm://a")).kind is K.UNREACHABLE
    assert aws.asked == []
    await provider.close()


async def test_what_stays_on_this_host_takes_no_proxy(aws: AwsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in the clear, and a proxy would see it."""
    aws.add_secret("a", "x")
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    provider = SecretsManagerProvider(aws.settings())
    assert isinstance(await answer_of(provider, "aws-sm://a"), Fetched)
    await provider.close()


async def test_no_value_in_any_log(aws: AwsServer, caplog: pytest.LogCaptureFixture) -> None:
    """Also with everything set to log at level debug, at which botocore writes bodies."""
    aws.add_secret("a", CANARY)
    aws.add_parameter("/a", CANARY)
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "botocore")
    secrets, parameters = SecretsManagerProvider(aws.settings()), ParameterStoreProvider(aws.settings())
    assert isinstance(await answer_of(secrets, "aws-sm://a"), Fetched)
    assert isinstance(await answer_of(parameters, "aws-ssm:///a"), Fetched)
    await secrets.put("aws-sm://a", CANARY.encode())
    assert CANARY not in caplog.text
    await secrets.close()
    await parameters.close()


async def test_a_provider_that_was_closed_answers_nothing(aws: AwsServer) -> None:
    """Also to calls that wait for their turn while it is closed: they get a typed error, and end."""
    aws.add_secret("a", "x")
    provider = SecretsManagerProvider(aws.settings())
    aws.fail_always("*", Fault(hangs=True))
    calls = [asyncio.ensure_future(answer_of(provider, "aws-sm://a")) for _ in range(2 * CONCURRENCY)]
    await asyncio.to_thread(aws.wait_for, "GetSecretValue", CONCURRENCY)
    await provider.close()
    aws.release()
    answers = [await call for call in calls]
    assert all(isinstance(answer, ProviderError) for answer in answers)
    assert [str(answer) for answer in answers[-CONCURRENCY:]] == ["the provider of AWS Secrets Manager was closed"] * 8
    assert "was closed" in str(await failure_of(provider.get_many(["aws-sm://a"])))
