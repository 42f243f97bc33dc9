"""What the run may use: asks the broker, waits for people, and keeps what was granted, in this process only.

A value that was granted for one purpose is never used for another, although the broker would not notice: what people
approved, and what the audit says, is a purpose.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Final

import anyio
from msgspec import UNSET, Struct, UnsetType

from agent_sdk.client import AsyncSecretBroker
from agent_sdk.errors import NotGranted, Refusal
from agent_sdk.mcp_server.asking import Asking
from agent_sdk.mcp_server.decisions import Decisions
from agent_sdk.mcp_server.held_values import HeldValues
from agent_sdk.mcp_server.results import ToolRefused, told
from agent_sdk.outcome import Resolution
from agent_sdk.secret import Secret
from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import Notice, OwnDelivery

REQUEST_SECONDS: Final = 15.0
NOT_FOUND: Final = "it is too short or too common to be masked, so it is not used here: tell the user"
_RELEASE_SECONDS: Final = 3.0
Ways = Mapping[str, OwnDelivery]
"""Names, and how the value of each reaches the work."""


class Obtained(Struct, frozen=True):
    """What became of some names.

    Args:
        secrets: what may be used, by name.
        refusals: the rest.
    """

    secrets: Mapping[str, Secret]
    refusals: tuple[Refusal, ...] = ()


class Access:
    """The run's access, shared by all tools.

    Args:
        client: the run's.
        held: learns every value before anything else is done with it.
    """

    def __init__(self, client: AsyncSecretBroker, held: HeldValues) -> None:
        self.client = client
        self.decisions = Decisions()
        self._held = held
        self._granted: dict[tuple[str, str, OwnDelivery], Secret] = {}
        self._watched: dict[asyncio.Event, tuple[Secret, ...]] = {}

    async def obtain(
        self, ways: Ways, purpose: str, asking: Asking, wait: int | UnsetType = UNSET, *, whole: bool = False
    ) -> Obtained:
        """Have some names, from what is held for the same purpose or from the broker, which is asked once for the rest.

        Args:
            ways: which, and how the value of each reaches the work.
            purpose: what for.
            asking: the way to the client's user.
            wait: seconds to wait for people, if the call says.
            whole: whether some of the names are of no use without the others: then nobody is waited for in vain.

        Raises:
            ToolRefused: if the broker did not answer.
            InputNeeded: if the client has to be asked by the call's result.
        """
        held = {name: secret for name in ways if (secret := self._live(name, purpose, ways[name])) is not None}
        missing = {name: way for name, way in ways.items() if name not in held}
        if not missing:
            return Obtained(held)
        answer = await self._ask(missing, purpose)
        secrets, refusals = {**held, **answer.secrets}, answer.refusals
        pending = [each for each in refusals if each.code == Code.APPROVAL_PENDING]
        is_in_vain = whole and len(pending) < len(refusals)
        if pending and not is_in_vain and (seconds := asking.seconds(wait)):
            work = partial(
                self.decisions.ask_until,
                partial(self._ask, {each.name: ways[each.name] for each in pending}, purpose),
                lambda answer: approvals_of(answer.refusals),
                answer,
                seconds,
            )
            later = await asking.meanwhile(work, approvals_of(pending), purpose, seconds)
            if later is not None:
                secrets.update(later.secrets)
                refusals = (*(each for each in refusals if each not in pending), *later.refusals)
        ended = {name: ways[name] for name, secret in secrets.items() if secret.expired}  # while others were waited for
        if ended and not (whole and refusals):
            again = await self._ask(ended, purpose)
            live = {name: secret for name, secret in secrets.items() if name not in ended}
            secrets = {**live, **again.secrets}
            refusals = (*refusals, *again.refusals)
        return Obtained({name: secrets[name] for name in ways if name in secrets}, refusals)

    def heard(self, notice: Notice) -> None:
        """Act on a notice of the broker's: who waits for people, or uses what was taken back, is told."""
        self.decisions.heard(notice)
        for revoked, secrets in self._watched.items():
            if notice.event == "run_revoked" or any(secret.revoked for secret in secrets):
                revoked.set()

    @contextmanager
    def watched(self, secrets: Iterable[Secret]) -> Iterator[asyncio.Event]:
        """An event that is set when one of the secrets is taken back meanwhile."""
        revoked = asyncio.Event()
        self._watched[revoked] = tuple(secrets)
        try:
            yield revoked
        finally:
            del self._watched[revoked]

    async def give_back(self) -> None:
        """Release everything that is held, as far as the broker answers soon."""
        secrets = [secret for secret in self._granted.values() if not secret.expired]
        self._granted.clear()
        with anyio.move_on_after(_RELEASE_SECONDS, shield=True):
            await asyncio.gather(*map(self.client.release, secrets), return_exceptions=True)

    def _live(self, name: str, purpose: str, way: OwnDelivery) -> Secret | None:
        """What is held for this way, or for both ways that a command knows."""
        for granted in (way, "env,file") if way in ("env", "file") else (way,):
            secret = self._granted.get((name, purpose, granted))
            if secret is not None and not secret.expired:
                return secret
        return None

    async def _ask(self, ways: Ways, purpose: str) -> Resolution:
        try:
            answer = await self.client.get_many(
                ways, purpose=purpose, deliver=ways, partial=True, wait_for_approval=False, timeout=REQUEST_SECONDS
            )
        except NotGranted as error:
            raise told(error) from None
        self._granted = {key: secret for key, secret in self._granted.items() if not secret.expired}
        for name, secret in answer.secrets.items():
            if not self._held.add(name, secret.reveal_bytes()):
                raise ToolRefused(Code.DENIED, f"the value of {name} could not be found in an output", NOT_FOUND)
            self._granted[name, purpose, ways[name]] = secret
        return answer


def approvals_of(refusals: Iterable[Refusal]) -> list[str]:
    """The ids of the approvals that wait."""
    return sorted({each.approval for each in refusals if each.approval and each.code == Code.APPROVAL_PENDING})
