"""What people are asked, and the way on which their decisions go: for the terminal and the dashboard alike.

Both streams are anybody's who owns the queue. A request counts with the broker's signature, a decision with an
approver's; whatever else stands there is counted and ignored. Nothing here holds a key of the broker or of a person.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from agent_sdk.wire import keynames
from agent_sdk.wire.errors import WireError
from broker_worker.core.approval_book import ApprovalBook, Matter, State, is_refused
from broker_worker.core.approvals import ApprovalRequest, Decision, decode_decision, open_request
from broker_worker.core.configuration import Configuration
from broker_worker.core.control import decision_message, decode_control
from broker_worker.core.errors import ApprovalError, QueueError
from broker_worker.core.revocations import Revocation, Revocations, open_revocation
from broker_worker.files.keys import known_control_public, load_public_identity, load_seed
from broker_worker.people.announcing import CONTROL_LENGTH
from broker_worker.people.assertion import check_assertion
from broker_worker.queue.acl import CONSOLE
from broker_worker.queue.login import process_url
from broker_worker.queue.streams import is_far_ahead
from broker_worker.settings import Settings

_COUNT = 256
_ROUND_MS = 500
_ANSWER_SECONDS = 10.0

FAULTS: Final[Mapping[str, str]] = {
    "unknown_request": "nobody asked for it, or it was long ago",
    "other_request": "it is about another request",
    "unknown_approver": "approvers.yaml does not know who decided",
    "not_an_approver_of_this": "the policy does not let that person decide this",
    "bad_signature": "it is not signed with a key that approvers.yaml has for that person",
    "too_late": "the time to decide is over",
    "from_the_future": "the clock of whoever signed is ahead by more than a minute",
    "decided_already": "that person has decided already",
}
"""Why a decision does not count, in words for people."""


@dataclass(frozen=True, slots=True)
class Item:
    """A request with what has come of it.

    Args:
        matter: the request and the decisions on it.
        state: `waiting`, `approved`, `denied`, `expired` or `void`.
        missing: how many people must still approve; 0 unless it waits.
    """

    matter: Matter
    state: State
    missing: int

    @property
    def request(self) -> ApprovalRequest:
        """What was asked."""
        return self.matter.request

    @property
    def approval_id(self) -> str:
        """What people and the audit call it."""
        return self.matter.request.approval_id


class Inbox:
    """Reads what people are asked and what they decided, and hands over decisions.

    Args:
        client: a connection as the user `console`.
        identity: the public half of the broker's identity, 32 bytes.
        rules: the operator's files in force.
        clock: the time, ms since the epoch.
        control: the public half of the control key, 32 bytes, which tells what was revoked; None if it is not here.
    """

    def __init__(
        self,
        client: "Redis",
        identity: bytes,
        rules: Callable[[], Configuration],
        clock: Callable[[], int],
        control: bytes | None = None,
    ) -> None:
        self._client = client
        self._identity = identity
        self._rules = rules
        self._clock = clock
        self._control = control
        self._revocations = Revocations()
        self._book = ApprovalBook(check_assertion)
        self._read_to = {keynames.APPROVALS: b"0", keynames.CONTROL: b"0"}
        self._reading = asyncio.Lock()
        self.ignored: Counter[str] = Counter()
        """How many entries did not count, by reason: `forged`, `malformed`, or one of `FAULTS`."""

    async def refresh(self) -> None:
        """Read everything that stands on the queue by now.

        Raises:
            QueueError: if the queue cannot be reached or refuses.
        """
        async with self._reading:
            self._leave_spoiled()
            while await self._read(None):
                pass

    async def watch(self) -> AsyncIterator[tuple[Item, ...]]:
        """Yield what is new or has changed, also by the clock; at first everything that there is.

        Raises:
            QueueError: if the queue cannot be reached or refuses; watching may then begin again.
        """
        await self.refresh()
        known: dict[bytes, tuple[State, int]] = {}
        while True:
            items = self.items()
            now = {item.request.digest(): (item.state, len(item.matter.decisions)) for item in items}
            changed = tuple(item for item in items if known.get(digest := item.request.digest()) != now[digest])
            known = now
            if changed:
                yield changed
            async with self._reading:
                spoiled = self._leave_spoiled()
                await self._read(_ROUND_MS)
            if spoiled:  # all of it was there, so nothing waited; nor will the next round, as long as it is spoiled
                await asyncio.sleep(_ROUND_MS / 1000)

    def items(self) -> tuple[Item, ...]:
        """All requests of which something is known, the newest first."""
        rules, now = self._rules(), self._clock()
        self._book.purge(now)
        return tuple(reversed([self._item(matter, rules, now) for matter in self._book]))

    def find(self, text: str) -> Item:
        """The request with that id.

        Args:
            text: the id, or so much of its beginning that no other begins alike.

        Raises:
            ApprovalError: if there is none or more than one.
        """
        found = [matter for matter in self._book if text and matter.request.approval_id.startswith(text)]
        if not found:
            raise ApprovalError(
                f"there is no approval {text[:32]!r}", hint="`secret-broker approvals list --all` shows all"
            )
        if len(found) > 1:
            ids = ", ".join(matter.request.approval_id for matter in found[:4])
            raise ApprovalError(f"{len(found)} approvals begin with {text!r}", hint=f"write more of it: {ids}")
        return self._item(found[0], self._rules(), self._clock())

    def check(self, item: Item, verdict: str) -> None:
        """Refuse a verdict that would change nothing, before anybody signs it.

        Raises:
            ApprovalError: with what has come of the request already.
        """
        possible = {"approve": ("waiting",), "deny": ("waiting", "approved")}
        if item.state not in possible[verdict]:
            hint = _HINTS.get(item.state, "")
            raise ApprovalError(f"{item.approval_id} cannot be decided any more: it is {item.state}", hint=hint)

    async def submit(self, decision: Decision) -> Item:
        """Put a signed decision where workers read it.

        Args:
            decision: signed by a person.

        Returns:
            The request, with the decision counted.

        Raises:
            ApprovalError: if workers would not count it.
            QueueError: if the queue does not take it.
        """
        rules, now = self._rules(), self._clock()
        fault = self._book.fault_of(decision, rules.approvers, now)
        if fault is not None:
            known = self._book.get(decision.request)
            may = "" if known is None else f"{', '.join(known.request.approvers)} may; "
            raise ApprovalError(
                f"the decision of {decision.approver} on {decision.approval_id} does not count: {FAULTS[fault]}",
                hint=f"{may}`secret-broker approvals show {decision.approval_id}` shows who decided",
            )
        matter = self._book.get(decision.request)
        assert matter is not None
        self.check(self._item(matter, rules, now), decision.verdict)
        entry: dict[Any, Any] = {keynames.MESSAGE_FIELD: decision_message(decision)}
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await self._client.xadd(keynames.CONTROL, entry, maxlen=CONTROL_LENGTH, approximate=True)
        except (RedisError, OSError) as error:
            raise QueueError(f"the queue does not take the decision: {_why(error)}", hint="try again") from error
        self._book.decide(decision, rules.approvers, now)
        return self._item(matter, rules, now)

    def _leave_spoiled(self) -> bool:
        """Read a stream anew whose last id lies far ahead of the clock: workers remove it, and no later id comes.

        Returns:
            Whether there is such a stream.
        """
        spoiled = [stream for stream, last in self._read_to.items() if is_far_ahead(last, self._clock())]
        for stream in spoiled:
            self._read_to[stream] = b"0"
        return bool(spoiled)

    async def _read(self, wait_ms: int | None) -> bool:
        """Read once; whether there was anything."""
        try:
            streams: dict[Any, Any] = dict(self._read_to)
            async with asyncio.timeout(_ANSWER_SECONDS):
                raw: Any = await self._client.xread(streams, count=_COUNT, block=wait_ms)
        except (RedisError, OSError) as error:
            raise QueueError(
                f"the queue cannot be read: {_why(error)}", hint="`secret-broker doctor` tells more"
            ) from error
        found = {key.decode(): entries for key, entries in raw}
        asked = found.get(keynames.APPROVALS, [])
        for entry_id, fields in asked:
            self._read_to[keynames.APPROVALS] = entry_id
            self._take_request(fields.get(keynames.MESSAGE_FIELD, b""))
        if len(asked) < _COUNT:  # else a decision may be about what is not read yet
            for entry_id, fields in found.get(keynames.CONTROL, []):
                self._read_to[keynames.CONTROL] = entry_id
                self._take_control(fields.get(keynames.MESSAGE_FIELD, b""))
        return bool(found)

    def _take_request(self, raw: bytes) -> None:
        try:
            self._book.add(open_request(raw, self._identity))
        except WireError as error:
            self.ignored["forged" if error.reason == "forged" else "malformed"] += 1

    def _take_control(self, raw: bytes) -> None:
        try:
            message = decode_control(raw)
            if message.kind == "revocation" and self._control is not None:
                self._take_order(open_revocation(message.body, self._control))
            if message.kind != "decision":
                return
            decision = decode_decision(message.body)
        except WireError:
            self.ignored["malformed"] += 1
            return
        matter = self._book.get(decision.request)
        if matter is not None and matter.decisions.get(decision.approver) == decision:
            return  # our own, or a copy
        fault = self._book.decide(decision, self._rules().approvers, self._clock())
        if fault is not None:
            self.ignored[fault] += 1

    def _take_order(self, order: Revocation) -> None:
        """Void for good what waits and was asked before an order that refuses it, as workers do."""
        if not self._revocations.apply(order) or order.order != "revoke":
            return
        rules, now = self._rules(), self._clock()
        for matter in self._book:
            waits = matter.state(rules.approvers, rules.policy.digest, now) == "waiting"
            if waits and matter.request.asked_at <= order.at and is_refused(matter.request, self._revocations):
                matter.final = "void"

    def _item(self, matter: Matter, rules: Configuration, now: int) -> Item:
        state = matter.state(rules.approvers, rules.policy.digest, now)
        if state == "waiting" and is_refused(matter.request, self._revocations):
            state = "void"
        missing = matter.request.quorum - len(matter.counting(rules.approvers)) if state == "waiting" else 0
        return Item(matter, state, missing)


def _why(error: Exception) -> str:
    return f"no answer within {_ANSWER_SECONDS:g} s" if isinstance(error, TimeoutError) else str(error)


_HINTS: Mapping[State, str] = {
    "approved": "`secret-broker deny` takes it back, as long as it is not used",
    "expired": "the agent may ask again",
    "denied": "one who denies is enough; the agent may ask for something else",
    "void": "the policy has changed since, or who asked was revoked; the agent may ask again when it may",
}


@asynccontextmanager
async def open_inbox(
    settings: Settings, rules: Callable[[], Configuration], clock: Callable[[], int]
) -> AsyncIterator[Inbox]:
    """An inbox on this installation's queue, with everything read that stands there.

    Args:
        settings: which installation.
        rules: the operator's files in force.
        clock: the time, ms since the epoch.

    Raises:
        SetupError: if a key is missing.
        QueueError: if the queue cannot be reached.
    """
    identity = load_public_identity(settings.keys_dir)
    url = process_url(settings.queue_address, settings.keys_dir, CONSOLE, load_seed)
    # Nothing is repeated: redis-py would write a decision twice if a reply was lost. The timeouts are ours: with its
    # own, it sends through `asyncio.wait_for`, which on Python 3.11 may forget that it was cancelled.
    client = Redis.from_url(url, protocol=2, retry=Retry(NoBackoff(), 0), socket_timeout=None)
    try:
        inbox = Inbox(client, identity, rules, clock, known_control_public(settings.keys_dir))
        await inbox.refresh()
        yield inbox
    finally:
        await client.aclose()
