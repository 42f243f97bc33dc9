"""Agents: what each asks for, what it was refused, and stopping it."""

from typing import Final

from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from broker_worker.dashboard.charts import chart_of
from broker_worker.dashboard.context import context_of
from broker_worker.dashboard.known_names import known_names
from broker_worker.dashboard.orders import back, notice_of, revoke
from broker_worker.dashboard.reads.keyset import Cursor
from broker_worker.dashboard.reads.leases import LeaseFilter, open_leases
from broker_worker.dashboard.reads.orders import order_about
from broker_worker.dashboard.reads.runs import list_runs
from broker_worker.dashboard.reads.usage import (
    SPAN_LABELS,
    last_granted,
    partners,
    recent_refusals,
    runs_since,
    series,
    span_of,
)
from broker_worker.dashboard.rendering import page, path
from broker_worker.dashboard.use_table import ORDERS, Use

REFUSALS: Final = 12
RUNS: Final = 10
HELD: Final = 20
PARTNERS: Final = 50
_SHOWN: Final = (
    ("", "all"),
    ("used", "active"),
    ("unused", "idle"),
    ("refused", "refused"),
    ("unknown", "not in the policy"),
)


def show_list(request: Request) -> Response:
    """All agents that the policy names or that ever asked."""
    context, query = context_of(request), request.query_params
    known = known_names(context)
    now = context.clock()
    with context.ledger.connect() as connection:
        use = Use.read(connection, "agent_id", known.agents, span_of(query.get("span"), now), now)
        names = use.narrowed(query.get("show", ""))
        found = use.ordered(names, query.get("order", ""), Cursor.parse(query.get("before")))
        rows = use.rows(connection, found.rows)
        runs = runs_since(connection, use.span.start)
    return page(
        request,
        "agents.html",
        use=use,
        rows=rows,
        runs=runs,
        before=found.following,
        shown=_SHOWN,
        orders=ORDERS,
        spans=SPAN_LABELS,
        fault=known.fault,
    )


def show_one(request: Request) -> Response:
    """One agent: its use over time, what it asks for, what it holds, its latest runs and refusals."""
    agent: str = request.path_params["agent"]
    context = context_of(request)
    known = known_names(context)
    now = context.clock()
    span = span_of(request.query_params.get("span"), now)
    with context.ledger.connect() as connection:
        if agent not in known.agents and not _is_in_ledger(connection, agent):
            raise HTTPException(404, f"neither the policy nor the ledger knows an agent {agent}")
        drawn = series(connection, "agent_id", [agent], span)[agent]
        return page(
            request,
            "agent.html",
            agent_id=agent,
            origin_of=known.agents.get(agent),
            fault=known.fault,
            span=span,
            spans=SPAN_LABELS,
            chart=chart_of(drawn, span, name="use", title=f"What {agent} asked for"),
            last_at=last_granted(connection, "agent_id", [agent]).get(agent),
            secrets=list(partners(connection, "agent_id", agent, span).items())[:PARTNERS],
            runs=list_runs(connection, agent=agent, limit=RUNS).rows,
            held=open_leases(connection, LeaseFilter(agent=agent), now, limit=HELD),
            refusals=recent_refusals(connection, "agent_id", agent, REFUSALS),
            order=order_about(connection, f"agent:{agent}"),
            notice=notice_of(request),
        )


async def revoke_one(request: Request) -> Response:
    """Refuse whatever the agent asks from now on, in all its runs."""
    agent: str = request.path_params["agent"]
    if not await run_in_threadpool(_is_known, request, agent):
        raise HTTPException(404, f"neither the policy nor the ledger knows an agent {agent}")
    await revoke(request, "agent", agent)
    return back(request, path("agents", agent))


def _is_known(request: Request, agent: str) -> bool:
    context = context_of(request)
    if agent in known_names(context).agents:
        return True
    with context.ledger.connect() as connection:
        return _is_in_ledger(connection, agent)


def _is_in_ledger(connection: Connection, agent: str) -> bool:
    """Whether it ever had a run, or anything was refused in its name."""
    return bool(list_runs(connection, agent=agent, limit=1).rows or recent_refusals(connection, "agent_id", agent, 1))


routes = [
    Route("/agents", show_list, methods=["GET"]),
    Route("/agents/{agent}", show_one, methods=["GET"]),
    Route("/agents/{agent}/revoke", revoke_one, methods=["POST"]),
]
