"""Reading from AWS: how much is asked, which version comes, and what of every kind of trouble."""

import asyncio
import base64
import json
import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from aws_server import REGION, AwsServer, Fault, aws_server
from provider_conformance import CANARY, everything_said, failure_of

from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.ports import Fetched
from broker_worker.providers.aws_client import CONCURRENCY, REFUSED_FIRST, AwsSettings
from broker_worker.providers.aws_parameter_store import ParameterStoreProvider
from broker_worker.providers.aws_secret_reading import NOT_PERMITTED_SECONDS
from broker_worker.providers.aws_secrets_manager import SecretsManagerProvider

K = FailureKind
QUICK = 0.4
"""A timeout that tests can wait for, in seconds."""


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[AwsServer]:
    """A server whose errors all say a secret value."""
    with aws_server(monkeypatch, says=CANARY) as server:
        yield server


class Turnable:
    """A clock that stands still until it is turned."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def answer_of(provider: SecretsManagerProvider | ParameterStoreProvider, ref: str) -> Fetched | ProviderError:
    """What comes of one reference, raised or not."""
    try:
        return (await provider.get_many([ref]))[ref]
    except ProviderError as error:
        return error


async def refusal_of(provider: SecretsManagerProvider | ParameterStoreProvider, ref: str) -> ProviderError:
    """Why a reference has no value; checks that nothing of AWS's own text is in it."""
    answer = await answer_of(provider, ref)
    assert isinstance(answer, ProviderError)
    assert CANARY not in everything_said(answer)
    assert CANARY not in answer.hint
    return answer


async def test_secrets_are_asked_for_twenty_at_a_time(aws: AwsServer) -> None:
    """Forty-one secrets cost three requests, the last for a single one; fields of one secret cost it once."""
    for number in range(40):
        aws.add_secret(f"s{number}", "x")
    aws.add_secret("fields", '{"a": "1", "b": "2"}')
    provider = SecretsManagerProvider(aws.settings())
    refs = [f"aws-sm://s{number}" for number in range(40)]
    answers = await provider.get_many([*refs, "aws-sm://fields#a", "aws-sm://fields#b", "aws-sm://fields"])
    assert len([answer for answer in answers.values() if isinstance(answer, Fetched)]) == 43
    assert [len(body["SecretIdList"]) for action, body in aws.asked if action == "BatchGetSecretValue"] == [20, 20, 1]
    assert aws.count("GetSecretValue") == 0
    await provider.close()


async def test_one_secret_needs_no_permission_for_batches(aws: AwsServer) -> None:
    """It is asked for with GetSecretValue at once."""
    aws.add_secret("one", "x")
    provider = SecretsManagerProvider(aws.settings())
    assert isinstance(await answer_of(provider, "aws-sm://one"), Fetched)
    assert [action for action, _ in aws.asked] == ["GetSecretValue"]
    await provider.close()


async def test_without_permission_for_batches_secrets_are_read_one_by_one(aws: AwsServer) -> None:
    """All values come all the same; batches are not tried again for ten minutes."""
    refs = [f"aws-sm://s{number}" for number in range(5)]
    for number in range(5):
        aws.add_secret(f"s{number}", f"{number}")
    aws.fail_always("BatchGetSecretValue", Fault("AccessDeniedException"))
    clock = Turnable()
    provider = SecretsManagerProvider(aws.settings(), clock)
    for _ in range(2):
        answers = await provider.get_many(refs)
        values = [answer.value for answer in answers.values() if isinstance(answer, Fetched)]
        assert sorted(values) == [b"0", b"1", b"2", b"3", b"4"]
    assert (aws.count("BatchGetSecretValue"), aws.count("GetSecretValue")) == (1, 10)
    clock.now += NOT_PERMITTED_SECONDS
    await provider.get_many(refs)
    assert aws.count("BatchGetSecretValue") == 2
    await provider.close()


