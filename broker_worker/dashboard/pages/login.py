"""Logging in with a one-time link, and out.

The link is only looked at by GET, and used up by the POST of the page's one button: mail scanners and browsers that
fetch links ahead use nothing up.
"""

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from broker_worker.dashboard.context import context_of, session_of
from broker_worker.dashboard.rendering import page
from broker_worker.dashboard.security import form_of
from broker_worker.dashboard.sessions import ABSOLUTE_MS

_USED = "this link was used, is older than ten minutes, or was never made"


def show(request: Request) -> Response:
    """The page that a one-time link leads to."""
    context = context_of(request)
    token = request.query_params.get("token", "")
    is_open = bool(token) and context.links.is_open(token, context.clock())
    fault = _USED if token and not is_open else ""
    return page(request, "login.html", status=403 if fault else 200, token=token if is_open else "", fault=fault)


async def log_in(request: Request) -> Response:
    """Use the link up and begin a session."""
    context = context_of(request)
    token = (await request.form()).get("token")
    if not isinstance(token, str) or not context.links.use(token, context.clock()):
        return page(request, "login.html", status=403, token="", fault=_USED)
    _, cookie = context.sessions.begin(context.clock())
    response = RedirectResponse("/", 303)
    response.set_cookie(
        context.cookie,
        cookie,
        max_age=ABSOLUTE_MS // 1000,
        path="/",
        secure=context.origin.startswith("https://"),
        httponly=True,
        samesite="strict",
    )
    return response


def log_out(request: Request) -> Response:
    """End this session, or with the field `everywhere` all of them."""
    context, session = context_of(request), session_of(request)
    if session is None:
        raise HTTPException(401)
    context.sessions.end(session)
    if form_of(request).get("everywhere"):
        context.sessions.end_all()
    response = RedirectResponse("/login", 303)
    response.delete_cookie(context.cookie, path="/", secure=context.origin.startswith("https://"), httponly=True)
    return response


def still_there(request: Request) -> Response:
    """Whether the session goes on, for scripts: 204, or 401 from the gate."""
    return Response(status_code=204)


routes = [
    Route("/session", still_there, methods=["GET"]),
    Route("/login", show, methods=["GET"]),
    Route("/login", log_in, methods=["POST"], name="log_in"),
    Route("/logout", log_out, methods=["POST"]),
]
