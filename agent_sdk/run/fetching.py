"""Asking for all that a command needs: one request a way, and all of it or nothing."""

# ruff: noqa: ASYNC109  # a request's deadline travels inside it, so it is an argument and not the caller's block

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final

from agent_sdk.client import AsyncSecretBroker
from agent_sdk.errors import NotGranted, Refusal, refused_names
from agent_sdk.secret import Secret
from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import Way

RELEASE_SECONDS: Final = 2.0
"""How long giving back may take. What is not given back ends by itself."""

Wanted = Mapping[Way, Sequence[str]]
"""For each way that values reach the command, the names."""
Held = Mapping[Way, Mapping[str, Secret]]
"""The same with what was granted."""
Waiting = Callable[[Sequence[Refusal]], None]
"""Told once which names people are asked about."""


async def fetch(client: AsyncSecretBroker, wanted: Wanted, *, purpose: str, timeout: float, waiting: Waiting) -> Held:
    """Ask for everything, the ways side by side, and wait for people where they have to approve.

    Args:
        client: asks.
        wanted: the names, none of them twice in a way.
        purpose: what they are for.
        timeout: seconds that all of it may take, people included.
        waiting: told if people are waited for.

    Raises:
        NotGranted: if any name was refused; its `refusals` are those of all ways. What was granted is given back.
    """
    until = asyncio.get_running_loop().time() + timeout
    ways = [way for way, names in wanted.items() if names]
    held: dict[Way, dict[str, Secret]] = {way: {} for way in ways}
    try:
        refused = await _all(*(_ask(client, way, wanted[way], held[way], purpose, timeout) for way in ways))
        _raise_unless_pending(refused)
        if refused:
            waiting(refused)
            names = {refusal.name for refusal in refused}
            left = max(0.001, until - asyncio.get_running_loop().time())
            await _all(
                *(
                    _wait(client, way, [name for name in wanted[way] if name in names], held[way], purpose, left)
                    for way in ways
                )
            )
            await _again(client, held, purpose, max(0.001, until - asyncio.get_running_loop().time()))
    except BaseException:
        await give_back(client, held)
        raise
    return held


async def give_back(client: AsyncSecretBroker, held: Held) -> Sequence[str]:
    """Be done with everything.

    Returns:
        The names of which the broker could not be told; those leases end by themselves.
    """
    secrets = [secret for granted in held.values() for secret in granted.values()]
    releases = (client.release(secret, timeout=RELEASE_SECONDS) for secret in secrets)
    results = await asyncio.gather(*releases, return_exceptions=True)
    return [secret.name for secret, result in zip(secrets, results, strict=True) if isinstance(result, NotGranted)]


async def _ask(
    client: AsyncSecretBroker, way: Way, names: Sequence[str], granted: dict[str, Secret], purpose: str, timeout: float
) -> Sequence[Refusal]:
    answer = await client.get_many(
        names, purpose=purpose, timeout=timeout, wait_for_approval=False, partial=True, deliver=way
    )
    granted.update(answer.secrets)
    return answer.refusals


async def _wait(
    client: AsyncSecretBroker, way: Way, names: Sequence[str], granted: dict[str, Secret], purpose: str, timeout: float
) -> Sequence[Refusal]:
    if names:
        granted.update(await client.get_many(names, purpose=purpose, timeout=timeout, deliver=way))
    return ()


async def _again(client: AsyncSecretBroker, held: Mapping[Way, dict[str, Secret]], purpose: str, left: float) -> None:
    """Ask once more for what was granted at once and is over, because people took their time."""
    over = {way: [name for name, secret in granted.items() if secret.expired] for way, granted in held.items()}
    await _all(*(_wait(client, way, names, held[way], purpose, left) for way, names in over.items()))


async def _all(*asking: Coroutine[Any, Any, Sequence[Refusal]]) -> Sequence[Refusal]:
    """Ask side by side; the first one that fails ends the others."""
    tasks = [asyncio.ensure_future(each) for each in asking]
    try:
        return [refusal for refusals in await asyncio.gather(*tasks) for refusal in refusals]
    finally:
        for task in tasks:
            task.cancel()


def _raise_unless_pending(refused: Sequence[Refusal]) -> None:
    """End at once if a name was refused for good: nobody needs to decide about the others then."""
    if any(refusal.code != Code.APPROVAL_PENDING for refusal in refused):
        raise refused_names(refused)
