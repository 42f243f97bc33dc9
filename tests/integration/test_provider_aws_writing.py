"""Writing to AWS: nothing that another writer stored is lost, and an outcome that is not known is said to be so."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from aws_server import AwsServer, Fault, aws_server
from provider_conformance import BINARY, CANARY, everything_said, failure_of

from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.ports import Fetched
from broker_worker.providers.aws_parameter_store import MAX_PARAMETER, ParameterStoreProvider
from broker_worker.providers.aws_secret_writing import DRAFT, MAX_SECRET
from broker_worker.providers.aws_secrets_manager import SecretsManagerProvider

K = FailureKind
QUICK = 2.0
"""Seconds for a whole write: what comes before the call that hangs has to be over by then, on a busy machine too."""
"""A timeout that tests can wait for, in seconds."""
LOST = Fault("InternalServiceError", 500, lost=True)


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[AwsServer]:
    """A server whose errors all say a secret value."""
    with aws_server(monkeypatch, says=CANARY) as server:
        yield server


@pytest.fixture
def secrets(aws: AwsServer) -> SecretsManagerProvider:
    """Secrets Manager."""
    return SecretsManagerProvider(aws.settings())


@pytest.fixture
def parameters(aws: AwsServer) -> ParameterStoreProvider:
    """The Parameter Store."""
    return ParameterStoreProvider(aws.settings())


def text_of(aws: AwsServer, name: str) -> str:
    """The current version of a secret, as moto holds it."""
    secret: Any = aws.secrets.secrets[name]
    return str(secret.versions[secret.default_version_id]["secret_string"])


def labels_of(aws: AwsServer, name: str) -> dict[str, list[str]]:
    """The labels of a secret's versions that have any."""
    return {key: version["version_stages"] for key, version in aws.secrets.secrets[name].versions.items()}


def overwrite(aws: AwsServer, name: str, text: str) -> None:
    """What another writer does."""
    aws.secrets.put_secret_value(name, text, None, None, ["AWSCURRENT"])  # type: ignore[arg-type]  # moto takes None


async def test_a_secret_is_made_where_there_is_none_and_replaced_where_there_is(
    aws: AwsServer, secrets: SecretsManagerProvider
) -> None:
    """Without an expectation, and with the version before kept as AWSPREVIOUS."""
    first = await secrets.put("aws-sm://new", b"one")
    second = await secrets.put("aws-sm://new", b"two")
    assert labels_of(aws, "new") == {first: ["AWSPREVIOUS"], second: ["AWSCURRENT"]}
    assert (await secrets.get_many(["aws-sm://new"]))["aws-sm://new"] == Fetched(b"two", second)


async def test_bytes_that_are_no_text_are_stored_as_bytes(secrets: SecretsManagerProvider) -> None:
    """They come back as they were."""
    version = await secrets.put("aws-sm://new", BINARY)
    assert (await secrets.get_many(["aws-sm://new"]))["aws-sm://new"] == Fetched(BINARY, version)


async def test_a_replacement_leaves_no_label_of_ours(aws: AwsServer, secrets: SecretsManagerProvider) -> None:
    """The draft's label is taken off again, and AWSPREVIOUS follows."""
    first = aws.add_secret("a", "one")
    second = await secrets.put("aws-sm://a", b"two", expected=first)
    assert labels_of(aws, "a") == {first: ["AWSPREVIOUS"], second: ["AWSCURRENT"]}


async def test_a_version_that_is_known_to_be_old_costs_no_draft(
    aws: AwsServer, secrets: SecretsManagerProvider
) -> None:
    """Nothing is stored where the write cannot succeed."""
    aws.add_secret("a", "one")
    error = await failure_of(secrets.put("aws-sm://a", CANARY.encode(), expected="0" * 36))
    assert (error.kind, aws.count("PutSecretValue")) == (K.CONFLICT, 0)
    assert CANARY not in everything_said(error)


async def test_a_writer_that_comes_in_between_keeps_its_value(aws: AwsServer, secrets: SecretsManagerProvider) -> None:
    """The label moves only from the version that was expected: no check before it could see this."""
    first = aws.add_secret("a", "one")
    aws.after["PutSecretValue"] = lambda: overwrite(aws, "a", "theirs")
    error = await failure_of(secrets.put("aws-sm://a", b"ours", expected=first))
    assert (error.kind, text_of(aws, "a")) == (K.CONFLICT, "theirs")
    assert not [labels for labels in labels_of(aws, "a").values() if DRAFT in labels]


