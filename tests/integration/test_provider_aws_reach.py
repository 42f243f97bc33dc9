"""What doctor tells of AWS credentials: names beyond the registry, and what IAM simulates that they may do."""

from collections.abc import Iterator

import pytest
from aws_server import ACCOUNT, REGION, SIMULATE, AwsServer, Fault, aws_server
from provider_conformance import CANARY, everything_said, failure_of

from broker_worker.core.errors import FailureKind
from broker_worker.ports import Scope
from broker_worker.providers.aws_parameter_store import ParameterStoreProvider
from broker_worker.providers.aws_secrets_manager import SecretsManagerProvider

NEEDED = ["aws-sm://agents/one#key", "aws-sm://agents/one", "aws-sm://agents/two"]


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[AwsServer]:
    """Two secrets that are needed and one that is not; errors say a value."""
    with aws_server(monkeypatch, says=CANARY) as server:
        for name in ("agents/one", "agents/two", "payroll"):
            server.add_secret(name, CANARY)
        yield server


async def scope_of(aws: AwsServer, *written: str) -> Scope:
    provider = SecretsManagerProvider(aws.settings())
    scope = await provider.visible(NEEDED, written)
    await provider.close()
    assert scope is not None
    assert CANARY not in everything_said(scope)
    return scope


async def test_names_that_no_secret_needs_are_told_and_what_is_not_known_too(aws: AwsServer) -> None:
    """Whoever may list sees all names; that nobody simulates is said in place of silence. No value is read."""
    scope = await scope_of(aws)
    assert (scope.noun, scope.beyond, scope.writes) == ("secrets", ("payroll",), ())
    assert "iam:SimulatePrincipalPolicy" in scope.untold[0]
    assert not {"GetSecretValue", "BatchGetSecretValue"} & {action for action, _ in aws.asked}


async def test_what_iam_says_may_be_read_and_written_is_told(aws: AwsServer) -> None:
    """A listed name that cannot be read is no reach; what writing needs is needed where something writes."""
    two = ("PutSecretValue", "DeleteSecret")
    aws.simulation = lambda action, arn: ":agents/" in arn.replace("secret:", ":") and action.endswith(two)
    scope = await scope_of(aws, NEEDED[0])
    assert (scope.beyond, scope.untold) == ((), ())
    assert scope.writes == ("agents/one (DeleteSecret)", "agents/two (PutSecretValue, DeleteSecret)")
    aws.simulation = lambda action, arn: action.endswith("GetSecretValue")
    assert (await scope_of(aws)).beyond == ("*", "payroll")


async def test_who_may_not_list_may_still_be_told_to_read_everything(aws: AwsServer) -> None:
    """By a name that nobody has."""
    aws.fail_always("ListSecrets", Fault("AccessDeniedException"))
    aws.simulation = lambda action, arn: action.endswith("GetSecretValue")
    scope = await scope_of(aws)
    assert scope.beyond == ("*",)
    assert "secretsmanager:ListSecrets" in scope.untold[0]


async def test_the_policies_of_an_assumed_role_are_those_of_the_role(
    aws: AwsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """IAM simulates no session; the name of a secret that is not listed gets an ARN of AWS's form."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ASIAQ3EGRIQY3FXO7NLC")
    identity = f"arn:aws:sts::{ACCOUNT}:assumed-role/broker/i-1"
    body = f"<R><GetCallerIdentityResult><Arn>{identity}</Arn></GetCallerIdentityResult></R>".encode()
    aws.fail("GetCallerIdentity", Fault(status=200, headers={"Content-Type": "text/xml"}, body=body))
    aws.fail_always("ListSecrets", Fault("AccessDeniedException"))
    aws.simulation = lambda action, arn: False
    assert (await scope_of(aws)).is_narrow
    asked = [body for action, body in aws.asked if action == SIMULATE]
    assert {each["PolicySourceArn"][0] for each in asked} == {f"arn:aws:iam::{ACCOUNT}:role/broker"}
    assert asked[0]["ResourceArns.member.1"][0].startswith(f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:")


async def test_parameters_are_told_the_same_way(aws: AwsServer) -> None:
    """By path; ones without a slash in front have one in their ARN."""
    for name in ("/agents/key", "plain", "/other"):
        aws.add_parameter(name, CANARY)
    provider = ParameterStoreProvider(aws.settings())
    needed = ["aws-ssm:///agents/key:1", "aws-ssm://plain"]
    first = await provider.visible(needed, [])
    assert first is not None
    assert (first.noun, first.beyond) == ("parameters", ("/other",))
    aws.simulation = lambda action, arn: arn.endswith(":parameter/plain") and action == "ssm:PutParameter"
    second = await provider.visible(needed, [needed[0]])
    assert second is not None
    assert (second.beyond, second.writes) == ((), ("plain (PutParameter)",))
    await provider.close()


async def test_an_aws_that_does_not_answer_is_an_error(aws: AwsServer) -> None:
    """And nothing of its words is in it."""
    aws.fail_always("ListSecrets", Fault("ExpiredTokenException"))
    provider = SecretsManagerProvider(aws.settings())
    error = await failure_of(provider.visible(NEEDED, []))
    assert error.kind is FailureKind.UNAUTHENTICATED
    assert CANARY not in everything_said(error)
    await provider.close()
