"""Credentials of the parts of `up` that ask the broker as any run does, on behalf of others: a gateway, a proxy.

Each is a run of an agent that the policy lets act for others. Its credential lies in a file that only this user can
read, and is minted anew long before it ends; the part reads the file again. No part ever has the issuer's key.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import structlog

from agent_sdk.wire.messages import Way
from broker_worker.core.configuration import Configuration
from broker_worker.core.errors import BrokerError, SetupError
from broker_worker.core.policy import Policy
from broker_worker.private_files import make_private_folder, write_private

RENEW_SECONDS = 30.0
"""How often to look whether a credential is to be minted anew."""
FILE_VARIABLE = "SECRET_BROKER_CREDENTIAL_FILE"
_log = structlog.get_logger(__name__)


class Minted(Protocol):
    """A run's credential (`agent_sdk.credential.RunCredential`)."""

    @property
    def expires_at(self) -> int:
        """When it is over, ms since the epoch."""
        ...

    def to_json(self) -> str:
        """The form in which it is handed over."""
        ...


Mint = Callable[[Configuration, str], Minted]
"""Mints a run of an agent."""


def acting_agent(policy: Policy, part: str, way: Way) -> str:
    """The agent as whose run a part asks: the one that is called like it, or else the only one that could be meant.

    Args:
        policy: who may act for others.
        part: `gateway`, `egress`.
        way: how what the part gets reaches those for whom it asks.

    Raises:
        SetupError: if there is none, or it is not clear which.
    """
    able = sorted(a.agent_id for a in policy.agents.values() if a.acts_for is not None and way in a.acts_for.deliver)
    if part in able or len(able) == 1:
        return part if part in able else able[0]
    entry = f"{part}: {{allow: [], acts_for: {{all_agents: true, deliver: [{way}]}}}}"
    if able:
        raise SetupError(
            f"several agents may act for others with `deliver: [{way}]`: {', '.join(able)}",
            hint=f"name one of them `{part}`",
        )
    raise SetupError(
        f"no agent in the policy may act for others with `deliver: [{way}]`",
        hint=f"write below `agents:` in policy.yaml: {entry}",
    )


class PartCredential:
    """The credential of one part, in a file.

    Args:
        folder: where its file is kept; private.
        part: the part's name, and its agent's where the policy has one of that name.
        way: how what it gets reaches those for whom it asks.
        mint: mints a run.
        clock: the time in ms since the epoch.
    """

    def __init__(self, folder: Path, part: str, way: Way, mint: Mint, clock: Callable[[], int]) -> None:
        self.path = folder / f"{part}.credential"
        self._part, self._way, self._mint, self._clock = part, way, mint, clock
        self._agent, self._renew_at = "", 0
        self._complaint = ""

    @property
    def environ(self) -> Mapping[str, str]:
        """What tells the part's process where to read it."""
        return {FILE_VARIABLE: str(self.path)}

    def keep(self, configuration: Configuration) -> bool:
        """Mint the credential if there is none, if half of its time is over, or if it is another agent's.

        What stands against it is logged, once, and changes nothing: the rest of the house works without the part.

        Returns:
            Whether the part has a credential.
        """
        now = self._clock()
        try:
            agent = acting_agent(configuration.policy, self._part, self._way)
            if agent != self._agent or now >= self._renew_at:
                credential = self._mint(configuration, agent)
                make_private_folder(self.path.parent)
                write_private(self.path, credential.to_json().encode())
                self._agent, self._renew_at = agent, now + (credential.expires_at - now) // 2
        except BrokerError as error:
            if str(error) != self._complaint:
                _log.warning(f"{self._part}_without_credential", error=str(error), hint=error.hint)
            self._complaint = str(error)
            return False
        self._complaint = ""
        return True

    def remove(self) -> None:
        """Take the file away, when the part has ended."""
        self.path.unlink(missing_ok=True)
        self._renew_at = 0
