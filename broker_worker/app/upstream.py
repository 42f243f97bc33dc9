"""The process that revokes upstream: the only one beside the workers that has access to vaults."""

import asyncio
import gc

from broker_worker.app.clock import SystemClock
from broker_worker.app.hardening import harden
from broker_worker.app.vaults import providers_of
from broker_worker.files.configuration import load_configuration
from broker_worker.jobs.payloads import UPSTREAM
from broker_worker.jobs.revoking import Revoking
from broker_worker.jobs.serving import JobProcess
from broker_worker.settings import Settings


def serve_upstream(settings: Settings, url: str, jobs_key: bytes, *, until_stdin_ends: bool = False) -> None:
    """Revoke upstream until SIGTERM or SIGINT.

    Args:
        settings: where everything lives.
        url: the queue, with the user `jobs`.
        jobs_key: the 32 bytes of keys/jobs.key.
        until_stdin_ends: end as well when standard input does.

    Raises:
        BrokerError: if a file or a provider's section cannot be used, or the queue is away.
    """
    harden()
    clock = SystemClock()
    providers = providers_of(load_configuration(settings.config_dir), settings, clock)
    process = JobProcess(url, jobs_key, UPSTREAM, clock.now)
    loop = asyncio.new_event_loop()
    try:
        revoking = Revoking(providers, loop.run_until_complete)
        process.work(revoking.functions(), until_stdin_ends=until_stdin_ends)
    finally:
        for provider in set(providers.values()):
            loop.run_until_complete(provider.close())
        loop.close()
        gc.collect()  # what a provider's library left open ends with the loop, not at exit
