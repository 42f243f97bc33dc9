"""The pages, a module each; `routes` is what each brings. A new page joins here and in `rendering.NAVIGATION`."""

from starlette.routing import Route

from broker_worker.dashboard.pages import agents, approvals, health, leases, live, login, runs, secrets

PAGES = (live, runs, approvals, leases, secrets, agents, health, login)
"""In the order in which their routes are tried."""

ROUTES: tuple[Route, ...] = tuple(route for module in PAGES for route in module.routes)

__all__ = ["PAGES", "ROUTES"]
