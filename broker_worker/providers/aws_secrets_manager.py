"""AWS Secrets Manager as a provider: `aws-sm://name[?version=id|?stage=label][#field]`."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from broker_worker.core.aws_references import SecretPlace, parse_secret
from broker_worker.core.errors import ProviderError
from broker_worker.ports import Fetched, Health, Scope
from broker_worker.providers.aws_answers import fetched_of, require_service
from broker_worker.providers.aws_client import AwsClient, AwsSettings
from broker_worker.providers.aws_credentials import fingerprint_of
from broker_worker.providers.aws_reach import MOST_LISTED, SECRETS, scope_of
from broker_worker.providers.aws_secret_fields import field_of
from broker_worker.providers.aws_secret_reading import SecretReader, StoredSecret
from broker_worker.providers.aws_secret_writing import SecretWriter
from broker_worker.providers.reference import place_of

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

SCHEME: Final = "aws-sm"


class SecretsManagerProvider:
    """Fetches and stores secrets of one account and region.

    Args:
        settings: how AWS is reached.
        monotonic: a clock in seconds that never goes back.
    """

    def __init__(self, settings: AwsSettings, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._aws: AwsClient[SecretsManagerClient] = AwsClient(settings, "secretsmanager", "AWS Secrets Manager")
        self._reader = SecretReader(self._aws, monotonic)
        self._writer = SecretWriter(self._aws, self._reader)

    @property
    def name(self) -> str:
        """`aws-sm`."""
        return SCHEME

    @property
    def is_refused_for_good(self) -> bool:
        """No: roles renew what they give; see `ports.CredentialedProvider`."""
        return False

    def fingerprint(self, salt: bytes) -> str:
        """Tells the credentials from others; see `ports.CredentialedProvider`."""
        return fingerprint_of(self._aws.settings.profile, salt)

    async def get_many(self, refs: Sequence[str]) -> Mapping[str, Fetched | ProviderError]:
        """Fetch values; see `ports.Provider.get_many`. A secret is read once however many fields are wanted."""
        deadline = self._aws.deadline()
        answers: dict[str, Fetched | ProviderError] = {}
        places: dict[str, SecretPlace] = {}
        for ref in refs:
            try:
                places[ref] = _place_of(ref)
            except ProviderError as error:
                answers[ref] = error
        if places:
            whole = {ref: replace(place, field=None) for ref, place in places.items()}
            found = await self._reader.read(set(whole.values()), deadline)
            require_service(found)
            for ref, place in places.items():
                answers[ref] = _answer(found[whole[ref]], place.field)
        return answers

    async def put(self, ref: str, value: bytes, *, expected: str | None = None) -> str | None:
        """Store a value; see `ports.Provider.put`. The version is that of the whole secret, also for a field."""
        return await self._writer.put(_place_of(ref), value, expected, self._aws.deadline())

    async def health(self) -> Health:
        """Whether AWS lets us in; see `ports.Provider.health`. Asks for random characters, which reads no secret."""
        return await self._aws.health(lambda aws: aws.get_random_password(PasswordLength=4))

    async def visible(self, refs: Sequence[str], written: Collection[str]) -> Scope | None:
        """What the credentials can do that nothing needs; see `ports.ScopeReporter`."""
        needed = {_place_of(ref).name: False for ref in refs} | {_place_of(ref).name: True for ref in written}
        return await scope_of(self._aws, SECRETS, _arns, needed)

    async def close(self) -> None:
        """Forget the credentials; see `ports.Provider.close`."""
        await self._aws.close()


def _arns(aws: "SecretsManagerClient") -> Mapping[str, str]:
    pages = aws.get_paginator("list_secrets").paginate(PaginationConfig={"MaxItems": MOST_LISTED, "PageSize": 100})
    return {each["Name"]: each["ARN"] for page in pages for each in page["SecretList"]}


def _place_of(ref: str) -> SecretPlace:
    place = parse_secret(place_of(ref, SCHEME))
    assert place is not None  # `place_of` checked its form
    return place


def _answer(found: StoredSecret | ProviderError, field: str | None) -> Fetched | ProviderError:
    if isinstance(found, ProviderError):
        return found
    try:
        return fetched_of(found.content if field is None else field_of(found.text, field), found.version)
    except ProviderError as error:
        return error
