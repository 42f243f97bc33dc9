"""Runs: the list of them, and one as a story with its leases and approvals."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from broker_worker.dashboard.charts import Stay, lane
from broker_worker.dashboard.context import context_of
from broker_worker.dashboard.orders import back, notice_of, revoke
from broker_worker.dashboard.reads.keyset import Cursor
from broker_worker.dashboard.reads.orders import order_about
from broker_worker.dashboard.reads.runs import approvals_of, find_run, leases_of, list_runs, story_of
from broker_worker.dashboard.rendering import clock_time, page, path
from broker_worker.ledger.queries import LeaseRow

MAX_LANES: Final = 14
_STAY_WORDS: Final = {"held": "until", "over": "expired", "ended": "ended"}


def show_list(request: Request) -> Response:
    """The runs, the most recently active first."""
    query = request.query_params
    with context_of(request).ledger.connect() as connection:
        runs = list_runs(
            connection,
            agent=query.get("agent") or None,
            is_revoked=query.get("state") == "revoked",
            after=Cursor.parse(query.get("before")),
        )
    return page(request, "runs.html", runs=runs.rows, before=runs.following, notice=notice_of(request))


def show_one(request: Request) -> Response:
    """One run's story."""
    agent, run = request.path_params["agent"], request.path_params["run"]
    context = context_of(request)
    with context.ledger.connect() as connection:
        found = find_run(connection, agent, run)
        story = story_of(connection, agent, run, after=Cursor.parse(request.query_params.get("before")))
        if found is None and not story.rows:
            raise HTTPException(404, f"the ledger knows no run {run} of agent {agent}")
        leases = leases_of(connection, agent, run)
        approvals = approvals_of(connection, agent, run)
        order = order_about(connection, f"run:{agent}/{run}") or order_about(connection, f"agent:{agent}")
    return page(
        request,
        "run.html",
        agent_id=agent,
        run_id=run,
        run=found,
        story=story.rows,
        before=story.following,
        leases=leases,
        lanes=lanes_of(leases, context.clock()),
        approvals=approvals,
        order=order,
        notice=notice_of(request),
    )


@dataclass(frozen=True, slots=True)
class Lane:
    """The leases of one secret on a common axis of time.

    Args:
        name: the secret.
        drawing: the lane.
        start: where the axis begins, ms since the epoch.
        end: where it ends.
    """

    name: str
    drawing: str
    start: int
    end: int


def lanes_of(leases: Sequence[LeaseRow], now: int) -> list[Lane]:
    """A lane a secret, those that were held last first; at most `MAX_LANES`."""
    stays: dict[str, list[Stay]] = {}
    for lease in leases:
        kind = "held" if lease.is_open(now) else "over" if lease.until == lease.expires_at else "ended"
        words = f"{_STAY_WORDS[kind]} {clock_time(lease.until, now)}"
        hint = f"{lease.secret_name}: from {clock_time(lease.issued_at, now)}, {words}"
        stays.setdefault(lease.secret_name, []).append(Stay(lease.issued_at, lease.until, kind, hint))
    if not stays:
        return []
    start = min(stay.start for each in stays.values() for stay in each)
    end = max(stay.end for each in stays.values() for stay in each)
    return [Lane(name, lane(each, start, end), start, end) for name, each in list(stays.items())[:MAX_LANES]]


async def revoke_one(request: Request) -> Response:
    """Refuse whatever the run asks from now on, and end its leases."""
    agent, run = request.path_params["agent"], request.path_params["run"]
    await revoke(request, "run", f"{agent}/{run}")
    return back(request, path("runs", agent, run))


routes = [
    Route("/runs", show_list, methods=["GET"]),
    Route("/runs/{agent}/{run}", show_one, methods=["GET"]),
    Route("/runs/{agent}/{run}/revoke", revoke_one, methods=["POST"]),
]
