"""Leases: who holds what, until when; and who held it."""

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from broker_worker.dashboard.context import context_of
from broker_worker.dashboard.orders import back, notice_of, revoke
from broker_worker.dashboard.reads.keyset import Cursor
from broker_worker.dashboard.reads.leases import LeaseFilter, all_leases, is_known_lease, open_leases
from broker_worker.dashboard.rendering import page


def show(request: Request) -> Response:
    """The leases that the query's filters let through."""
    query, context = request.query_params, context_of(request)
    wanted = LeaseFilter(*(query.get(name) or None for name in ("agent", "run", "secret", "version")))
    after = Cursor.parse(query.get("before"))
    is_all = query.get("state") == "all"
    with context.ledger.connect() as connection:
        if is_all:
            leases = all_leases(connection, wanted, after=after)
        else:
            leases = open_leases(connection, wanted, context.clock(), after=after)
    return page(
        request, "leases.html", leases=leases.rows, before=leases.following, is_all=is_all, notice=notice_of(request)
    )


async def revoke_one(request: Request) -> Response:
    """End a lease before its time."""
    lease_id = request.path_params["lease_id"]
    if not await run_in_threadpool(_is_known, request, lease_id):
        raise HTTPException(404, "the ledger knows no lease of that id")
    await revoke(request, "lease", lease_id)
    return back(request, "/leases")


def _is_known(request: Request, lease_id: str) -> bool:
    with context_of(request).ledger.connect() as connection:
        return is_known_lease(connection, lease_id)


routes = [
    Route("/leases", show, methods=["GET"]),
    Route("/leases/{lease_id}/revoke", revoke_one, methods=["POST"]),
]
