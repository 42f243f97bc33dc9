"""A dashboard with a bit of everything, for tests of what its pages look like; and one with 100,000 events."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest_asyncio
from broker_home import Home, server_of
from browser_people import enroll
from browser_site import Site
from desk_workbench import until
from ledger_filling import BUSY_RUN, BUSY_SECRET, NOW, LedgerFilling
from people_workbench import AskingHome, put_decision
from software_authenticator import SoftwareAuthenticator
from sqlalchemy import insert

from broker_worker.core.approvals import Decision, Verdict, decision_challenge
from broker_worker.ledger.schema import LEASES, RUNS

if TYPE_CHECKING:
    from playwright.async_api import Browser

Fields = dict[str, Any]
HOSTILE = '"><img src=x onerror=alert(1)><script>alert(2)</script>' + "unbroken" * 24
AGENT, RUN = "claude", "run-hostile-0123456789abcdef"
PAGES = (
    "/",
    f"/?agent={AGENT}&outcome=refused&since=24h",
    "/runs",
    f"/runs/{'/'.join(BUSY_RUN)}",
    f"/runs/{AGENT}/{RUN}",
    "/approvals",
    "/approvals/WAITING",
    "/leases",
    "/leases?state=all",
    "/secrets",
    f"/secrets/{BUSY_SECRET}",
    "/agents",
    f"/agents/{BUSY_RUN[0]}",
    "/health",
    "/nowhere",
    "/login",
)
_POLICY = """
    agents:
      claude:
        allow:
          - {secret: openai.api_key, approval: {approvers: [ops]}}
      agent-00: {allow: [openai.api_key]}
"""
_DECIDED: tuple[tuple[int, Verdict, str], ...] = ((3, "approve", ""), (4, "deny", HOSTILE))
_WHO: Fields = {"agent_id": AGENT, "run_id": RUN}


def _ask_people(home: Home) -> None:
    """Two requests that wait, one that was approved, one that was denied."""
    alice = SoftwareAuthenticator()
    enroll(home, alice=alice, bob=SoftwareAuthenticator())
    asking = AskingHome(home.settings)
    with home.redis() as redis:
        asking.ask(redis, NOW, run_id="run-1", request_id=bytes([1]) * 16)
        asking.ask(redis, NOW, run_id=RUN, purpose=HOSTILE, task=HOSTILE, quorum=2, request_id=bytes([2]) * 16)
        for number, verdict, reason in _DECIDED:
            asked = asking.ask(redis, NOW, run_id=f"run-{number}", grant="run", request_id=bytes([number]) * 16)
            challenge = decision_challenge(asked.digest(), verdict, "alice", NOW, reason)
            known: Fields = {"request": asked.digest(), "verdict": verdict, "approver": "alice", "decided_at": NOW}
            put_decision(redis, Decision(**known, reason=reason, proof=alice.sign(challenge)))


def _fill(site: Site, events: int, months: int) -> None:
    """So many events in each month, and of one run what an agent wrote to be run by a browser."""
    LedgerFilling(events).fill(site.writer, months)
    site.sequence = events
    granted: Fields = {"outcome": "granted", "action": "resolve", "secret_name": "openai.api_key", "latency_us": 900}
    site.record(**_WHO, **granted, purpose=HOSTILE)
    site.record(**_WHO, **granted | {"outcome": "refused"}, reason=HOSTILE, purpose=HOSTILE, code="denied")
    site.record("lease_ended", **_WHO, secret_name="openai.api_key", lease_id="f" * 32, reason=HOSTILE)
    site.record("approval_requested", **_WHO, secret_name="openai.api_key", approver="ops", purpose=HOSTILE)
    times: Fields = {"first_at": NOW - 1000, "last_at": NOW, "granted": 1, "refused": 1, "revoked_at": None}
    lease: Fields = {"lease_id": "f" * 32, "secret_name": "openai.api_key", "version": "7", "uses": 1, "renewals": 0}
    ends: Fields = {"issued_at": NOW, "expires_at": NOW + 300_000, "ends_at": NOW + 900_000, "ended_at": None}
    with site.writer.begin() as connection:
        connection.execute(insert(RUNS).values(**_WHO, task=HOSTILE, issuer="local", **times))
        connection.execute(insert(LEASES).values(**_WHO, **lease, **ends, end_reason=None, approval_id=None))


@asynccontextmanager
async def _shown(events: int, months: int = 1) -> AsyncIterator[Site]:
    """A dashboard of so many events in each month, with a queue of its own."""
    folder = Path(tempfile.mkdtemp(prefix="sb-museum-"))
    home = Home(folder / "h", None, policy=_POLICY)
    site = Site(home.settings, lambda: NOW)
    await asyncio.to_thread(_fill, site, events, months)
    try:
        with server_of(home):
            _ask_people(home)
            async with site.served():
                await until(lambda: {item.state for item in site.context.approvals.items} >= {"approved", "denied"})
                yield site
    finally:
        site.writer.dispose()
        shutil.rmtree(folder)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def museum(chromium: "Browser") -> AsyncIterator[Site]:
    """One for all tests of this process: they only look."""
    async with _shown(5_000) as site:
        yield site


@pytest_asyncio.fixture(loop_scope="session")
async def archive(chromium: "Browser") -> AsyncIterator[Site]:
    """One with 100,000 events."""
    async with _shown(10_000, 10) as site:
        yield site
