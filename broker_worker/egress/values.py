"""The values that calls need: asked for on behalf of the run that calls, and remembered for a moment."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from agent_sdk.client import AsyncSecretBroker
from agent_sdk.errors import ApprovalPending, NotGranted
from agent_sdk.wire.errors import SecretBrokerError
from broker_worker.core.egress import Route
from broker_worker.core.limits import Rate
from broker_worker.core.shown_proofs import ShownProofs
from broker_worker.egress.identity import Caller
from broker_worker.egress.lending import LentValue
from broker_worker.egress.limits import Buckets
from broker_worker.egress.problems import Refusal, refused_by_broker, unauthenticated
from broker_worker.egress.scrubbing import Scrubbers

REMEMBERED_SECONDS = 60.0
"""For how long a granted value serves the same run on the same route without asking again."""
REFUSED_SECONDS = 1.0
"""For how long a refusal is given again without asking again."""
APPROVAL_SECONDS = 30.0
"""How long a call waits for the broker's answer, people who have to approve included."""
_STRANGERS = Rate(600, 60_000, 60)
"""How often the broker is asked about tokens that it has not accepted yet: guesses must not use up our own limits."""
_MAX_ENTRIES = 2048
_SKEW_MS = 30_000

_Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Remembered:
    """What the broker said: a value, or why not. `until` is on the loop's clock."""

    until: float
    loan: LentValue | None = None
    error: NotGranted | None = None


class Values:
    """Asks for values and remembers them, in memory and for a minute at most.

    A value that was taken back is gone at once: the client ends it when the broker's notice comes. What was asked with
    a proof of possession is never remembered, since the proof is for one call.

    Args:
        client: who is to be asked now.
    """

    def __init__(self, client: Callable[[], AsyncSecretBroker]) -> None:
        self._client = client
        self._kept: OrderedDict[_Key, _Remembered] = OrderedDict()
        self._asking: dict[_Key, asyncio.Task[LentValue]] = {}
        self._accepted: OrderedDict[str, None] = OrderedDict()
        self._scrubbers = Scrubbers()
        self._proofs = ShownProofs()
        self._strangers = Buckets(lambda: time.monotonic_ns() // 1000)

    def forget(self) -> None:
        """Ask again for everything."""
        self._kept.clear()

    def knows(self, token: str) -> bool:
        """Whether the broker has accepted a token before."""
        return token in self._accepted

    async def lend(self, route: Route, caller: Caller) -> LentValue:
        """The value that goes with a call.

        Args:
            route: its route.
            caller: who calls.

        Raises:
            Refusal: if there is none for it.
        """
        token, key = caller.subject.token, (caller.subject.token, route.name)
        if caller.subject.proof is not None:
            return await self._checked(self._ask_once(route, caller, caller.subject.proof))
        kept = self._kept.get(key)
        if kept is not None:
            if kept.until > asyncio.get_running_loop().time():
                if kept.error is not None:
                    raise refused_by_broker(kept.error)
                if kept.loan is not None and kept.loan.name == route.secret and not kept.loan.is_over:
                    return kept.loan
            self._kept.pop(key, None)
        if caller.expires_at is not None and caller.expires_at + _SKEW_MS < time.time_ns() // 1_000_000:
            raise unauthenticated("this run's identity token is over: start the run again")
        asking = self._asking.get(key)
        if asking is None:
            self._admit(token)
            asking = self._asking[key] = asyncio.create_task(self._ask(route, caller))
            asking.add_done_callback(lambda task: self._settle(key, caller, task))
        return await self._checked(asyncio.shield(asking))

    def _admit(self, token: str) -> None:
        """Have only so many questions asked about tokens that the broker has not accepted yet."""
        if token not in self._accepted and (wait := self._strangers.take("all", _STRANGERS)):
            raise Refusal(429, "rate_limited", "too many runs are new here: try again", 1 + wait // 1_000_000)

    def _accept(self, token: str) -> None:
        self._accepted[token] = None
        self._accepted.move_to_end(token)
        if len(self._accepted) > _MAX_ENTRIES:
            self._accepted.popitem(last=False)

    async def _ask_once(self, route: Route, caller: Caller, proof: str) -> LentValue:
        self._admit(caller.subject.token)
        if not self._proofs.take(proof, time.time_ns() // 1_000_000):
            raise unauthenticated("this proof was shown before: make a new one for each call")
        try:
            loan = await self._ask(route, caller)
        except NotGranted as error:
            self._proofs.give_back(proof, error.code)
            raise
        self._accept(caller.subject.token)
        return loan

    async def _ask(self, route: Route, caller: Caller) -> LentValue:
        secret = await self._client().get(
            route.secret,
            purpose=f"egress {route.name}",
            timeout=min(APPROVAL_SECONDS, route.bounds.timeout_seconds),
            deliver="proxy",
            on_behalf_of=caller.subject,
        )
        return LentValue(secret, self._scrubbers)

    async def _checked(self, asking: Awaitable[LentValue]) -> LentValue:
        try:
            return await asking
        except NotGranted as error:
            raise refused_by_broker(error) from None
        except SecretBrokerError:  # the client was closed: we are ending, or its credential was replaced
            raise Refusal(503, "unavailable", "the proxy is being restarted: try again", 1) from None

    def _settle(self, key: _Key, caller: Caller, task: "asyncio.Task[LentValue]") -> None:
        """Remember what came of asking."""
        self._asking.pop(key, None)
        if task.cancelled():
            return
        error = task.exception()
        now = asyncio.get_running_loop().time()
        if error is None:
            until = now + REMEMBERED_SECONDS
            if caller.expires_at is not None:
                until = min(until, now + caller.expires_at / 1000 - time.time())
            self._keep(key, _Remembered(until, loan=task.result()))
            self._accept(key[0])
        elif isinstance(error, NotGranted) and not isinstance(error, ApprovalPending):
            self._keep(key, _Remembered(now + REFUSED_SECONDS, error=error))

    def _keep(self, key: _Key, remembered: _Remembered) -> None:
        self._kept[key] = remembered
        self._kept.move_to_end(key)
        if len(self._kept) > _MAX_ENTRIES:
            self._kept.popitem(last=False)
