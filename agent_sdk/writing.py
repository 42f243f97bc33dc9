"""Writing: one request, and while people decide the same once more. Nothing else is ever asked again.

A write whose answer did not come may have been made, so the client never repeats it by itself: the caller finds out by
writing again, which then clashes, or by reading.
"""

import asyncio

from agent_sdk.approvals import FIRST_PAUSE, LONGEST_PAUSE, SHORT_PAUSE, SettledApprovals
from agent_sdk.channel import REQUEST_SECONDS
from agent_sdk.errors import Refusal
from agent_sdk.exchange import Exchange
from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import Generate, Put, Result


async def write(
    exchange: Exchange, body: Put | Generate, seconds: float, *, wait_for_approval: bool
) -> Result | Refusal:
    """Write, and wait for people if they have to approve it.

    Args:
        exchange: sends requests.
        body: what to write.
        seconds: how long this may take.
        wait_for_approval: whether to wait for people.

    Returns:
        The result if it was granted, else what the broker last said.

    Raises:
        NotGranted: if there is no answer: the value may then have been stored, or not.
        ClientClosed: if the client was closed meanwhile.
    """
    now = asyncio.get_running_loop().time
    until = now() + seconds
    outcome = await _ask(exchange, body, seconds)
    heard: frozenset[str] = frozenset()
    pause = FIRST_PAUSE
    while wait_for_approval and isinstance(outcome, Refusal) and outcome.code == Code.APPROVAL_PENDING:
        approvals = frozenset({outcome.approval} if outcome.approval else ())
        news = await _wait(exchange.settled, approvals, heard, min(until - now(), pause))
        if (left := until - now()) <= 0:
            break
        heard |= news
        pause = SHORT_PAUSE if news else min(2 * pause, LONGEST_PAUSE)
        outcome = await _ask(exchange, body, left)
    return outcome


async def _ask(exchange: Exchange, body: Put | Generate, seconds: float) -> Result | Refusal:
    answer = await exchange.ask(body, (), min(seconds, REQUEST_SECONDS))
    return answer.of_write(body.name)


async def _wait(
    settled: SettledApprovals, approvals: frozenset[str], heard: frozenset[str], seconds: float
) -> frozenset[str]:
    return await settled.wait(approvals, heard, max(0.0, seconds))
