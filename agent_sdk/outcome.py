"""From a reply to what the caller gets: secrets for what was granted, refusals for the rest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from msgspec import Struct

from agent_sdk.errors import Refusal, refused_as_a_whole, refused_names
from agent_sdk.holdings import Holdings
from agent_sdk.secret import Secret
from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import Reply, Result, Way, lease_id


@dataclass(frozen=True, slots=True)
class Resolution:
    """What `get_many(..., partial=True)` returns.

    Args:
        secrets: what was granted, by name.
        refusals: what was not, each with its code.
    """

    secrets: Mapping[str, Secret]
    refusals: tuple[Refusal, ...]


@dataclass(frozen=True, slots=True)
class Stored:
    """What `put` and `generate` return.

    Args:
        name: what was stored.
        version: the vault's version of it, which a later write can name as `replaces`; None if it has none.
        secret: the value that was made, if it was asked for.
    """

    name: str
    version: str | None
    secret: Secret | None = None


class Answer(Struct, frozen=True):
    """One reply, settled against what was asked.

    Args:
        secrets: what was granted, by name, in the order asked.
        refusals: the other names.
        names: what `list_names` asked for, each with the ways in which its value may reach the work.
        refused: the code, if the request as a whole was refused.
        retry_after: seconds after which asking again may help, if the request as a whole was refused.
        results: what became of a lease or of a write, if that was what was asked.
    """

    secrets: Mapping[str, Secret]
    refusals: tuple[Refusal, ...] = ()
    names: Mapping[str, tuple[Way, ...]] = {}
    refused: Code | None = None
    retry_after: float | None = None
    results: tuple[Result, ...] = ()

    def raise_if_refused(self) -> None:
        """Raise what the caller should see if not everything was granted.

        Raises:
            NotGranted: of the class that belongs to the code; it holds no values.
        """
        if self.refused is not None:
            raise refused_as_a_whole(self.refused, self.refusals, self.retry_after)
        if self.refusals:
            raise refused_names(self.refusals)

    def of_write(self, name: str) -> Result | Refusal:
        """What became of a write.

        Args:
            name: the name that was to be written.

        Returns:
            The result if it was granted; a reply that is about anything else counts as `unavailable`.
        """
        if self.refused is not None:
            return Refusal(name, self.refused, self.retry_after)
        result = self.results[0] if len(self.results) == 1 and self.results[0].name == name else None
        return _refusal(name, result) if result is None or result.outcome == "refused" else result

    def of_lease(self, name: str, lease: bytes) -> Result | Refusal:
        """What became of a lease that was to be renewed or given back.

        Args:
            name: the secret's name.
            lease: the lease's token.

        Returns:
            The result if it was granted; a reply that is about anything else counts as `unavailable`.
        """
        if self.refused is not None:
            return Refusal(name, self.refused, self.retry_after)
        result = self.results[0] if len(self.results) == 1 else None
        if result is None or result.name != name:
            return Refusal(name, Code.UNAVAILABLE)
        if result.outcome == "refused":
            return _refusal(name, result)
        same = result.lease is None or lease_id(result.lease) == lease_id(lease)
        return result if same else Refusal(name, Code.UNAVAILABLE)


def settle(reply: Reply, asked: Sequence[str], holdings: Holdings, now: int, subject: str | None = None) -> Answer:
    """Match a reply with the names that were asked for.

    Every asked name ends up granted or refused: one that the reply leaves out, or grants without a value, counts as
    `unavailable`. Names that were not asked for are dropped. A reply that refuses the request as a whole grants
    nothing, whatever else it says; if it does so because the run was revoked, all that the run holds is dropped, or all
    that was asked for on behalf of that run. Of a name that is refused as revoked, every copy is dropped.

    Args:
        reply: an authentic reply.
        asked: the names, each once; none if the request was about something else.
        holdings: what the run holds; what is granted joins it.
        now: the time, ms since the epoch.
        subject: the token of the run that this was asked for, if that is another one.
    """
    if reply.status == "refused" and (reply.code is not None or not reply.results):
        code, retry_after = reply.code or Code.DENIED, _seconds(reply.retry_after)
        if code == Code.REVOKED:
            holdings.revoke_all() if subject is None else holdings.revoke_of(subject)
        refusals = tuple(Refusal(name, code, retry_after) for name in asked)
        return Answer({}, refusals, refused=code, retry_after=retry_after)
    if not asked:
        ways = reply.ways if len(reply.ways) == len(reply.names) else ((),) * len(reply.names)
        return Answer({}, names=dict(zip(reply.names, ways, strict=True)), results=reply.results)
    results = {result.name: result for result in reply.results}
    secrets: dict[str, Secret] = {}
    others: list[Refusal] = []
    for name in asked:
        result = results.get(name)
        if result is not None and result.outcome == "granted" and result.value is not None:
            secrets[name] = holdings.lend(result, result.value, now, subject)
        else:
            refusal = _refusal(name, result)
            others.append(refusal)
            if refusal.code == Code.REVOKED:
                holdings.revoke_secret(name)
    return Answer(secrets, tuple(others))


def _refusal(name: str, result: Result | None) -> Refusal:
    if result is None or result.outcome == "granted":
        return Refusal(name, Code.UNAVAILABLE)
    approval = None if result.approval is None else result.approval.hex()
    return Refusal(name, result.code or Code.DENIED, _seconds(result.retry_after), approval, result.version)


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