async def test_what_a_batch_does_not_answer_is_asked_for_alone(aws: AwsServer) -> None:
    """AWS may leave secrets for another page; one that it refuses in a batch is told apart by its code."""
    aws.add_secret("here", "1")
    version = aws.add_secret("left-out", "2")
    part = {
        "SecretValues": [{"Name": "here", "VersionId": "v", "SecretString": "1"}, {"Name": "else"}],
        "Errors": [{"SecretId": "no", "ErrorCode": "DecryptionFailure", "Message": CANARY}],
        "NextToken": "t",
    }
    aws.fail("BatchGetSecretValue", Fault(status=200, body=json.dumps(part).encode()))
    provider = SecretsManagerProvider(aws.settings())
    answers = dict(await provider.get_many(["aws-sm://here", "aws-sm://left-out", "aws-sm://no"]))
    refused = answers.pop("aws-sm://no")
    assert answers == {"aws-sm://here": Fetched(b"1", "v"), "aws-sm://left-out": Fetched(b"2", version)}
    assert isinstance(refused, ProviderError)
    assert (refused.kind, CANARY in everything_said(refused)) == (K.FORBIDDEN, False)
    await provider.close()


async def test_versions_and_stages_are_told_apart(aws: AwsServer) -> None:
    """Without one the current version comes, with its id; a version that is gone is not found."""
    first = aws.add_secret("db", "one")
    provider = SecretsManagerProvider(aws.settings())
    second = await provider.put("aws-sm://db", b"two")
    refs = ["aws-sm://db", "aws-sm://db?stage=AWSPREVIOUS", f"aws-sm://db?version={first}", "aws-sm://db?stage=OTHER"]
    answers = await provider.get_many(refs)
    assert [answers[ref] for ref in refs[:3]] == [
        Fetched(b"two", second),
        Fetched(b"one", first),
        Fetched(b"one", first),
    ]
    assert (await refusal_of(provider, refs[3])).kind is K.NOT_FOUND
    assert (await refusal_of(provider, f"aws-sm://db?version={'0' * 36}")).kind is K.NOT_FOUND
    await provider.close()


async def test_parameters_are_asked_for_ten_at_a_time_and_decrypted(aws: AwsServer) -> None:
    """Versions of one parameter go in different requests, as answers are told apart by their names."""
    for number in range(12):
        aws.add_parameter(f"/p/{number}", f"old {number}")
    aws.add_parameter("/p/0", "new 0")
    aws.parameters.label_parameter_version("/p/0", 1, ["first"])
    provider = ParameterStoreProvider(aws.settings())
    refs = [f"aws-ssm:///p/{number}" for number in range(12)]
    versions = [
        "aws-ssm:///p/0:1",
        "aws-ssm:///p/0:2",
        "aws-ssm:///p/0:first",
        "aws-ssm:///p/0:9",
        "aws-ssm:///p/0:none",
    ]
    answers = await provider.get_many([*refs, *versions])
    assert answers["aws-ssm:///p/0"] == answers["aws-ssm:///p/0:2"] == Fetched(b"new 0", "2")
    assert answers["aws-ssm:///p/0:1"] == answers["aws-ssm:///p/0:first"] == Fetched(b"old 0", "1")
    assert answers["aws-ssm:///p/11"] == Fetched(b"old 11", "1")
    gone = [answers[ref] for ref in versions[3:]]
    assert [answer.kind for answer in gone if isinstance(answer, ProviderError)] == [K.NOT_FOUND, K.NOT_FOUND]
    bodies = [body for action, body in aws.asked if action == "GetParameters"]
    assert [len(body["Names"]) for body in bodies] == [10, 3, 1, 1, 1, 1]
    assert all(body["WithDecryption"] for body in bodies)
    assert not [body for body in bodies if len({name.partition(":")[0] for name in body["Names"]}) < len(body["Names"])]
    await provider.close()


async def test_a_parameter_that_is_not_permitted_costs_the_others_nothing(aws: AwsServer) -> None:
    """AWS refuses a request as a whole for one name in it; the names are then asked for one by one."""
    for number in range(3):
        aws.add_parameter(f"/p/{number}", "x")
    aws.fail("GetParameters", Fault("AccessDeniedException"), Fault("AccessDeniedException"))
    provider = ParameterStoreProvider(aws.settings())
    answers = await provider.get_many([f"aws-ssm:///p/{number}" for number in range(3)])
    refused = [answer for answer in answers.values() if isinstance(answer, ProviderError)]
    assert [error.kind for error in refused] == [K.FORBIDDEN]
    assert len(answers) == 3
    await provider.close()


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


