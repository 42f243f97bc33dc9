"""The proxy's own credential under `secret-broker up`: minted here, kept in a file, and made anew in time."""

import time
from collections.abc import Mapping

from agent_sdk.credential import FILE_VARIABLE
from broker_worker.cli.minting import RunOrder, mint_run
from broker_worker.core.configuration import Configuration
from broker_worker.private_files import make_private_folder, write_private
from broker_worker.settings import Settings


class EgressCredential:
    """Keeps the file from which the proxy takes its credential.

    Args:
        settings: whose keys and queue.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._file = settings.run_dir / "egress.json"

    @property
    def environ(self) -> Mapping[str, str]:
        """What tells the proxy where its credential is."""
        return {FILE_VARIABLE: str(self._file)}

    def renew(self, configuration: Configuration, agent_id: str) -> float:
        """Put a new credential into the file.

        Args:
            configuration: the operator's files, to check against.
            agent_id: the agent that the proxy is.

        Returns:
            In how many seconds to do so again: when half of its time is over.

        Raises:
            SetupError: if the broker would not serve such a run, or the file cannot be written.
        """
        credential = mint_run(self._settings, configuration, RunOrder(agent_id, task="egress proxy"))
        make_private_folder(self._settings.run_dir)
        write_private(self._file, credential.to_json().encode())
        return max(1.0, (credential.expires_at / 1000 - time.time()) / 2)
