"""A Vault provider as an operator's section makes it, and what tests of it need."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

from broker_worker.core.configuration import ProviderSettings
from broker_worker.core.policy import Origin
from broker_worker.providers.options import Surroundings
from broker_worker.providers.schemes import make_providers
from broker_worker.providers.vault.provider import VaultProvider

NOWHERE = Path("/nowhere")


def make_vault(
    url: str, environ: Mapping[str, str], clock: Callable[[], float], **options: str | int | bool
) -> VaultProvider:
    """A provider of a section with these options, in this environment, whose time is `clock`."""
    around = Surroundings(NOWHERE, NOWHERE, lambda _: bytes(32), environ, lambda: 7, clock)
    section = ProviderSettings("vault", {"url": url, **options}, Origin("broker.yaml", 4))
    return cast("VaultProvider", make_providers([section], around)["vault"])


def under_way(coroutine: str) -> list[asyncio.Task[object]]:
    """The provider's tasks of that name which have not ended."""
    return [task for task in asyncio.all_tasks() if f".{coroutine} " in str(task.get_coro())]