@pytest.mark.parametrize(
    "answer",
    [
        '"VersionId": "v", "SecretString": "x"',
        '"Name": "b", "VersionId": "v", "SecretString": "x"',
        '"Name": "a", "SecretString": "x"',
        '"Name": "a", "VersionId": "v"',
        '"Name": "a", "VersionId": 7, "SecretString": "x"',
        '"Name": "a", "VersionId": "v", "SecretString": ["x"]',
        '"Name": "a", "VersionId": "v", "SecretString": "x", "SecretBinary": "eA=="',
        '"Name": "a", "VersionId": "v", "SecretString": "\\ud800"',
    ],
)
async def test_a_secret_that_is_not_the_one_asked_for_is_refused(aws: AwsServer, answer: str) -> None:
    """Of another name, without a version, with two values or none, or no text: nothing is guessed."""
    aws.fail("GetSecretValue", Fault(status=200, body=b"{%s}" % answer.encode()))
    provider = SecretsManagerProvider(aws.settings())
    assert (await refusal_of(provider, "aws-sm://a")).kind is K.UNKNOWN
    await provider.close()


async def test_another_version_than_the_one_asked_for_is_refused(aws: AwsServer) -> None:
    """Whoever pins a version gets that one or none."""
    answer = b'{"Name": "a", "VersionId": "%s", "SecretString": "x"}' % (b"1" * 36)
    aws.fail("GetSecretValue", Fault(status=200, body=answer), Fault(status=200, body=answer))
    provider = SecretsManagerProvider(aws.settings())
    assert isinstance(await answer_of(provider, f"aws-sm://a?version={'1' * 36}"), Fetched)
    assert (await refusal_of(provider, f"aws-sm://a?version={'2' * 36}")).kind is K.UNKNOWN
    await provider.close()


@pytest.mark.parametrize(
    "answer",
    [
        '"Parameters": [{"Name": "/b", "Version": 1, "Value": "x"}]',
        '"Parameters": [{"Name": "/a", "Version": 2, "Value": "x"}]',
        '"Parameters": [{"Name": "/a", "Version": "v", "Value": "x"}]',
        '"Parameters": [{"Name": "/a", "Version": 1}]',
        '"Parameters": [{"Name": "/a", "Version": 1, "Value": "\\ud800"}]',
        '"InvalidParameters": ["/b"]',
    ],
)
async def test_a_parameter_that_is_not_the_one_asked_for_is_refused(aws: AwsServer, answer: str) -> None:
    """Of another name or version, without a value, or no text: nothing is guessed."""
    aws.fail("GetParameters", Fault(status=200, body=b"{%s}" % answer.encode()))
    provider = ParameterStoreProvider(aws.settings())
    assert (await refusal_of(provider, "aws-ssm:///a:1")).kind is K.UNKNOWN
    await provider.close()


async def test_an_empty_value_is_not_found(aws: AwsServer) -> None:
    """There is nothing to hand out, in text or in bytes."""
    aws.fail("GetSecretValue", Fault(status=200, body=b'{"Name": "a", "VersionId": "v", "SecretString": ""}'))
    provider = SecretsManagerProvider(aws.settings())
    assert (await refusal_of(provider, "aws-sm://a")).kind is K.NOT_FOUND
    await provider.close()


async def test_two_mebibytes_are_too_large(aws: AwsServer) -> None:
    """They are refused, whatever AWS's own limit is."""
    aws.add_secret("a", "x" * (2 * 1024 * 1024))
    provider = SecretsManagerProvider(aws.settings())
    assert (await refusal_of(provider, "aws-sm://a")).kind is K.TOO_LARGE
    await provider.close()


async def test_a_binary_secret_has_no_fields(aws: AwsServer) -> None:
    """Its bytes are not looked into."""
    aws.add_secret("a", binary=base64.b64encode(b'{"b": "x"}').decode())
    provider = SecretsManagerProvider(aws.settings())
    assert (await refusal_of(provider, "aws-sm://a#b")).kind is K.BAD_REFERENCE
    assert (await provider.get_many(["aws-sm://a"]))["aws-sm://a"] == Fetched(b'{"b": "x"}', _current(aws, "a"))
    await provider.close()


