"""The egress proxy as a part of `secret-broker up`: it runs if there is an egress.yaml, and gets its credential."""

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import structlog

from broker_worker.app.house import Part
from broker_worker.core.configuration import Configuration
from broker_worker.core.errors import BrokerError
from broker_worker.files.configuration import load_configuration
from broker_worker.files.egress import EGRESS_FILE, check_egress

_AGAIN_SECONDS = 30.0
_log = structlog.get_logger(__name__)


class ProxyCredential(Protocol):
    """Keeps the credential of the proxy, which is a run itself."""

    @property
    def environ(self) -> Mapping[str, str]:
        """What tells the proxy where its credential is."""
        ...

    def renew(self, configuration: Configuration, agent_id: str) -> float:
        """Make a new one; returns in how many seconds to do so again.

        Raises:
            BrokerError: if the broker would not serve such a run, or the credential cannot be kept.
        """
        ...


class ProxyPart:
    """Has the proxy started once there is a valid egress.yaml, and its credential renewed in time.

    The proxy takes a new credential, and a changed egress.yaml, while it runs: no call ends for that.

    Args:
        config_dir: the operator's files.
        credential: keeps the credential.
    """

    def __init__(self, config_dir: Path, credential: ProxyCredential) -> None:
        self._config_dir = config_dir
        self._credential = credential
        self._wanted = asyncio.Event()

    @property
    def part(self) -> Part:
        """The process."""
        return Part("egress", "egress", ("egress",), self._credential.environ, self._wanted)

    async def keep(self, changed: asyncio.Event) -> None:
        """Look for the file, and renew the credential, until cancelled.

        Args:
            changed: set when one of the operator's files may have changed.
        """
        while True:
            changed.clear()
            again, renewed = await asyncio.to_thread(self._renew)
            if renewed:
                self._wanted.set()
            # Once it runs, a change of the file is the proxy's own business.
            waiting = asyncio.Event() if again is not None and self._wanted.is_set() else changed
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(waiting.wait(), again)

    def _renew(self) -> tuple[float | None, bool]:
        """Renew the credential; returns in how many seconds to look again (None: after a change), and if it worked."""
        file = self._config_dir / EGRESS_FILE
        if not file.exists():
            return None, False
        try:
            configuration = load_configuration(self._config_dir)
            again = self._credential.renew(configuration, check_egress(file, configuration).agent)
        except BrokerError as error:
            what = "egress_credential_not_renewed" if self._wanted.is_set() else "egress_not_started"
            _log.error(what, error=str(error), hint=error.hint, again_in=_AGAIN_SECONDS)
            return _AGAIN_SECONDS, False
        return again, True
