"""What the run may use: asks the broker, waits for people, and keeps what was granted, in this process only.

A value that was granted for one purpose is never used for another, although the broker would not notice: what people
approved, and what the audit says, is a purpose.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from agent_sdk.wire.messages import Notice, Way

REQUEST_SECONDS: Final = 15.0
NOT_FOUND: Final = "it is too short or too common to be masked, so it is not used here: tell the user"
_RELEASE_SECONDS: Final = 3.0


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
        self._granted: dict[tuple[str, str, Way], Secret] = {}
        self._watched: dict[asyncio.Event, tuple[Secret, ...]] = {}

    async def obtain(
        self, names: Sequence[str], purpose: str, deliver: Way, asking: Asking, wait: int | UnsetType = UNSET
    ) -> Obtained:
        """Have some names, from what is held for the same purpose or from the broker.

        Args:
            names: which.
            purpose: what for.
            deliver: how the values reach the work.
            asking: the way to the client's user.
            wait: seconds to wait for people, if the call says.

        Raises:
            ToolRefused: if the broker did not answer.
            InputNeeded: if the client has to be asked by the call's result.
        """
        wanted = list(dict.fromkeys(names))
        held = {name: secret for name in wanted if (secret := self._live(name, purpose, deliver)) is not None}
        missing = [name for name in wanted if name not in held]
        if not missing:
            return Obtained(held)
        answer = await self._ask(missing, purpose, deliver)
        secrets, refusals = {**held, **answer.secrets}, answer.refusals
        pending = [each for each in refusals if each.code == Code.APPROVAL_PENDING]
        if pending and (seconds := asking.seconds(wait)):
            waiting = [each.name for each in pending]
            work = partial(
                self.decisions.ask_until,
                partial(self._ask, waiting, purpose, deliver),
                lambda answer: approvals_of(answer.refusals),
                answer,
                seconds,
            )
            later = await asking.meanwhile(work, approvals_of(pending), purpose, seconds)
            if later is not None:
                secrets.update(later.secrets)
                refusals = (*(each for each in refusals if each not in pending), *later.refusals)
        return Obtained({name: secrets[name] for name in wanted if name in secrets}, refusals)

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

    def _live(self, name: str, purpose: str, deliver: Way) -> Secret | None:
        secret = self._granted.get((name, purpose, deliver))
        return None if secret is None or secret.expired else secret

    async def _ask(self, names: Sequence[str], purpose: str, deliver: Way) -> Resolution:
        try:
            answer = await self.client.get_many(
                names,
                purpose=purpose,
                deliver=deliver,
                partial=True,
                wait_for_approval=False,
                timeout=REQUEST_SECONDS,
            )
        except NotGranted as error:
            raise told(error) from None
        self._granted = {key: secret for key, secret in self._granted.items() if not secret.expired}
        for name, secret in answer.secrets.items():
            if not self._held.add(name, secret.reveal_bytes()):
                raise ToolRefused(Code.DENIED, f"the value of {name} could not be found in an output", NOT_FOUND)
            self._granted[name, purpose, deliver] = secret
        return answer


def approvals_of(refusals: Iterable[Refusal]) -> list[str]:
    """The ids of the approvals that wait."""
    return sorted({each.approval for each in refusals if each.approval and each.code == Code.APPROVAL_PENDING})
