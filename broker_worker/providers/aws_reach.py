"""What AWS credentials can do beyond what is needed, as `secret-broker doctor` tells.

The names in the account are listed, if the credentials may do that. Whether they may read or change something, IAM
says by simulating their policies (`iam:SimulatePrincipalPolicy`); most may not ask, and then it is not told. A
simulation knows the identity's policies, not those of the secrets themselves.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.ports import Scope
from broker_worker.providers.aws_client import AwsClient, AwsSettings, Closable, make_client

MOST_LISTED: Final = 1000
"""So many names of an account are looked at."""
_MADE_UP: Final = "secret-broker-doctor-asks"
_SIMULATED_AT_ONCE: Final = 50
_HINT: Final = "narrow the broker's IAM policy to the names of secrets.yaml, as in docs/providers.md"
_NOT_SIMULATED: Final = (
    "what of that it may read, and whether it may write, is not told: IAM does not simulate its policy for it "
    "(iam:SimulatePrincipalPolicy)"
)
C = TypeVar("C", bound=Closable)


@dataclass(frozen=True, slots=True)
class Service:
    """What differs between the two services.

    Args:
        noun: what it holds, in the plural.
        list_action: lists it.
        read_action: reads one of it.
        write_actions: change it, or what of it there is.
        writing: those of them that writing needs.
        resource: the part of an ARN before a name, such as `secretsmanager:{region}:{account}:secret:`.
        suffix: what stands behind the name in an ARN that is not known; AWS adds six characters to a secret's name.
    """

    noun: str
    list_action: str
    read_action: str
    write_actions: tuple[str, ...]
    writing: frozenset[str]
    resource: str
    suffix: str = ""


SECRETS: Final = Service(
    "secrets",
    "secretsmanager:ListSecrets",
    "secretsmanager:GetSecretValue",
    tuple(
        f"secretsmanager:{name}"
        for name in ("CreateSecret", "PutSecretValue", "UpdateSecret", "UpdateSecretVersionStage", "DeleteSecret")
    ),
    frozenset(f"secretsmanager:{name}" for name in ("CreateSecret", "PutSecretValue", "UpdateSecretVersionStage")),
    "secretsmanager:{region}:{account}:secret:",
    "-AAAAAA",
)
PARAMETERS: Final = Service(
    "parameters",
    "ssm:DescribeParameters",
    "ssm:GetParameters",
    ("ssm:PutParameter", "ssm:DeleteParameter"),
    frozenset({"ssm:PutParameter"}),
    "ssm:{region}:{account}:parameter",
)


_Pairs = frozenset[tuple[str, str]]
"""Actions with what they may be done to."""


async def scope_of(
    aws: AwsClient[C],
    service: Service,
    arns: Callable[[C], Mapping[str, str]],
    needed: Mapping[str, bool],
) -> Scope:
    """Compare what the credentials can do with what is needed; see `ports.ScopeReporter`.

    Args:
        aws: asks the service.
        service: which one it is.
        arns: asks for what the account has: ARNs by name, empty where they are not told.
        needed: the names that references need, and whether they are written.

    Raises:
        ProviderError: if AWS cannot be asked.
    """
    known, untold = await _known(aws, service, arns)
    beyond = sorted(name for name in known if name not in needed)
    try:
        readable, writes = await aws.call(
            lambda _: _simulated(aws.settings, service, known, beyond, needed), aws.deadline(), attempts=1
        )
    except ProviderError:  # also where IAM has no address in a closed network
        return Scope(service.noun, tuple(beyond), _HINT, untold=(*untold, _NOT_SIMULATED))
    return Scope(service.noun, readable, _HINT, writes, untold=untold)


async def _known(
    aws: AwsClient[C], service: Service, arns: Callable[[C], Mapping[str, str]]
) -> tuple[Mapping[str, str], tuple[str, ...]]:
    """The ARNs of what the account has, by name, as far as it may be listed; and what is not told because of that."""
    try:
        found = await aws.call(arns, aws.deadline())
    except ProviderError as error:
        if error.kind is not FailureKind.FORBIDDEN:
            raise
        return {}, (f"which {service.noun} the account has is not told: {service.list_action} is not allowed",)
    is_cut = len(found) >= MOST_LISTED
    return found, (f"only the first {len(found)} {service.noun} of the account were looked at",) if is_cut else ()


def _simulated(
    settings: AwsSettings,
    service: Service,
    known: Mapping[str, str],
    beyond: Sequence[str],
    needed: Mapping[str, bool],
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What may be read beyond what is needed, and what may be changed where nothing writes; raises what botocore does.

    IAM is asked where AWS has it, or where the rest of an AWS on this host is.
    """
    here = settings.endpoint_url if (settings.endpoint_url or "").startswith("http:") else None
    settings = replace(settings, endpoint_url=here)
    sts, iam = make_client(settings, "sts", 1), make_client(settings, "iam", 1)
    identity = str(sts.get_caller_identity()["Arn"])
    _, partition, _, _, account, _ = identity.split(":", 5)

    def arn(name: str) -> str:
        prefix = service.resource.format(region=sts.meta.region_name, account=account)
        slash = "/" if service is PARAMETERS and not name.startswith("/") else ""
        return known.get(name) or f"arn:{partition}:{prefix}{slash}{name}{service.suffix}"

    def allowed(actions: Sequence[str], names: Sequence[str]) -> _Pairs:
        return _allowed(iam, _source(identity), actions, {arn(name): name for name in names})

    reads = allowed([service.read_action], [_MADE_UP, *beyond])
    changes = allowed(service.write_actions, list(needed))
    readable = {name for _, name in reads}
    anything = ("*",) if _MADE_UP in readable else ()
    writes = []
    for name, is_written in needed.items():
        actions = [
            action.partition(":")[2]
            for action in service.write_actions
            if (action, name) in changes and not (is_written and action in service.writing)
        ]
        writes += [f"{name} ({', '.join(actions)})"] if actions else []
    return (*anything, *(name for name in beyond if name in readable)), tuple(writes)


def _source(identity: str) -> str:
    """Whose policies are simulated: of an assumed role those of the role, which is sought without a path."""
    head, _, rest = identity.partition(":assumed-role/")
    return f"{head.replace(':sts:', ':iam:')}:role/{rest.partition('/')[0]}" if rest else identity


def _allowed(iam: Any, source: str, actions: Sequence[str], names: Mapping[str, str]) -> _Pairs:
    found: set[tuple[str, str]] = set()
    arns = list(names)
    pages = iam.get_paginator("simulate_principal_policy")
    for begin in range(0, len(arns), _SIMULATED_AT_ONCE):
        asked = arns[begin : begin + _SIMULATED_AT_ONCE]
        for page in pages.paginate(PolicySourceArn=source, ActionNames=list(actions), ResourceArns=asked):
            for result in page["EvaluationResults"]:
                each = result.get("ResourceSpecificResults") or [
                    {"EvalResourceName": result["EvalResourceName"], "EvalResourceDecision": result["EvalDecision"]}
                ]
                found |= {
                    (result["EvalActionName"], names[one["EvalResourceName"]])
                    for one in each
                    if one["EvalResourceDecision"] == "allowed" and one["EvalResourceName"] in names
                }
    return frozenset(found)
