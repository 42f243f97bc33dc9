"""Asking for all that a command needs: in one request, and all of it or nothing."""

# ruff: noqa: ASYNC109  # a request's deadline travels inside it, so it is an argument and not the caller's block

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from agent_sdk.client import AsyncSecretBroker
from agent_sdk.errors import NotGranted, Refusal, refused_names
from agent_sdk.secret import Secret
from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import Delivery

RELEASE_SECONDS: Final = 2.0
"""How long giving back may take. What is not given back ends by itself."""

Wanted = Mapping[str, Delivery]
"""The names, and how each value is to reach the command."""
Held = Mapping[str, Secret]
"""What was granted, by name."""
Waiting = Callable[[Sequence[Refusal]], None]
"""Told once which names people are asked about."""


async def fetch(client: AsyncSecretBroker, wanted: Wanted, *, purpose: str, timeout: float, waiting: Waiting) -> Held:
    """Ask for everything, and wait for people where they have to approve.

    Args:
        client: asks.
        wanted: the names, and how each value is to reach the command.
        purpose: what they are for.
        timeout: seconds that all of it may take, people included.
        waiting: told if people are waited for.

    Raises:
        NotGranted: if any name was refused; its `refusals` are all that were. What was granted is given back.
    """
    until = asyncio.get_running_loop().time() + timeout
    held: dict[str, Secret] = {}

    async def have(names: Iterable[str]) -> None:
        left = max(0.001, until - asyncio.get_running_loop().time())
        ways = {name: wanted[name] for name in names}
        if ways:
            held.update(await client.get_many(ways, purpose=purpose, timeout=left, deliver=ways))

    try:
        answer = await client.get_many(
            wanted, purpose=purpose, timeout=timeout, wait_for_approval=False, partial=True, deliver=wanted
        )
        held.update(answer.secrets)
        _raise_unless_pending(answer.refusals)
        if answer.refusals:
            waiting(answer.refusals)
            await have(refusal.name for refusal in answer.refusals)
            await have([name for name, secret in held.items() if secret.expired])  # because people took their time
    except BaseException:
        await give_back(client, held)
        raise
    return held


async def give_back(client: AsyncSecretBroker, held: Held) -> Sequence[str]:
    """Be done with everything.

    Returns:
        The names of which the broker could not be told; those leases end by themselves.
    """
    releases = (client.release(secret, timeout=RELEASE_SECONDS) for secret in held.values())
    results = await asyncio.gather(*releases, return_exceptions=True)
    return [name for name, result in zip(held, results, strict=True) if isinstance(result, NotGranted)]


def _raise_unless_pending(refused: Sequence[Refusal]) -> None:
    """End at once if a name was refused for good: nobody needs to decide about the others then."""
    if any(refusal.code != Code.APPROVAL_PENDING for refusal in refused):
        raise refused_names(refused)
