"""Templates, and what they can say.

Everything is escaped, undefined names are errors, and no template holds a script or a style of its own: the content
security policy would refuse it.
"""

import hashlib
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse

from broker_worker.dashboard.context import context_of, session_of
from broker_worker.dashboard.wording import called, headline, tone

NAVIGATION = (
    ("/", "Live"),
    ("/runs", "Runs"),
    ("/approvals", "Approvals"),
    ("/leases", "Leases"),
    ("/secrets", "Secrets"),
    ("/agents", "Agents"),
    ("/health", "Health"),
)
"""The pages, in the order of the navigation; each also lights up for the paths below it."""
_PACKAGE = "broker_worker.dashboard"
_PLACES = frozenset({"before", "after"})
"""Parameters that say where in a list somebody is; another filter begins at its beginning."""
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def page(request: Request, template: str, /, *, status: int = 200, **values: Any) -> HTMLResponse:
    """Render a page or a part of one.

    Args:
        request: what asked for it; templates see it as `request`.
        template: the file in `templates`.
        status: the HTTP status.
        **values: what the template says, besides `session`, `now`, `origin`, `waiting_count` and `here(…)`.
    """
    return HTMLResponse(render(request, template, **values), status)


def render(request: Request, template: str, /, *, at: str = "", **values: Any) -> str:
    """Render a template to text, as `page` does.

    Args:
        request: what asked for it.
        template: the file in `templates`.
        at: the address of the page that it becomes a part of; empty for the request's own.
        **values: what the template says.
    """

    def here(**changes: str | int | None) -> str:
        """The address of this page with parameters set, or removed where they are None; pages begin anew."""
        query = {name: value for name, value in request.query_params.items() if name not in _PLACES} | changes
        text = urlencode({name: value for name, value in query.items() if value not in {None, ""}})
        return (at or request.url.path) + (f"?{text}" if text else "")

    context = context_of(request)
    return _ENVIRONMENT.get_template(template).render(
        request=request,
        session=session_of(request),
        now=context.clock(),
        origin=context.origin,
        waiting_count=context.approvals.waiting,
        navigation=NAVIGATION,
        here=here,
        **values,
    )


def iso(milliseconds: int) -> str:
    """A time as machines read it: RFC 3339 in UTC."""
    return f"{_moment(milliseconds):%Y-%m-%dT%H:%M:%SZ}"


def clock_time(milliseconds: int, now: int) -> str:
    """A time as people read it, UTC: of today only the time of day, else with its date."""
    moment = _moment(milliseconds)
    return f"{moment:%H:%M:%S}" if moment.date() == _moment(now).date() else f"{moment:%Y-%m-%d %H:%M:%S}"


def distance(milliseconds: int, now: int) -> str:
    """How long ago, or how far ahead: `12 s ago`, `in 4 min`."""
    seconds = abs(now - milliseconds) // 1000
    text = length(seconds)
    return f"{text} ago" if milliseconds <= now else f"in {text}"


def length(seconds: int) -> str:
    """A length of time in its largest fitting unit: `45 s`, `9 min`, `3 h`, `12 d`."""
    if seconds < 2 * _MINUTE:
        return f"{seconds} s"
    if seconds < 2 * _HOUR:
        return f"{seconds // _MINUTE} min"
    if seconds < 2 * _DAY:
        return f"{seconds // _HOUR} h"
    return f"{seconds // _DAY} d"


def path(*parts: str) -> str:
    """An address of ours: `path('runs', agent, run)`, every part encoded."""
    return "/" + "/".join(quote(part, safe="") for part in parts)


def number(value: int) -> str:
    """A number with thin spaces between thousands."""
    return f"{value:,}".replace(",", "\u2009")


def took(microseconds: int) -> str:
    """How long something took: `850 µs`, `12 ms`, `3.4 s`."""
    if microseconds < 1000:
        return f"{microseconds} µs"
    if microseconds < 1_000_000:
        return f"{microseconds / 1000:.3g} ms"
    return f"{microseconds / 1_000_000:.1f} s"


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _static(name: str) -> str:
    """The address of a static file, with a mark that changes with its content."""
    return f"/static/{name}?{_STATIC_VERSION}"


def _version_of_static() -> str:
    """A digest of the static files, so that browsers fetch those of a new version anew."""
    digest = hashlib.sha256()
    for each in sorted((files(_PACKAGE) / "static").iterdir(), key=lambda item: item.name):
        digest.update(each.read_bytes())
    return digest.hexdigest()[:12]


_STATIC_VERSION = _version_of_static()
_ENVIRONMENT = Environment(
    loader=PackageLoader(_PACKAGE),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {
    "iso": iso,
    "number": number,
    "length": length,
    "took": took,
    "called": called,
    "headline": headline,
    "tone": tone,
}
_ENVIRONMENT.globals |= {"clock_time": clock_time, "distance": distance, "path": path, "static": _static}
