"""A worker whose vaults are made up: one is slow, another hangs; everything else of it is real.

    python vault_worker.py HOME CALLS

Writes a line to the file CALLS for each call of the slow vault: how many references it had.
"""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from unittest.mock import patch

from broker_worker.app import vaults
from broker_worker.app.serve import serve
from broker_worker.cli.log import configure_logging
from broker_worker.ports import Fetched, Health
from broker_worker.settings import Settings

CALL_SECONDS = 0.05


class SlowVault:
    """Answers every call after a twentieth of a second, whatever is asked; a hanging one never does."""

    def __init__(self, name: str, calls: Path, *, hangs: bool) -> None:
        self.name = name
        self._calls = calls
        self._hangs = hangs

    async def get_many(self, refs: Sequence[str]) -> Mapping[str, Fetched]:
        if self._hangs:
            await asyncio.Event().wait()
        with self._calls.open("a") as file:
            file.write(f"{len(refs)}\n")
        await asyncio.sleep(CALL_SECONDS)
        return {ref: Fetched(b"a made-up value of forty characters", "1") for ref in refs}

    async def put(self, ref: str, value: bytes, *, expected: str | None = None) -> str | None:
        raise NotImplementedError

    async def health(self) -> Health:
        return Health(True, "made up")

    async def close(self) -> None:
        """Nothing is open."""


def main(home: Path, calls: Path) -> None:
    """Run until SIGTERM."""
    configure_logging(as_json=False, level="critical")
    slow, hanging = SlowVault("env", calls, hangs=False), SlowVault("local", calls, hangs=True)
    with patch.object(vaults, "make_providers", lambda settings, around: {"env": slow, "local": hanging}):
        serve(Settings.load(home), "worker-1")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
