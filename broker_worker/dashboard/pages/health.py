"""Health: the queue, the workers, the vaults, the cache and the audit's chains."""

from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from broker_worker.dashboard.charts import chart_of
from broker_worker.dashboard.context import Context, context_of
from broker_worker.dashboard.known_names import known_names
from broker_worker.dashboard.queue_state import read_queue
from broker_worker.dashboard.reads.health import audit_state, cache_use, incidents, vault_failures, workers_seen
from broker_worker.dashboard.reads.usage import HOUR_MS, span_of
from broker_worker.dashboard.rendering import page

HOURS: Final = 24
QUEUES_SHOWN: Final = 20
SILENT_MS: Final = 15 * 60 * 1000
"""A worker of which the ledger heard nothing for this long is shown as silent: it may just have had nothing to do."""


async def show(request: Request) -> Response:
    """How everything does now, and did in the last 24 hours."""
    context = context_of(request)
    known = await run_in_threadpool(known_names, context)
    queue = await read_queue(context.settings, known.agents)
    ledger = await run_in_threadpool(_from_ledger, context)
    return await run_in_threadpool(
        page,
        request,
        "health.html",
        queue=queue,
        queues=[agent for agent in queue.agents if agent.behind or agent.problem][:QUEUES_SHOWN],
        silent_ms=SILENT_MS,
        fault=known.fault,
        hours=HOURS,
        **ledger,
    )


def _from_ledger(context: Context) -> dict[str, Any]:
    now = context.clock()
    since = now - HOURS * HOUR_MS
    with context.ledger.connect() as connection:
        cache = cache_use(connection, now, HOURS)
        return {
            "workers": workers_seen(connection),
            "failures": vault_failures(connection, since),
            "cache": cache,
            "cache_chart": chart_of(
                cache.series,
                span_of("24h", now),
                name="cache",
                title="Values from the cache and from vaults, per hour",
                kinds=("from the cache", "from a vault"),
            ),
            "audit": audit_state(connection),
            "incidents": incidents(connection, since),
        }


routes = [Route("/health", show, methods=["GET"])]
