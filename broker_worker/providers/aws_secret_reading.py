"""Reading secrets: twenty a request where the policy permits it, else one by one."""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from broker_worker.core.aws_references import SecretPlace
from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.providers.aws_client import AwsClient
from broker_worker.providers.aws_errors import of_code, unreadable_answer

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

BATCH: Final = 20
"""Secrets a request (BatchGetSecretValue, `SecretIdList`)."""
NOT_PERMITTED_SECONDS: Final = 600.0
"""How long batches are not tried again after the policy refused one."""


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """What a version of a secret holds.

    Args:
        version: its id.
        content: a text, or bytes if it was stored as such; never shown by `repr`.
    """

    version: str
    content: str | bytes = field(repr=False)

    @property
    def text(self) -> str:
        """The text; nothing if it was stored as bytes, which have no fields."""
        return self.content if isinstance(self.content, str) else ""


class SecretReader:
    """Reads versions of secrets.

    Args:
        aws: asks Secrets Manager.
        monotonic: a clock in seconds that never goes back.
    """

    def __init__(self, aws: "AwsClient[SecretsManagerClient]", monotonic: Callable[[], float] = time.monotonic) -> None:
        self._aws = aws
        self._monotonic = monotonic
        self._no_batches_until = 0.0

    async def read(
        self, places: Collection[SecretPlace], deadline: float
    ) -> Mapping[SecretPlace, StoredSecret | ProviderError]:
        """Read secrets; each is answered, none raises.

        Args:
            places: whole secrets: without fields, and without repetition.
            deadline: when all must be over; see `AwsClient.deadline`.
        """
        found: dict[SecretPlace, StoredSecret | ProviderError] = {}
        current = [place for place in places if place.version is None and place.stage is None]
        if len(current) > 1 and self._monotonic() >= self._no_batches_until:
            batches = [current[start : start + BATCH] for start in range(0, len(current), BATCH)]
            for answers in await asyncio.gather(*(self._batch(batch, deadline) for batch in batches)):
                found |= answers
        rest = [place for place in places if place not in found]
        outcomes = await asyncio.gather(*(self._one(place, deadline) for place in rest))
        return found | dict(zip(rest, outcomes, strict=True))

    async def read_one(self, place: SecretPlace, deadline: float) -> StoredSecret:
        """Read one secret.

        Raises:
            ProviderError: if there is nothing to read.
        """
        stored = await self._one(place, deadline)
        if isinstance(stored, ProviderError):
            raise stored
        return stored

    async def _one(self, place: SecretPlace, deadline: float) -> StoredSecret | ProviderError:
        which: dict[str, str] = {}
        if place.version is not None:
            which = {"VersionId": place.version}
        elif place.stage is not None:
            which = {"VersionStage": place.stage}
        try:
            answer = await self._aws.call(lambda aws: aws.get_secret_value(SecretId=place.name, **which), deadline)
        except ProviderError as error:
            return error
        return _stored(answer, place)

    async def _batch(
        self, places: Sequence[SecretPlace], deadline: float
    ) -> Mapping[SecretPlace, StoredSecret | ProviderError]:
        """Read the current versions of up to twenty secrets. Those that are not in the answer are to be read alone."""
        names = [place.name for place in places]
        try:
            answer = await self._aws.call(lambda aws: aws.batch_get_secret_value(SecretIdList=names), deadline)
        except ProviderError as error:
            if error.kind is FailureKind.FORBIDDEN:
                self._no_batches_until = self._monotonic() + NOT_PERMITTED_SECONDS
            # What is about a name is about one of them: the others must not pay for it.
            return {} if error.is_about_the_name else dict.fromkeys(places, error)
        by_name = {place.name: place for place in places}
        found: dict[SecretPlace, StoredSecret | ProviderError] = {}
        for value in _entries(answer, "SecretValues"):
            place = by_name.get(str(value.get("Name")))
            if place is not None:
                found[place] = _stored(value, place)
        for refused in _entries(answer, "Errors"):
            place = by_name.get(str(refused.get("SecretId")))
            if place is not None:
                found[place] = of_code(refused.get("ErrorCode"))
        return found


def _entries(answer: Mapping[str, object], key: str) -> list[Mapping[str, object]]:
    entries = answer.get(key)
    return [entry for entry in entries if isinstance(entry, Mapping)] if isinstance(entries, list) else []


def _stored(answer: Mapping[str, object], place: SecretPlace) -> StoredSecret | ProviderError:
    version, text, binary = answer.get("VersionId"), answer.get("SecretString"), answer.get("SecretBinary")
    content = binary if text is None else text
    fits = answer.get("Name") == place.name and place.version in (None, version) and (text is None or binary is None)
    if not fits or not isinstance(version, str) or not isinstance(content, str | bytes):
        return unreadable_answer()
    return StoredSecret(version, content)
