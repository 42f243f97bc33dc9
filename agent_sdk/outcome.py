"""From a reply to what the caller gets: secrets for what was granted, refusals for the rest."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from msgspec import Struct

from agent_sdk.errors import Refusal, refused_as_a_whole, refused_names
from agent_sdk.secret import Secret
from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import Reply, Result, lease_id


@dataclass(frozen=True, slots=True)
class Resolution:
    """What `get_many(..., partial=True)` returns.

    Args:
        secrets: what was granted, by name.
        refusals: what was not, each with its code.
    """

    secrets: Mapping[str, Secret]
    refusals: tuple[Refusal, ...]


class Answer(Struct, frozen=True):
    """One reply, settled against what was asked.

    Args:
        secrets: what was granted, by name, in the order asked.
        refusals: the other names.
        names: what `list_names` asked for.
        refused: the code, if the request as a whole was refused.
        retry_after: seconds after which asking again may help, if the request as a whole was refused.
    """

    secrets: Mapping[str, Secret]
    refusals: tuple[Refusal, ...] = ()
    names: tuple[str, ...] = ()
    refused: Code | None = None
    retry_after: float | None = None

    def raise_if_refused(self) -> None:
        """Raise what the caller should see if not everything was granted.

        Raises:
            NotGranted: of the class that belongs to the code; it holds no values.
        """
        if self.refused is not None:
            raise refused_as_a_whole(self.refused, self.refusals, self.retry_after)
        if self.refusals:
            raise refused_names(self.refusals)


def settle(reply: Reply, asked: Sequence[str], clock: Callable[[], int]) -> Answer:
    """Match a reply with the names that were asked for.

    Every asked name ends up granted or refused: one that the reply leaves out, or grants without a value, counts as
    `unavailable`. Names that were not asked for are dropped.

    Args:
        reply: an authentic reply.
        asked: the names, each once.
        clock: the time in ms since the epoch, by which the secrets expire.
    """
    if reply.status == "refused" and not reply.results:
        code, retry_after = reply.code or Code.DENIED, _seconds(reply.retry_after)
        refusals = tuple(Refusal(name, code, retry_after) for name in asked)
        return Answer({}, refusals, refused=code, retry_after=retry_after)
    results = {result.name: result for result in reply.results}
    secrets: dict[str, Secret] = {}
    others: list[Refusal] = []
    for name in asked:
        result = results.get(name)
        if result is not None and result.outcome == "granted" and result.value is not None:
            secrets[name] = _secret(result, result.value, clock)
        else:
            others.append(_refusal(name, result))
    return Answer(secrets, tuple(others), reply.names)


def _secret(result: Result, value: bytes, clock: Callable[[], int]) -> Secret:
    return Secret(
        result.name,
        value,
        expires_at=result.expires_at,
        version=result.version,
        lease_id=None if result.lease is None else lease_id(result.lease),
        source=result.source,
        clock=clock,
    )


def _refusal(name: str, result: Result | None) -> Refusal:
    if result is None or result.outcome == "granted":
        return Refusal(name, Code.UNAVAILABLE)
    return Refusal(name, result.code or Code.DENIED, _seconds(result.retry_after))


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
