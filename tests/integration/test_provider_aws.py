"""Reading from AWS: how much is asked, which version comes, and that nothing is guessed."""

import base64
import json
from collections.abc import Iterator

import pytest
from aws_server import AwsServer, Fault, Turnable, answer_of, aws_server, refusal_of
from provider_conformance import CANARY, everything_said

from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.ports import Fetched
from broker_worker.providers.aws_parameter_store import ParameterStoreProvider
from broker_worker.providers.aws_secret_reading import NOT_PERMITTED_SECONDS
from broker_worker.providers.aws_secrets_manager import SecretsManagerProvider

K = FailureKind


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[AwsServer]:
    """A server whose errors all say a secret value."""
    with aws_server(monkeypatch, says=CANARY) as server:
        yield server


async def test_secrets_are_asked_for_twenty_at_a_time(aws: AwsServer) -> None:
    """Forty-one secrets cost three requests, the last for a single one; fields of one secret cost it once."""
    for number in range(40):
        aws.add_secret(f"s{number}", "x")
    aws.add_secret("fields", '{"a": "1", "b": "2"}')
    provider = SecretsManagerProvider(aws.settings())
    refs = [f"aws-sm://s{number}" for number in range(40)]
    answers = await provider.get_many([*refs, "aws-sm://fields#a", "aws-sm://fields#b", "aws-sm://fields"])
    assert len([answer for answer in answers.values() if isinstance(answer, Fetched)]) == 43
    sizes = [len(body["SecretIdList"]) for action, body in aws.asked if action == "BatchGetSecretValue"]
    assert sorted(sizes) == [1, 20, 20]
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
    assert sorted(len(body["Names"]) for body in bodies) == [1, 1, 1, 1, 3, 10]
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


def _current(aws: AwsServer, name: str) -> str:
    return str(aws.secrets.secrets[name].default_version_id)
