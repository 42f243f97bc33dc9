"""Writing secrets: new ones, new versions, and single fields, each only if the secret holds what the writer expects.

Secrets Manager has no conditional write, but its labels have one: `AWSCURRENT` moves to another version only if the
request names the version that has it (UpdateSecretVersionStage, `RemoveFromVersionId`). So a replacement is stored
beside the current version first, under a label of ours, and then made the current one (docs/adr/0021).
"""

import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from broker_worker.core.aws_references import SecretPlace
from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.providers.aws_answers import check_size, conflict, read_only_version
from broker_worker.providers.aws_client import AwsClient
from broker_worker.providers.aws_secret_fields import has_field, with_field
from broker_worker.providers.aws_secret_reading import SecretReader, StoredSecret

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

DRAFT: Final = "SECRET_BROKER_DRAFT"
"""The label of a version that is about to become the current one."""
MAX_SECRET: Final = 65_536
"""Largest secret, in bytes (Secrets Manager, "Quotas")."""
_ATTEMPTS: Final = 4
"""How often a write without an expected version meets another writer before it gives up."""
_OTHER = "the secret has another version by now"
_NOTHING = "there is no such secret, and one was expected"
_CROWD = "others write this secret again and again"


class SecretWriter:
    """Writes secrets; see `ports.Provider.put`.

    Args:
        aws: asks Secrets Manager.
        reader: reads what a field is to be put into.
        new_id: makes the ids of versions.
    """

    def __init__(
        self,
        aws: "AwsClient[SecretsManagerClient]",
        reader: SecretReader,
        new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
    ) -> None:
        self._aws = aws
        self._reader = reader
        self._new_id = new_id

    async def put(self, place: SecretPlace, value: bytes, expected: str | None, deadline: float) -> str:
        """Store a value and return its version's id.

        Args:
            place: what to write.
            value: the whole secret, or the field's text.
            expected: see `ports.Provider.put`; the version is always that of the whole secret.
            deadline: when all must be over; see `AwsClient.deadline`.

        Raises:
            ProviderError: see `ports.Provider.put`.
        """
        if place.version is not None or place.stage is not None:
            raise read_only_version()
        check_size(len(value), MAX_SECRET, "a secret")
        if place.field is not None:
            return await self._put_field(place.name, place.field, value, expected, deadline)
        content = _content(value)
        if expected is None:
            return await self._put(place.name, content, deadline)
        if expected == "":
            return await self._create(place.name, content, deadline)
        current = await self._current(place.name, deadline)
        if current != expected:
            raise conflict(_OTHER if current else _NOTHING)
        return await self._swap(place.name, content, expected, deadline)

    async def _put_field(self, name: str, field: str, value: bytes, expected: str | None, deadline: float) -> str:
        """Put a field into the version that was read, and into no other: what others write meanwhile is not lost."""
        for _ in range(_ATTEMPTS):
            stored = await self._stored(name, deadline)
            if expected and (stored is None or stored.version != expected):
                raise conflict(_OTHER if stored else _NOTHING)
            text = "{}" if stored is None else stored.text
            if expected == "" and has_field(text, field):
                raise conflict("the secret has such a field already")
            content = _content(with_field(text, field, value).encode())
            try:
                if stored is None:
                    return await self._create(name, content, deadline)
                return await self._swap(name, content, stored.version, deadline)
            except ProviderError as error:
                if error.kind is not FailureKind.CONFLICT or expected:
                    raise
        raise conflict(_CROWD)

    async def _put(self, name: str, content: Mapping[str, Any], deadline: float) -> str:
        """Make a version the current one, whatever is there; make the secret if it is not."""
        for _ in range(_ATTEMPTS):
            for write, missed in ((self._replace, FailureKind.NOT_FOUND), (self._create, FailureKind.CONFLICT)):
                try:
                    return await write(name, content, deadline)
                except ProviderError as error:
                    if error.kind is not missed:
                        raise
        raise conflict(_CROWD)

    async def _replace(self, name: str, content: Mapping[str, Any], deadline: float) -> str:
        token = self._new_id()
        await self._aws.write(partial(_put_value, name, token, content), deadline)
        return token

    async def _create(self, name: str, content: Mapping[str, Any], deadline: float) -> str:
        token = self._new_id()
        await self._aws.write(lambda aws: aws.create_secret(Name=name, ClientRequestToken=token, **content), deadline)
        return token

    async def _swap(self, name: str, content: Mapping[str, Any], expected: str, deadline: float) -> str:
        """Make a version the current one in place of `expected`, in one step."""
        token = self._new_id()
        await self._aws.write(partial(_put_value, name, token, {**content, "VersionStages": [DRAFT]}), deadline)
        failure = await self._move("AWSCURRENT", name, deadline, MoveToVersionId=token, RemoveFromVersionId=expected)
        await self._move(DRAFT, name, deadline, RemoveFromVersionId=token)  # if that fails, the next writer moves it
        if failure is None:
            return token
        # Its first answer may have been lost, and the second attempt found the label moved already: by us.
        try:
            current = await self._current(name, deadline)
        except ProviderError:
            raise failure from None
        if current == token:
            return token
        raise failure if current == expected else conflict(_OTHER)

    async def _move(self, label: str, name: str, deadline: float, **versions: str) -> ProviderError | None:
        try:
            await self._aws.write(
                lambda aws: aws.update_secret_version_stage(SecretId=name, VersionStage=label, **versions), deadline
            )
        except ProviderError as error:
            return error
        return None

    async def _stored(self, name: str, deadline: float) -> StoredSecret | None:
        try:
            return await self._reader.read_one(SecretPlace(name), deadline)
        except ProviderError as error:
            if error.kind is not FailureKind.NOT_FOUND:
                raise
        return None

    async def _current(self, name: str, deadline: float) -> str | None:
        """The id of the current version, without its value; None if there is no such secret, or no version."""
        try:
            answer = await self._aws.call(lambda aws: aws.describe_secret(SecretId=name), deadline)
        except ProviderError as error:
            if error.kind is not FailureKind.NOT_FOUND:
                raise
            return None
        stages = answer.get("VersionIdsToStages", {})
        return next((version for version, labels in stages.items() if "AWSCURRENT" in labels), None)


def _put_value(name: str, token: str, content: Mapping[str, Any], aws: "SecretsManagerClient") -> None:
    aws.put_secret_value(SecretId=name, ClientRequestToken=token, **content)


def _content(value: bytes) -> Mapping[str, Any]:
    """How a value is stored: as a text if it is one, as AWS's console shows it then."""
    check_size(len(value), MAX_SECRET, "a secret")
    try:
        return {"SecretString": value.decode()}
    except UnicodeDecodeError:
        return {"SecretBinary": value}
