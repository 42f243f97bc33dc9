"""From a real worker to the ledger: what an agent did can be asked a moment later."""

import asyncio
import time
from collections.abc import Sequence

from broker_home import Home
from sqlalchemy import Engine

from broker_worker.core.errors import SetupError
from broker_worker.files.keys import load_public_identity
from broker_worker.ledger.database import open_database
from broker_worker.ledger.keeping import Keeper
from broker_worker.ledger.queries import RunRow, list_leases, list_runs, read_status, story
from broker_worker.queue.acl import LEDGER, user_url

DEADLINE = 60.0


async def test_what_an_agent_was_given_stands_in_the_ledger(home: Home) -> None:
    """A run, its lease with both uses, and its story, read with the rights of the queue's user `ledger`."""
    settings = home.settings
    engine = open_database(settings.ledger_address, writing=True)
    url = user_url(settings.queue_address, home.queue_key, LEDGER)
    async with home.working(publishing=True), home.client(task="tell a story") as claude:
        keeper = Keeper(engine, url, load_public_identity(settings.keys_dir), settings.audit_dir)
        keeping = asyncio.create_task(asyncio.to_thread(keeper.run))
        for _ in range(2):
            await claude.get("openai.api_key", purpose="call the model")
        end = time.monotonic() + DEADLINE
        while not (found := await asyncio.to_thread(_runs, engine)) or found[0].granted < 2:
            assert time.monotonic() < end, "waited in vain"
            await asyncio.sleep(0.05)
        keeper.stop()
        await keeping
    (run,) = found
    assert (run.agent_id, run.task, run.refused) == ("claude", "tell a story", 0)
    (lease,) = list_leases(engine, secret="openai.api_key", open_at=home.clock.now())
    assert (lease.run_id, lease.uses) == (run.run_id, 2)
    assert [event.at for event in story(engine, "claude", run.run_id)] == sorted([lease.issued_at, run.last_at])
    assert read_status(engine).findings == 0


def _runs(engine: Engine) -> Sequence[RunRow]:
    try:
        return list_runs(engine)
    except SetupError:  # no tables yet
        return []