async def test_a_secret_scheduled_for_deletion_says_so(aws: AwsServer) -> None:
    """With how to take it back."""
    aws.add_secret("a", "x")
    aws.secrets.delete_secret("a", 7, False)
    provider = SecretsManagerProvider(aws.settings())
    error = await refusal_of(provider, "aws-sm://a")
    assert "scheduled for deletion" in str(error)
    assert "restore-secret" in error.hint
    await provider.close()


async def test_throttling_is_waited_out_once(aws: AwsServer) -> None:
    """One more attempt, after the time that AWS names; then the value is there."""
    aws.add_secret("a", "x")
    aws.fail("GetSecretValue", Fault("ThrottlingException", headers={"x-amz-retry-after": "1"}))
    provider = SecretsManagerProvider(aws.settings())
    assert isinstance(await answer_of(provider, "aws-sm://a"), Fetched)
    assert aws.count("GetSecretValue") == 2
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


async def test_an_aws_that_hangs_is_given_up_and_holds_up_nobody_else(aws: AwsServer) -> None:
    """Calls end at their deadline, and whoever needs a thread for another vault gets one meanwhile."""
    aws.fail_always("*", Fault(hangs=True))
    provider = SecretsManagerProvider(aws.settings(QUICK))
    calls = [asyncio.ensure_future(refusal_of(provider, f"aws-sm://s{number}")) for number in range(4 * CONCURRENCY)]
    await asyncio.sleep(0)
    assert await asyncio.wait_for(asyncio.to_thread(lambda: 7), 5) == 7
    assert {(await call).kind for call in calls} == {K.TIMEOUT}
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


async def test_refused_credentials_are_not_tried_again_and_again(aws: AwsServer) -> None:
    """After a refusal nothing is asked for a while, twice as long after each; then new credentials count."""
    aws.add_secret("a", "x")
    clock = Turnable()
    provider = SecretsManagerProvider(aws.settings(), clock)
    aws.fail_always("*", Fault("ExpiredTokenException"))
    assert "expired" in str(await refusal_of(provider, "aws-sm://a"))
    waiting = await refusal_of(provider, "aws-sm://a")
    assert (aws.count("GetSecretValue"), waiting.retry_after) == (1, int(REFUSED_FIRST * 1000))
    assert not (await provider.health()).ok
    assert len(aws.asked) == 1
    clock.now += REFUSED_FIRST
    assert (await refusal_of(provider, "aws-sm://a")).kind is K.UNAUTHENTICATED
    assert (await refusal_of(provider, "aws-sm://a")).retry_after == 2 * int(REFUSED_FIRST * 1000)
    assert aws.count("GetSecretValue") == 2
    aws.fail_always("*", Fault("AccessDeniedException"))
    clock.now += 2 * REFUSED_FIRST
    assert (await refusal_of(provider, "aws-sm://a")).kind is K.FORBIDDEN
    await provider.close()


async def test_credentials_are_looked_for_anew_after_a_refusal(
    aws: AwsServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file that the operator mended counts without a restart."""
    aws.add_secret("a", "x")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    clock = Turnable()
    provider = SecretsManagerProvider(aws.settings(), clock)
    assert (await refusal_of(provider, "aws-sm://a")).kind is K.UNAUTHENTICATED
    (tmp_path / "credentials").write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n")
    clock.now += REFUSED_FIRST
    assert isinstance(await answer_of(provider, "aws-sm://a"), Fetched)
    await provider.close()


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
    """Only the operator's files say where secrets come from, and a proxy does not see what stays on this host."""
    aws.add_secret("a", "x")
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SECRETS_MANAGER", "HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    provider = SecretsManagerProvider(aws.settings())
    assert isinstance(await answer_of(provider, "aws-sm://a"), Fetched)
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws.url)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")  # nothing leaves this host
    asked = len(aws.asked)
    away = SecretsManagerProvider(AwsSettings(REGION, None, None, 5))
    assert (await refusal_of(away, "aws-sm://a")).kind is K.UNREACHABLE
    assert len(aws.asked) == asked
    await provider.close()
    await away.close()


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


def _current(aws: AwsServer, name: str) -> str:
    return str(aws.secrets.secrets[name].default_version_id)