async def test_of_two_that_replace_the_same_version_one_wins(aws: AwsServer, secrets: SecretsManagerProvider) -> None:
    """Of eight at once; the value that is there is the winner's."""
    first = aws.add_secret("a", "0")
    puts = [secrets.put("aws-sm://a", f"{number}".encode(), expected=first) for number in range(8)]
    outcomes = await asyncio.gather(*puts, return_exceptions=True)
    failures = [outcome for outcome in outcomes if isinstance(outcome, ProviderError)]
    assert [failure.kind for failure in failures] == [K.CONFLICT] * 7
    (winner,) = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, str)]
    assert text_of(aws, "a") == f"{winner}"


@pytest.mark.parametrize("action", ["CreateSecret", "PutSecretValue", "UpdateSecretVersionStage", "DescribeSecret"])
async def test_an_answer_that_was_lost_changes_nothing(
    aws: AwsServer, secrets: SecretsManagerProvider, action: str
) -> None:
    """The second attempt of a request that AWS carried out the first time is no other writer's."""
    aws.fail(action, LOST)
    made = await secrets.put("aws-sm://a", b"one", expected="")
    assert made is not None
    replaced = await secrets.put("aws-sm://a", b"two", expected=made)
    again = await secrets.put("aws-sm://a", b"three")
    assert (await secrets.get_many(["aws-sm://a"]))["aws-sm://a"] == Fetched(b"three", again)
    assert set(labels_of(aws, "a")) == {made, replaced, again}


async def test_a_label_that_cannot_be_moved_is_no_conflict(aws: AwsServer, secrets: SecretsManagerProvider) -> None:
    """If the version that was expected is still current, the reason is AWS's, and the old value stays in force."""
    first = aws.add_secret("a", "one")
    aws.fail_always("UpdateSecretVersionStage", Fault("AccessDeniedException"))
    error = await failure_of(secrets.put("aws-sm://a", b"two", expected=first))
    assert (error.kind, text_of(aws, "a")) == (K.FORBIDDEN, "one")


async def test_the_next_writer_takes_a_label_that_was_left(aws: AwsServer, secrets: SecretsManagerProvider) -> None:
    """A broker that was killed in between leaves one draft at most."""
    first = aws.add_secret("a", "one")
    aws.fail_always("UpdateSecretVersionStage", Fault("AccessDeniedException"))
    await failure_of(secrets.put("aws-sm://a", b"two", expected=first))
    assert [labels for labels in labels_of(aws, "a").values() if DRAFT in labels]
    aws.allow("UpdateSecretVersionStage")
    await secrets.put("aws-sm://a", b"three", expected=first)
    assert text_of(aws, "a") == "three"
    assert not [labels for labels in labels_of(aws, "a").values() if DRAFT in labels]


async def test_a_field_is_put_and_the_others_stay(aws: AwsServer, secrets: SecretsManagerProvider) -> None:
    """Numbers stay as they are written; the version is the secret's."""
    aws.add_secret("db", '{"user": "admin", "port": 5432, "ratio": 1.10}')
    version = await secrets.put("aws-sm://db#password", b"new")
    assert text_of(aws, "db") == '{"user":"admin","port":5432,"ratio":1.10,"password":"new"}'
    refs = ["aws-sm://db#password", "aws-sm://db#port"]
    assert await secrets.get_many(refs) == {refs[0]: Fetched(b"new", version), refs[1]: Fetched(b"5432", version)}


async def test_a_field_of_nothing_makes_the_secret(aws: AwsServer, secrets: SecretsManagerProvider) -> None:
    """With this field alone, whether it may replace something or only create."""
    await secrets.put("aws-sm://a#key", b"x")
    await secrets.put("aws-sm://b#key", b"x", expected="")
    assert text_of(aws, "a") == text_of(aws, "b") == '{"key":"x"}'


async def test_a_field_is_created_only_where_there_is_none(aws: AwsServer, secrets: SecretsManagerProvider) -> None:
    """In a secret that is there, beside its other fields."""
    aws.add_secret("db", '{"user": "admin"}')
    await secrets.put("aws-sm://db#key", b"x", expected="")
    error = await failure_of(secrets.put("aws-sm://db#key", b"y", expected=""))
    assert error.kind is K.CONFLICT
    assert json.loads(text_of(aws, "db")) == {"user": "admin", "key": "x"}


