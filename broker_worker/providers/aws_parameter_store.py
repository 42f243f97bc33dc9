"""AWS Systems Manager's Parameter Store as a provider: `aws-ssm:///path/to/name[:version|:label]`."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from broker_worker.core.aws_references import ParameterPlace, parse_parameter
from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.ports import Fetched, Health, Scope
from broker_worker.providers.aws_answers import check_size, conflict, fetched_of, read_only_version, require_service
from broker_worker.providers.aws_client import AwsClient, AwsSettings
from broker_worker.providers.aws_credentials import fingerprint_of
from broker_worker.providers.aws_errors import not_found, unreadable_answer
from broker_worker.providers.aws_reach import MOST_LISTED, PARAMETERS, scope_of
from broker_worker.providers.reference import place_of

if TYPE_CHECKING:
    from mypy_boto3_ssm import SSMClient

SCHEME: Final = "aws-ssm"
BATCH: Final = 10
"""Parameters a request (GetParameters, `Names`)."""
MAX_PARAMETER: Final = 8_192
"""Largest value, in bytes: that of an advanced parameter; standard ones hold 4 KiB (Systems Manager, "Quotas")."""
_Answers = Mapping[ParameterPlace, Fetched | ProviderError]


class ParameterStoreProvider:
    """Fetches and stores parameters of one account and region.

    Args:
        settings: how AWS is reached.
    """

    def __init__(self, settings: AwsSettings) -> None:
        self._aws: AwsClient[SSMClient] = AwsClient(settings, "ssm", "AWS Parameter Store")

    @property
    def name(self) -> str:
        """`aws-ssm`."""
        return SCHEME

    @property
    def is_refused_for_good(self) -> bool:
        """No: roles renew what they give; see `ports.CredentialedProvider`."""
        return False

    def fingerprint(self, salt: bytes) -> str:
        """Tells the credentials from others; see `ports.CredentialedProvider`."""
        return fingerprint_of(self._aws.settings.profile, salt)

    async def get_many(self, refs: Sequence[str]) -> Mapping[str, Fetched | ProviderError]:
        """Fetch values; see `ports.Provider.get_many`."""
        deadline = self._aws.deadline()
        answers: dict[str, Fetched | ProviderError] = {}
        places: dict[str, ParameterPlace] = {}
        for ref in refs:
            try:
                places[ref] = _place_of(ref)
            except ProviderError as error:
                answers[ref] = error
        if places:
            found: dict[ParameterPlace, Fetched | ProviderError] = {}
            for part in await asyncio.gather(*(self._batch(batch, deadline) for batch in _batches(places.values()))):
                found |= part
            require_service(found)
            answers |= {ref: found[place] for ref, place in places.items()}
        return answers

    async def put(self, ref: str, value: bytes, *, expected: str | None = None) -> str | None:
        """Store a value as a SecureString; see `ports.Provider.put`.

        The Parameter Store has no conditional write but for creating. With a version, that one is looked at first; if
        another writer comes in between all the same, this value is stored, and the error says so.
        """
        place, deadline = _place_of(ref), self._aws.deadline()
        if place.selector is not None:
            raise read_only_version()
        check_size(len(value), MAX_PARAMETER, "a parameter")
        text = _text_of(value)
        if expected:
            await self._require(place.name, expected, deadline)
        version = await self._store(place.name, text, deadline, overwrite=expected != "")
        if expected and version != int(expected) + 1:
            raise conflict(f"another writer came in between: this value is stored, as version {version}")
        return str(version)

    async def health(self) -> Health:
        """Whether AWS lets us in; see `ports.Provider.health`. Asks for the description of one parameter."""
        return await self._aws.health(lambda aws: aws.describe_parameters(MaxResults=1))

    async def visible(self, refs: Sequence[str], written: Collection[str]) -> Scope | None:
        """What the credentials can do that nothing needs; see `ports.ScopeReporter`."""
        needed = {_place_of(ref).name: False for ref in refs} | {_place_of(ref).name: True for ref in written}
        return await scope_of(self._aws, PARAMETERS, _arns, needed)

    async def close(self) -> None:
        """Forget the credentials; see `ports.Provider.close`."""
        await self._aws.close()

    async def _batch(self, places: Sequence[ParameterPlace], deadline: float) -> _Answers:
        names = [_selected(place) for place in places]
        try:
            answer = await self._aws.call(lambda aws: aws.get_parameters(Names=names, WithDecryption=True), deadline)
        except ProviderError as error:
            if len(places) == 1 or not error.is_about_the_name:
                return dict.fromkeys(places, error)
        else:
            return {place: _answer(answer, place) for place in places}
        # AWS refuses a request as a whole for one name in it, such as one that the policy does not permit.
        found: dict[ParameterPlace, Fetched | ProviderError] = {}
        for part in await asyncio.gather(*(self._batch([place], deadline) for place in places)):
            found |= part
        return found

    async def _require(self, name: str, expected: str, deadline: float) -> None:
        place = ParameterPlace(name)
        answer = await self._aws.call(lambda aws: aws.get_parameters(Names=[name], WithDecryption=False), deadline)
        found = _answer(answer, place)
        if isinstance(found, ProviderError):
            raise conflict("there is no such parameter") if found.kind is FailureKind.NOT_FOUND else found
        if found.version != expected:
            raise conflict("the parameter has another version by now")

    async def _store(self, name: str, text: str, deadline: float, *, overwrite: bool) -> int:
        """Send it once: a second attempt would count as another writer's."""
        answer = await self._aws.write(
            lambda aws: aws.put_parameter(Name=name, Value=text, Type="SecureString", Overwrite=overwrite),
            deadline,
            attempts=1,
        )
        version: object = answer.get("Version")
        if not isinstance(version, int):
            raise unreadable_answer()
        return version


