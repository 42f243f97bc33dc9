"""The application: the pages behind their guards, and the pages for what went wrong."""

import functools
import inspect
from collections.abc import Callable, Iterable
from http import HTTPStatus
from importlib.resources import files
from typing import Any, Final

import structlog
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from agent_sdk.wire.errors import SecretBrokerError
from broker_worker.core.errors import ApprovalError, BrokerError
from broker_worker.dashboard.context import Context
from broker_worker.dashboard.pages import ROUTES
from broker_worker.dashboard.rendering import page
from broker_worker.dashboard.security import Gate, check_form_token

_LOG = structlog.get_logger(__name__)
_WITHOUT_TOKEN: Final = frozenset({"/login"})
"""Posts that need no form token: a login has no session yet, and shows its link's token instead."""


def make_app(context: Context, routes: Iterable[Route] = ROUTES) -> ASGIApp:
    """Put the application together.

    Args:
        context: what its pages work with.
        routes: what there is besides the static files; every one that is not a plain read gets its form token checked.
    """
    static = StaticFiles(directory=str(files("broker_worker.dashboard") / "static"))
    app = Starlette(
        routes=[*(_guarded(route) for route in routes), Mount("/static", static)],
        exception_handlers={
            HTTPException: _refused,
            SecretBrokerError: _failed,
            BrokerError: _failed,
            SQLAlchemyError: _without_ledger,
            Exception: _defect,
        },
    )
    app.state.context = context
    return Gate(app, context, _ask_for_login)  # outermost: also what Starlette answers by itself gets the headers


def _guarded(route: Route) -> Route:
    """The same route; one that changes something runs only with the form token of its session."""
    methods = route.methods or set()
    if methods <= {"GET", "HEAD"} or route.path in _WITHOUT_TOKEN:
        return route
    endpoint: Callable[[Request], Any] = route.endpoint

    @functools.wraps(endpoint)
    async def checked(request: Request) -> Response:
        await check_form_token(request)
        is_async = inspect.iscoroutinefunction(endpoint)
        answer: Response = await (endpoint(request) if is_async else run_in_threadpool(endpoint, request))
        return answer

    return Route(route.path, checked, methods=sorted(methods), name=route.name)


def _ask_for_login(request: Request) -> Response:
    if "hx-request" in request.headers or "text/event-stream" in request.headers.get("accept", ""):
        return PlainTextResponse("the session is over\n", 401)
    return page(request, "login.html", status=401, token="", fault="")


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    title = HTTPStatus(error.status_code).phrase
    text = error.detail if error.detail != title else ""
    return _error(request, error.status_code, title, text)


def _failed(request: Request, error: Exception) -> Response:
    """Something that people can act on: what was asked makes no sense (any more), or a part of the broker is away."""
    status = 400 if isinstance(error, SecretBrokerError) else 409 if isinstance(error, ApprovalError) else 503
    return _error(request, status, "That did not work", str(error), getattr(error, "hint", ""))


def _without_ledger(request: Request, error: Exception) -> Response:
    """The ledger's database is away; its own words may repeat what was asked, so only their kind is shown."""
    _LOG.warning("ledger_unreadable", kind=type(error).__name__)
    text = "The run ledger cannot be read, so there is nothing to show here. Approvals and revocations work without it."
    return _error(
        request, 503, "No ledger", text, "is `secret-broker ledger run` running? `secret-broker up` starts it"
    )


def _defect(request: Request, error: Exception) -> Response:
    return _error(request, 500, "A defect", f"unexpected {type(error).__name__}; the dashboard's log shows where")


def _error(request: Request, status: int, title: str, text: str, hint: str = "") -> Response:
    if "application/json" in request.headers.get("accept", ""):
        return JSONResponse({"error": text or title, "hint": hint}, status)
    return page(request, "error.html", status=status, title=title, text=text, hint=hint)