async def test_a_field_is_replaced_only_in_the_expected_version(
    aws: AwsServer, secrets: SecretsManagerProvider
) -> None:
    """Another version, and a secret that is gone, are conflicts."""
    first = aws.add_secret("db", '{"key": "one"}')
    second = await secrets.put("aws-sm://db#key", b"two", expected=first)
    for ref, expected in (("aws-sm://db#key", first), ("aws-sm://none#key", second)):
        error = await failure_of(secrets.put(ref, b"late", expected=expected))
        assert error.kind is K.CONFLICT
    aws.after["PutSecretValue"] = lambda: overwrite(aws, "db", '{"key": "theirs"}')
    error = await failure_of(secrets.put("aws-sm://db#key", b"late", expected=second))
    assert (error.kind, text_of(aws, "db")) == (K.CONFLICT, '{"key": "theirs"}')


async def test_fields_that_are_put_at_once_are_all_there(aws: AwsServer, secrets: SecretsManagerProvider) -> None:
    """Whoever reads an older object writes again over the newer one, and takes no field back."""
    puts = [secrets.put(f"aws-sm://db#field{number}", f"{number}".encode()) for number in range(3)]
    await asyncio.gather(*puts)
    assert json.loads(text_of(aws, "db")) == {f"field{number}": f"{number}" for number in range(3)}


async def test_a_writer_that_always_meets_others_gives_up(aws: AwsServer, secrets: SecretsManagerProvider) -> None:
    """After some attempts, with a conflict, and without having overwritten anything."""
    aws.add_secret("db", '{"key": "one"}')
    rounds = 0

    def interfere() -> None:
        nonlocal rounds
        rounds += 1
        overwrite(aws, "db", f'{{"key": "theirs {rounds}"}}')
        aws.after["PutSecretValue"] = interfere

    interfere()
    error = await failure_of(secrets.put("aws-sm://db#key", b"ours"))
    assert (error.kind, "again and again" in str(error)) == (K.CONFLICT, True)
    assert text_of(aws, "db") == f'{{"key": "theirs {rounds}"}}'


@pytest.mark.parametrize("content", [f"no JSON {CANARY}", f'{{"a": "{CANARY}", "a": "x"}}'])
async def test_what_cannot_be_read_is_not_rewritten(
    aws: AwsServer, secrets: SecretsManagerProvider, content: str
) -> None:
    """A field is not put into a secret that is no JSON object, or an ambiguous one; nothing of it is repeated."""
    aws.add_secret("db", content)
    error = await failure_of(secrets.put("aws-sm://db#key", b"x"))
    assert CANARY not in everything_said(error)
    assert (text_of(aws, "db"), aws.count("PutSecretValue")) == (content, 0)


@pytest.mark.parametrize("ref", [f"aws-sm://a?version={'0' * 36}", "aws-sm://a?stage=AWSPREVIOUS#b", "aws-ssm:///a:1"])
async def test_a_version_cannot_be_written(
    aws: AwsServer, secrets: SecretsManagerProvider, parameters: ParameterStoreProvider, ref: str
) -> None:
    """It never changes; nothing is asked."""
    provider = secrets if ref.startswith("aws-sm:") else parameters
    error = await failure_of(provider.put(ref, CANARY.encode()))
    assert (error.kind, aws.asked) == (K.READ_ONLY, [])


@pytest.mark.parametrize(
    ("ref", "value", "kind"),
    [
        ("aws-sm://a", b"", K.UNKNOWN),
        ("aws-sm://a#b", b"", K.UNKNOWN),
        ("aws-sm://a", b"x" * (MAX_SECRET + 1), K.TOO_LARGE),
        ("aws-sm://a#b", b"x" * (MAX_SECRET - 7), K.TOO_LARGE),
        ("aws-sm://a#b", CANARY.encode() + b"\xff", K.UNKNOWN),
        ("aws-sm://a//b", b"x", K.BAD_REFERENCE),
        ("aws-ssm:///a", b"", K.UNKNOWN),
        ("aws-ssm:///a", b"x" * (MAX_PARAMETER + 1), K.TOO_LARGE),
        ("aws-ssm:///a", CANARY.encode() + b"\xff", K.UNKNOWN),
        ("aws-ssm:///a//b", b"x", K.BAD_REFERENCE),
    ],
)
async def test_what_cannot_be_stored_is_refused(
    aws: AwsServer,
    secrets: SecretsManagerProvider,
    parameters: ParameterStoreProvider,
    ref: str,
    value: bytes,
    kind: FailureKind,
) -> None:
    """Empty, too long also with the JSON around it, or no text; nothing is stored and nothing repeated."""
    error = await failure_of((secrets if ref.startswith("aws-sm:") else parameters).put(ref, value))
    assert error.kind is kind
    assert CANARY not in everything_said(error)
    assert not {"CreateSecret", "PutSecretValue", "PutParameter"} & {action for action, _ in aws.asked}