def _arns(aws: "SSMClient") -> Mapping[str, str]:
    pages = aws.get_paginator("describe_parameters").paginate(
        PaginationConfig={"MaxItems": MOST_LISTED, "PageSize": 50}
    )
    return {each["Name"]: each.get("ARN", "") for page in pages for each in page["Parameters"]}


def _place_of(ref: str) -> ParameterPlace:
    place = parse_parameter(place_of(ref, SCHEME))
    assert place is not None  # `place_of` checked its form
    return place


def _selected(place: ParameterPlace) -> str:
    return place.name if place.selector is None else f"{place.name}:{place.selector}"


def _batches(places: Collection[ParameterPlace]) -> list[list[ParameterPlace]]:
    """Ten a batch, and no name twice in one: answers are told apart by their names."""
    batches: list[dict[str, ParameterPlace]] = []
    for place in dict.fromkeys(places):
        room = (batch for batch in batches if len(batch) < BATCH and place.name not in batch)
        batch = next(room, None)
        if batch is None:
            batch = {}
            batches.append(batch)
        batch[place.name] = place
    return [list(batch.values()) for batch in batches]


def _answer(answer: Mapping[str, object], place: ParameterPlace) -> Fetched | ProviderError:
    parameters, invalid = answer.get("Parameters"), answer.get("InvalidParameters")
    for found in parameters if isinstance(parameters, list) else []:
        if isinstance(found, Mapping) and found.get("Name") == place.name:
            value, version = found.get("Value"), found.get("Version")
            is_other = (place.selector or "").isdigit() and str(version) != place.selector
            if not isinstance(value, str) or not isinstance(version, int) or is_other:
                return unreadable_answer()
            return fetched_of(value, str(version))
    is_unknown = isinstance(invalid, list) and (_selected(place) in invalid or place.name in invalid)
    return not_found() if is_unknown else unreadable_answer()


def _text_of(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:  # it holds the value: raised outside this block, so as not to become the context
        pass
    raise ProviderError(FailureKind.UNKNOWN, "a parameter can hold only text", hint="write UTF-8, or use aws-sm://")
