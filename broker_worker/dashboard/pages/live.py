"""Live: what agents ask for, as it happens. Every filter is a link; new events come by server-sent events.

An event of the stream has the ledger's position as its id, so that a browser that lost its connection goes on behind
the last event that it has: nothing is lost, and nothing comes twice.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from urllib.parse import urlencode

from sqlalchemy import Engine, RowMapping
from sqlalchemy.exc import SQLAlchemyError
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from broker_worker.dashboard.context import context_of, session_of
from broker_worker.dashboard.reads.keyset import Cursor
from broker_worker.dashboard.reads.live import (
    KINDS,
    Filter,
    Place,
    following,
    is_still_true,
    latest_place,
    outcomes_since,
    recent,
)
from broker_worker.dashboard.rendering import page, render
from broker_worker.files.quantities import parse_duration

POLL_SECONDS = 0.25
MAX_STREAMS = 32
"""How many browsers may follow at once."""
RETRY_MS = 1000
SINCE = ((None, "any time"), ("15m", "15 min"), ("1h", "1 h"), ("24h", "24 h"), ("7d", "7 d"))
OUTCOMES = (
    (None, "all"),
    ("granted", "released"),
    ("refused", "refused"),
    ("approvals", "approvals"),
    ("orders", "revocations"),
    ("system", "system"),
)
SUMMARY_MS = 3600 * 1000
_MAX_TEXT = 400


def live(request: Request) -> Response:
    """The page: the newest events that fit the filter."""
    context, wanted = context_of(request), filter_of(request)
    before = Cursor.parse(request.query_params.get("before"))
    with context.ledger.connect() as connection:
        place = latest_place(connection)
        events = recent(connection, wanted, place, after=before)
        counts = outcomes_since(connection, context.clock() - SUMMARY_MS)
    follows = before is None and (wanted.until is None or wanted.until > context.clock())
    return page(
        request,
        "live.html",
        events=events.rows,
        before=events.following,
        stream=_stream_address(request, place) if follows else None,
        position=place.position,
        counts=counts,
        since=SINCE,
        outcomes=OUTCOMES,
    )


def summary(request: Request) -> Response:
    """The figures above the list, which the page fetches again and again."""
    context = context_of(request)
    with context.ledger.connect() as connection:
        counts = outcomes_since(connection, context.clock() - SUMMARY_MS)
    return page(request, "live_summary.html", counts=counts)


def stream(request: Request) -> Response:
    """New events that fit the filter, each a rendered row, from `Last-Event-ID` or the parameter `after` on."""
    text = request.headers.get("last-event-id") or request.query_params.get("after", "")
    place = Place.parse(text)
    if place is None:
        raise HTTPException(400, "the stream begins at no event that the ledger has; load the page again")
    streams = request.app.state
    if getattr(streams, "live", 0) >= MAX_STREAMS:
        raise HTTPException(503, f"{MAX_STREAMS} browsers follow already; close one")
    return EventSourceResponse(_follow(request, filter_of(request), place), ping=15)


async def _follow(request: Request, wanted: Filter, place: Place) -> AsyncIterator[ServerSentEvent]:
    context, session, state = context_of(request), session_of(request), request.app.state
    state.live = getattr(state, "live", 0) + 1
    try:
        yield ServerSentEvent(comment="following", retry=RETRY_MS)
        while session is not None and context.sessions.goes_on(session, context.clock()):
            events, reached = await asyncio.to_thread(_read, context.ledger, wanted, place)
            if reached is None:
                yield ServerSentEvent("", event="rebuilt")
                return
            place = reached
            for event in events:
                row = render(request, "live_rows.html", at="/", events=[event], fresh=True)
                yield ServerSentEvent(row, event="event", id=str(Place(event["position"], event["event_id"])))
            if not events:
                await asyncio.sleep(POLL_SECONDS)
    except SQLAlchemyError:
        return  # the ledger is away: the browser comes back, and goes on behind the last event that it has
    finally:
        state.live -= 1


def _read(ledger: Engine, wanted: Filter, place: Place) -> tuple[list[RowMapping], Place | None]:
    with ledger.connect() as connection:
        if not is_still_true(connection, place):
            return [], None
        events, reached = following(connection, wanted, place)
        return list(events), reached


def _stream_address(request: Request, place: Place) -> str:
    return "/live/stream?" + urlencode({**request.query_params, "after": str(place)})


def filter_of(request: Request) -> Filter:
    """The filter that an address asks for.

    Raises:
        HTTPException: 400 if a parameter is not of its form.
    """
    given = {name: value for name, value in request.query_params.items() if value}
    agent, run = given.get("agent"), None
    if "run" in given:
        agent, slash, run = given["run"].partition("/")
        if not slash or given.get("agent", agent) != agent:
            raise HTTPException(400, "a run is written AGENT/RUN, and is one of the agent asked for")
    outcome = given.get("outcome")
    if outcome is not None and outcome not in {*KINDS, "granted", "refused"}:
        raise HTTPException(400, f"outcome is one of granted, refused, {', '.join(KINDS)}")
    if any(len(value) > _MAX_TEXT for value in given.values()):
        raise HTTPException(400, "a filter has at most 400 characters")
    since = _moment("from", given.get("from"))
    if "since" in given:
        try:
            since = context_of(request).clock() - parse_duration(given["since"]) * 1000
        except ValueError as error:
            raise HTTPException(400, f"since: {error}") from None
    return Filter(agent, run, given.get("secret"), outcome, since, _moment("to", given.get("to")))


def _moment(name: str, text: str | None) -> int | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise HTTPException(400, f"{name}: expected a time in UTC such as 2026-01-31T09:30") from None
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


routes = [
    Route("/", live, methods=["GET"]),
    Route("/live/summary", summary, methods=["GET"]),
    Route("/live/stream", stream, methods=["GET"]),
]
