"""The values that flow through the pipeline: an entry becomes an ask, its names become cases, cases an answer."""

from collections.abc import Container
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import Delivery, Request, RichFields, Source, Ways
from agent_sdk.wire.tokens import RunIdentity
from broker_worker.core.approval_book import Matter
from broker_worker.core.configuration import SecretEntry
from broker_worker.core.leases import Holding
from broker_worker.core.policy import ApprovalRule, Decision, Grant
from broker_worker.pipeline.peers import Peer
from broker_worker.ports import Entry

if TYPE_CHECKING:
    from broker_worker.pipeline.decision_cache import Decided

Action = Literal["resolve", "put", "generate", "renew", "release", "list", "report"]


class Case(Struct, gc=False):
    """One name of a request on its way to an outcome.

    Args:
        name: the canonical name.
        decision: what the policy says.
        entry: the registry's entry; None if there is none.
        code: what the agent will be told instead of a value; None as long as it may have it.
        reason: why, for the audit.
        retry_after: ms, where waiting helps.
        rule: who must approve it; None if nobody need.
        is_counted: whether it counts against the secret's and the entry's own limits.
        reading: the entry by which a value that is made may also be read, if that is asked for.
        approval: the approval that it goes on with, waits for, or was refused by.
        age_s: how many seconds ago its value was fetched; None if that was for this request.
        holding: the lease that it is released under, or that is renewed or given back.
        way: how its value is to reach the work, if it is to be read.
    """

    name: str
    decision: Decision
    entry: SecretEntry | None
    rule: ApprovalRule | None = None
    is_counted: bool = True
    reading: Grant | None = None
    code: Code | None = None
    reason: str | None = None
    retry_after: int | None = None
    value: bytes | None = None
    version: str | None = None
    source: Source | None = None
    age_s: int | None = None
    provider: str | None = None
    expires_at: int | None = None
    approval: Matter | None = None
    holding: Holding | None = None
    way: Delivery | None = None

    def __repr__(self) -> str:
        """Everything but the value."""
        return f"Case(name={self.name!r}, code={self.code!r}, reason={self.reason!r})"

    def __rich_repr__(self) -> RichFields:
        """The same for `rich`."""
        return [("name", self.name), ("code", self.code), ("reason", self.reason)]

    def refuse(self, code: Code, reason: str, retry_after: int | None = None) -> None:
        """Refuse this name and forget any value."""
        self.code, self.reason, self.retry_after = code, reason, retry_after
        self.value = self.expires_at = None


class Ask(Struct, gc=False):
    """A request that opened, with the identity that its token proves.

    Args:
        identity: whose rights decide: the sender's, or that of the run that it asks for.
        actor: the sender, if it asks on behalf of another run.
        deliver: how its values are to reach the work, if all go the same way.
        known_names: those of a report's names that the registry has.
        decided: what its cases were opened from, if that may be remembered.
        guarded: whether people may have to approve one of its names.
        writes: whether it stores a value, which the vault must be asked for.
        draft: the sealed reply that was prepared for it.
    """

    entry: Entry
    peer: Peer
    identity: RunIdentity
    request: Request
    purpose: str = ""
    action: Action = "resolve"
    cases: list[Case] = []
    code: Code | None = None
    reason: str | None = None
    retry_after: int | None = None
    names: tuple[str, ...] = ()
    ways: tuple[Ways, ...] = ()
    guarded: bool = False
    writes: bool = False
    draft: bytes | None = None
    actor: RunIdentity | None = None
    deliver: Delivery | None = None
    known_names: Container[str] = ()
    decided: "Decided | None" = None

    def __repr__(self) -> str:
        """Which request it is and what became of it; no text that the agent chose, which may quote a value."""
        return f"Ask(request={self.request!r}, cases={self.cases!r}, code={self.code!r}, reason={self.reason!r})"

    def __rich_repr__(self) -> RichFields:
        """The same for `rich`."""
        return [("request", self.request), ("cases", self.cases), ("code", self.code), ("reason", self.reason)]

    @property
    def sender(self) -> RunIdentity:
        """Who sent it, and is answered."""
        return self.actor or self.identity

    def refuse(self, code: Code, reason: str, retry_after: int | None = None) -> None:
        """Refuse the request as a whole; a reply that was drafted for it is dropped."""
        self.draft = None
        self.code, self.reason, self.retry_after = code, reason, retry_after
        for case in self.cases:
            case.refuse(code, reason, retry_after)
