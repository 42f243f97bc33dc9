"""One process that asks a vault as a worker does, on the state files of a home: see test_vault_states_shared.py.

    python vault_process.py FOLDER FAILURE ATTEMPTS

Prints how many of its attempts reached the vault, and why the last of the others did not.
"""

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from broker_worker.app.clock import SystemClock
from broker_worker.core.budget import Budget
from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.ports import Fetched, Health
from broker_worker.providers.governor import Governor
from broker_worker.providers.resilient import resilient
from broker_worker.state.vault_states import VaultStates


class Vault:
    """Counts who reaches it, and fails all of them alike if so told."""

    name = "op"

    def __init__(self, failure: str) -> None:
        self.failure = FailureKind(failure) if failure else None
        self.calls = 0

    async def get_many(self, refs: Sequence[str]) -> dict[str, Fetched | ProviderError]:
        self.calls += 1
        if self.failure is not None:
            raise ProviderError(self.failure, "made up")
        return {ref: Fetched(b"value") for ref in refs}

    async def put(self, ref: str, value: bytes, *, expected: str | None = None) -> str | None:
        return None

    async def health(self) -> Health:
        return Health(True, "well")

    async def close(self) -> None:
        """Nothing is open."""


async def main(folder: Path, failure: str, attempts: int) -> None:
    """Ask again and again."""
    vault, why = Vault(failure), "-"
    governor = Governor("op", VaultStates(folder, SystemClock()), Budget(100, 1000, 0))
    provider = resilient(vault, governor)
    for attempt in range(attempts):
        try:
            await provider.get_many([f"op://v/{os.getpid()}-{attempt}/f"])
        except ProviderError as error:
            why = error.kind.value
    sys.stdout.write(f"{vault.calls} {why}\n")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
