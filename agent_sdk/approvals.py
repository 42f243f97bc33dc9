"""Waiting for people: until an approval is settled, and then asking again.

The broker answers `approval_pending` at once and tells by a notice when people have decided. The notice says only that
asking again is worth it, so nothing depends on it but speed: it may be lost, late, doubled or old. Each time that the
client asks, it is with a request of its own, and the answer to that is what counts.
"""

import asyncio
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from agent_sdk.channel import REQUEST_SECONDS
from agent_sdk.errors import Refusal, Unavailable
from agent_sdk.outcome import Answer
from agent_sdk.recent import Recent
from agent_sdk.request import asked_again
from agent_sdk.secret import Secret
from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import Resolve

FIRST_PAUSE = 5.0
"""After how many seconds without a notice the client asks all the same; each further pause is twice as long."""
LONGEST_PAUSE = 30.0
SHORT_PAUSE = 0.25
"""The pause when the answer after a notice was still `approval_pending`: workers do not learn it at the same time."""

_PASSING = frozenset({Code.APPROVAL_PENDING, Code.RATE_LIMITED, Code.UNAVAILABLE, Code.AUDIT_UNAVAILABLE})
"""Answers that do not end the wait for a name that people decide about. The first answer of all may end it."""


class SettledApprovals:
    """Which approvals were settled, as far as notices told, and who waits for that."""

    def __init__(self) -> None:
        self._settled: Recent[str] = Recent()
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}

    def note(self, approval: str) -> None:
        """Learn that an approval was settled."""
        self._settled.add(approval)
        _wake(self._waiting.get(approval, ()))

    def wake_all(self) -> None:
        """Have everybody ask again, because the next answer may be another for other reasons."""
        for futures in self._waiting.values():
            _wake(futures)

    async def wait(self, approvals: frozenset[str], heard: frozenset[str], seconds: float) -> frozenset[str]:
        """Wait until one of some approvals is settled that was not heard of, or until `wake_all`.

        Args:
            approvals: what is waited for.
            heard: those of them that are known to be settled.
            seconds: how long at most.

        Returns:
            The approvals that are news; also if they were settled before.
        """
        if not any(approval in self._settled for approval in approvals - heard):
            woken = asyncio.get_running_loop().create_future()
            places = approvals or {""}
            for place in places:
                self._waiting.setdefault(place, set()).add(woken)
            try:
                await asyncio.wait([woken], timeout=seconds)
            finally:
                for place in places:
                    self._leave(place, woken)
        return frozenset(approval for approval in approvals - heard if approval in self._settled)

    def _leave(self, place: str, woken: asyncio.Future[None]) -> None:
        waiting = self._waiting[place]
        waiting.discard(woken)
        if not waiting:
            del self._waiting[place]


class Asks(Protocol):
    """Sends one request and waits for its answer; `agent_sdk.exchange.Exchange.ask` does."""

    def __call__(self, body: Resolve, names: tuple[str, ...], seconds: float) -> Awaitable[Answer]:
        """Ask for the names of `body`, and wait for at most so many seconds."""
        ...


async def until_settled(
    ask: Asks, settled: SettledApprovals, body: Resolve, answer: Answer, seconds: float, *, partial: bool
) -> Answer:
    """Ask again for the names that wait for people, until none does or the time is over.

    What was granted stays granted. Names that one approval is about are asked for together, as it was made for all of
    them.

    Args:
        ask: sends one request.
        settled: what notices tell.
        body: what was asked.
        answer: the first answer.
        seconds: for how long the caller still waits.
        partial: whether the caller also wants what was granted when another name was refused; if not, the first
            refusal ends the wait.

    Returns:
        All answers in one. Where the time was over, the names that still wait are refused with what the broker last
        said.

    Raises:
        NotGranted: if there is an answer no more (`Expired`: the run's token is over).
        ClientClosed: if the client was closed meanwhile.
    """
    now = asyncio.get_running_loop().time
    until = now() + seconds
    waiting = {each.name: each for each in answer.refusals if each.code == Code.APPROVAL_PENDING}
    heard: frozenset[str] = frozenset()
    pause = FIRST_PAUSE
    while waiting and (partial or len(waiting) == len(answer.refusals)):
        approvals = frozenset(each.approval for each in waiting.values() if each.approval is not None)
        news = await settled.wait(approvals, heard, min(until - now(), pause))
        if (left := until - now()) <= 0:
            break
        names = tuple(name for name in body.names if name in waiting and (not news or waiting[name].approval in news))
        heard |= news
        pause = SHORT_PAUSE if news else min(2 * pause, LONGEST_PAUSE)
        try:
            again = await ask(asked_again(body, names), names, min(left, REQUEST_SECONDS))
        except Unavailable:  # neither the queue nor a worker that is away for a moment ends a wait of minutes
            continue
        if again.refused == Code.EXPIRED:  # too little of its time was left; if the token's is over, `ask` raises
            continue
        for name in names:
            del waiting[name]
        refusals = _carried(again.refusals, answer.refusals)
        waiting |= {each.name: each for each in refusals if each.code in _PASSING}
        pause = max([pause, *(each.retry_after or 0 for each in refusals if each.code == Code.RATE_LIMITED)])
        answer = _merged(body.names, answer, again.secrets, refusals)
    return answer


def _carried(refusals: Sequence[Refusal], before: Sequence[Refusal]) -> list[Refusal]:
    """New refusals; those that say nothing of the approval that is waited for still name it."""
    approvals = {each.name: each.approval for each in before}
    return [
        replace(each, approval=each.approval or approvals[each.name]) if each.code in _PASSING else each
        for each in refusals
    ]


def _merged(order: Sequence[str], before: Answer, secrets: Mapping[str, Secret], refusals: Sequence[Refusal]) -> Answer:
    """The latest of each name, in the order asked."""
    granted = {**before.secrets, **secrets}
    refused = {each.name: each for each in (*before.refusals, *refusals)}
    return Answer(
        {name: granted[name] for name in order if name in granted},
        tuple(refused[name] for name in order if name not in granted),
    )


def _wake(futures: Iterable[asyncio.Future[None]]) -> None:
    for woken in futures:
        if not woken.done():
            woken.set_result(None)
