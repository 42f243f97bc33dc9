"""The people of a fake desk: what they were asked, and what they decided."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import Delivery, Result

Verdict = Literal["approve", "deny"]
State = Literal["waiting", "approved", "denied", "expired", "used"]


@dataclass(slots=True, eq=False)
class FakeApproval:
    """What people are asked about some names of a request.

    Args:
        approval_id: as `Refusal.approval` has it.
        names: the names that it is about, in the order asked.
        purpose: what the agent said that they are for.
        run_key: the public key of the run that asked.
        expires_at: until when they may decide, ms since the epoch.
        state: what came of it; `used` once a single-use approval released something.
        way: how the values were to reach the work.
    """

    approval_id: str
    names: tuple[str, ...]
    purpose: str
    run_key: bytes
    expires_at: int
    state: State = "waiting"
    way: Delivery = "value"


Person = Callable[[FakeApproval], Verdict | None]
"""Decides on what waits; None lets it wait."""

_REFUSED: dict[State, Code] = {
    "waiting": Code.APPROVAL_PENDING,
    "denied": Code.APPROVAL_DENIED,
    "expired": Code.APPROVAL_EXPIRED,
}


class FakePeople:
    """Keeps what was asked, and says what it is good for."""

    def __init__(self) -> None:
        self.asked: list[FakeApproval] = []
        self._told: set[str] = set()

    def refusals(
        self, run_key: bytes, names: Sequence[str], way: Delivery, purpose: str, now: int, ttl: int, *, single_use: bool
    ) -> list[Result]:
        """Refuse names that no approval is there for, and ask for it if that was not done.

        Args:
            run_key: the public key of the run that asks.
            names: the names of one request that need an approval.
            way: how the values are to reach the work.
            purpose: what the agent says that they are for.
            now: the time, ms since the epoch.
            ttl: for how long people may decide, ms.
            single_use: whether an approval serves once; if not, as long as the run lives.

        Returns:
            A refusal a name; none if they were approved.
        """
        matter = self._find(run_key, tuple(names), way, purpose)
        if matter is None:
            matter = FakeApproval(secrets.token_hex(8), tuple(names), purpose, run_key, now + ttl, way=way)
            self.asked.append(matter)
        elif matter.state == "waiting" and now >= matter.expires_at:
            matter.state = "expired"
        if matter.state == "approved":
            if single_use:
                matter.state = "used"
            return []
        if matter.state == "expired":
            self._told.add(matter.approval_id)
        left = matter.expires_at - now if matter.state == "waiting" else None
        approval = bytes.fromhex(matter.approval_id)
        code = _REFUSED[matter.state]
        return [Result(name, "refused", code, retry_after=left, approval=approval) for name in names]

    def decide(self, state: State, approval: FakeApproval | None) -> list[FakeApproval]:
        """Settle one approval, or all that wait.

        Returns:
            Those that were settled by it.
        """
        settled = [each for each in self.asked if each.state == "waiting" and approval in (None, each)]
        for each in settled:
            each.state = state
        return settled

    def _find(self, run_key: bytes, names: tuple[str, ...], way: Delivery, purpose: str) -> FakeApproval | None:
        """The newest one that is for exactly this and has something to say; an expired one says so once."""
        for each in reversed(self.asked):
            if (each.run_key, each.names, each.way, each.purpose) == (run_key, names, way, purpose):
                over = each.state == "used" or each.approval_id in self._told
                return None if over else each
        return None
