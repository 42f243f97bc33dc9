"""Secrets: how each is used, who holds or held it; and ending that."""

from typing import Final

from sqlalchemy import Connection, RowMapping
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from broker_worker.dashboard.charts import chart_of
from broker_worker.dashboard.context import context_of
from broker_worker.dashboard.known_names import known_names
from broker_worker.dashboard.orders import back, notice_of, revoke, revoke_leases
from broker_worker.dashboard.reads.keyset import Cursor
from broker_worker.dashboard.reads.leases import LeaseFilter, all_leases, open_leases, versions_of
from broker_worker.dashboard.reads.orders import order_about
from broker_worker.dashboard.reads.usage import SPAN_LABELS, last_granted, partners, recent_refusals, series, span_of
from broker_worker.dashboard.rendering import page, path
from broker_worker.dashboard.security import form_of
from broker_worker.dashboard.use_table import ORDERS, Use

REFUSALS: Final = 12
PARTNERS: Final = 50
HELD: Final = 20
MOST_AT_ONCE: Final = 2000
"""How many leases one post ends at most."""
_SHOWN: Final = (
    ("", "all"),
    ("used", "used"),
    ("unused", "not used"),
    ("refused", "refused"),
    ("unknown", "unknown names"),
)


def show_list(request: Request) -> Response:
    """All secrets that the registry names or anybody asked for."""
    context, query = context_of(request), request.query_params
    known = known_names(context)
    now = context.clock()
    with context.ledger.connect() as connection:
        use = Use.read(connection, "secret_name", known.secrets, span_of(query.get("span"), now), now)
        names = use.narrowed(query.get("show", ""))
        found = use.ordered(names, query.get("order", ""), Cursor.parse(query.get("before")))
        rows = use.rows(connection, found.rows)
    return page(
        request,
        "secrets.html",
        use=use,
        rows=rows,
        before=found.following,
        shown=_SHOWN,
        orders=ORDERS,
        spans=SPAN_LABELS,
        fault=known.fault,
    )


def show_one(request: Request) -> Response:
    """One secret: its use over time, who asks for it, who holds and held it, and its latest refusals."""
    name: str = request.path_params["name"]
    context, query = context_of(request), request.query_params
    known = known_names(context)
    now = context.clock()
    span = span_of(query.get("span"), now)
    wanted = LeaseFilter(secret=name, version=query.get("version") or None)
    with context.ledger.connect() as connection:
        held = open_leases(connection, wanted, now, limit=HELD)
        exposure = all_leases(connection, wanted, after=Cursor.parse(query.get("before")))
        refusals = recent_refusals(connection, "secret_name", name, REFUSALS)
        if name not in known.secrets and not exposure.rows and not refusals:
            raise HTTPException(404, f"neither the registry nor the ledger knows a secret {name}")
        agents = partners(connection, "secret_name", name, span)
        drawn = series(connection, "secret_name", [name], span)[name]
        return page(
            request,
            "secret.html",
            name=name,
            origin_of=known.secrets.get(name),
            fault=known.fault,
            span=span,
            spans=SPAN_LABELS,
            chart=chart_of(drawn, span, name="use", title=f"Use of {name}"),
            last_at=last_granted(connection, "secret_name", [name]).get(name),
            agents=list(agents.items())[:PARTNERS],
            held=held,
            leases=exposure.rows,
            before=exposure.following,
            version_choices=[(None, "all"), *((version, version) for version in versions_of(connection, name))],
            refusals=refusals,
            order=order_about(connection, f"secret:{name}") or _order_about_version(connection, name, wanted.version),
            notice=notice_of(request),
        )


def _order_about_version(connection: Connection, name: str, version: str | None) -> RowMapping | None:
    return None if version is None else order_about(connection, f"secret:{name}@{version}")


async def revoke_one(request: Request) -> Response:
    """Refuse a secret, or with `version` one version of it, to everybody from now on."""
    name: str = request.path_params["name"]
    if not await run_in_threadpool(_is_known, request, name):
        raise HTTPException(404, f"neither the registry nor the ledger knows a secret {name}")
    await revoke(request, "secret", name, version=form_of(request).get("version") or None)
    return back(request, path("secrets", name))


async def end_leases(request: Request) -> Response:
    """End exactly the leases that are open now; who asks again gets it again."""
    name: str = request.path_params["name"]
    found, more = await run_in_threadpool(_open_ids, request, name)
    if not found:
        raise HTTPException(404, f"nobody holds {name} now, as far as the ledger knows")
    await revoke_leases(request, found, more)
    return back(request, path("secrets", name))


def _is_known(request: Request, name: str) -> bool:
    context = context_of(request)
    if name in known_names(context).secrets:
        return True
    with context.ledger.connect() as connection:
        return bool(all_leases(connection, LeaseFilter(secret=name), limit=1).rows)


def _open_ids(request: Request, name: str) -> tuple[list[str], int]:
    context = context_of(request)
    wanted = LeaseFilter(secret=name, version=form_of(request).get("version") or None)
    with context.ledger.connect() as connection:
        rows = open_leases(connection, wanted, context.clock(), limit=10_000).rows
    found = [lease.lease_id for lease in rows]
    return found[:MOST_AT_ONCE], len(found[MOST_AT_ONCE:])


routes = [
    Route("/secrets", show_list, methods=["GET"]),
    Route("/secrets/{name}", show_one, methods=["GET"]),
    Route("/secrets/{name}/revoke", revoke_one, methods=["POST"]),
    Route("/secrets/{name}/end-leases", end_leases, methods=["POST"]),
]