async def test_the_largest_field_fits(aws: AwsServer, secrets: SecretsManagerProvider) -> None:
    """The limit counts the whole object, and is not one byte too low."""
    await secrets.put("aws-sm://a#b", b"x" * (MAX_SECRET - 8))
    assert len(text_of(aws, "a")) == MAX_SECRET


async def test_a_secret_scheduled_for_deletion_is_not_written(aws: AwsServer, secrets: SecretsManagerProvider) -> None:
    """Neither replaced nor made anew; the error says what is the matter."""
    first = aws.add_secret("a", "x")
    aws.secrets.delete_secret("a", 7, False)
    aws.fail_always("PutSecretValue", Fault("InvalidRequestException"))
    aws.fail_always("CreateSecret", Fault("InvalidRequestException"))
    for expected in (None, "", first):
        error = await failure_of(secrets.put("aws-sm://a", b"y", expected=expected))
        assert "scheduled for deletion" in str(error)


async def test_a_write_without_an_answer_says_that_the_outcome_is_open(
    aws: AwsServer, secrets: SecretsManagerProvider, parameters: ParameterStoreProvider
) -> None:
    """And what to do; AWS's own text is not repeated. A parameter is sent once: a second attempt would write twice."""
    aws.fail_always("CreateSecret", LOST)
    aws.fail_always("PutParameter", LOST)
    for put in (secrets.put("aws-sm://a", b"x", expected=""), parameters.put("aws-ssm:///a", b"x", expected="")):
        error = await failure_of(put)
        assert (error.kind, "may have been stored" in str(error)) == (K.UNREACHABLE, True)
        assert "read its version" in error.hint
        assert CANARY not in everything_said(error)
    assert aws.count("PutParameter") == 1
    aws.fail_always("PutParameter", Fault(hangs=True))
    slow = ParameterStoreProvider(aws.settings(QUICK))
    error = await failure_of(slow.put("aws-ssm:///a", b"x"))
    assert (error.kind, "may have been stored" in str(error)) == (K.TIMEOUT, True)
    await slow.close()


async def test_a_label_whose_move_gets_no_answer_leaves_the_outcome_open(aws: AwsServer) -> None:
    """Also where nothing can be asked afterwards: the writer is not told that its value was not stored."""
    first = aws.add_secret("a", "one")
    secrets = SecretsManagerProvider(aws.settings(QUICK))
    aws.fail_always("UpdateSecretVersionStage", Fault(hangs=True))
    error = await failure_of(secrets.put("aws-sm://a", b"two", expected=first))
    assert (error.kind, "may have been stored" in str(error)) == (K.TIMEOUT, True)
    await secrets.close()


async def test_parameters_are_stored_encrypted(aws: AwsServer, parameters: ParameterStoreProvider) -> None:
    """As SecureString, whether they are made or replaced."""
    assert await parameters.put("aws-ssm:///a", b"one", expected="") == "1"
    assert await parameters.put("aws-ssm:///a", b"two") == "2"
    assert await parameters.put("aws-ssm:///a", b"three", expected="2") == "3"
    bodies = [body for action, body in aws.asked if action == "PutParameter"]
    assert [(body["Type"], body["Overwrite"]) for body in bodies] == [
        ("SecureString", over) for over in (False, True, True)
    ]


async def test_a_parameter_that_another_writer_changed_in_between_is_reported(
    aws: AwsServer, parameters: ParameterStoreProvider
) -> None:
    """The Parameter Store cannot refuse such a write; the conflict says that the value is stored, as which version."""
    aws.add_parameter("/a", "one")
    aws.after["GetParameters"] = lambda: aws.add_parameter("/a", "theirs")
    error = await failure_of(parameters.put("aws-ssm:///a", b"ours", expected="1"))
    assert (error.kind, "this value is stored, as version 3" in str(error)) == (K.CONFLICT, True)
    assert (await parameters.get_many(["aws-ssm:///a:2"]))["aws-ssm:///a:2"] == Fetched(b"theirs", "2")


async def test_a_write_that_stored_something_else_is_not_believed(
    aws: AwsServer, parameters: ParameterStoreProvider
) -> None:
    """An answer without a version is refused."""
    aws.fail("PutParameter", Fault(status=200, body=b'{"Tier": "Standard"}'))
    assert (await failure_of(parameters.put("aws-ssm:///a", b"x"))).kind is K.UNKNOWN
