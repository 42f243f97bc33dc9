"""No page of the dashboard has the database read a large table from end to end."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from dashboard_house import House, made_ledger
from ledger_filling import BUSY_RUN, BUSY_SECRET, LedgerFilling
from sqlalchemy import Engine, event

ADDRESSES = (
    "/",
    "/?agent=agent-01",
    "/?secret=service-01.api_key&outcome=refused",
    "/runs",
    "/runs?agent=agent-01",
    "/runs?state=revoked",
    "/runs?state=revoked&agent=agent-01",
    "/runs/" + "/".join(BUSY_RUN),
    "/leases",
    "/leases?agent=agent-00&run=run-busy",
    f"/leases?secret={BUSY_SECRET}&version=1",
    "/leases?state=all",
    "/leases?state=all&agent=agent-00",
    "/leases?state=all&agent=agent-00&run=run-busy",
    f"/leases?state=all&secret={BUSY_SECRET}&version=1",
    "/secrets",
    "/secrets?span=90d&show=unused&order=refused",
    f"/secrets/{BUSY_SECRET}",
    f"/secrets/{BUSY_SECRET}?version=1&span=90d",
    "/agents",
    "/agents?span=90d&order=refused",
    "/agents/agent-00",
    "/health",
)
_WHOLE = re.compile(r"SCAN (events|leases|runs|usage|approvals)\b")

_TAKES_ALL = ("", "WHERE runs.revoked_at IS NOT NULL", "WHERE events.position <= ?")
"""Conditions under which a walk takes every row: none, that of the index itself, or all but the very newest."""
_BY_POSITION = "ORDER BY events.position"
"""The order in which the rows of the table itself lie."""
_SORTS = re.compile(r"USE TEMP B-TREE FOR (?!LAST|RIGHT PART)")


@pytest.fixture
def filled(house: House) -> House:
    """A house whose ledger holds a month."""
    (house.folder / "ledger.sqlite3").write_bytes(made_ledger(fill_a_month))
    return house


def fill_a_month(engine: Engine) -> None:
    """Make the tables and fill them."""
    LedgerFilling(events=1500).fill(engine)


@contextmanager
def statements(house: House) -> Iterator[list[tuple[str, Any]]]:
    """What the pages ask the database meanwhile."""
    seen: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
        seen.append((statement, parameters))

    event.listen(house.reader, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(house.reader, "before_cursor_execute", note)


def plan_of(house: House, statement: str, parameters: Any) -> list[str]:
    """How the database would answer a statement, a step a line."""
    with house.writer.connect() as connection:
        rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        return [row[3] for row in rows]


def faults_of(house: House, statement: str, parameters: Any) -> list[str]:
    """The steps that read a large table from end to end.

    Walking along an index is none if the walk ends at a limit and takes every row: rows that are wanted in the index's
    own order, where at most those are sorted that the index holds to be equal.
    """
    plan = plan_of(house, statement, parameters)
    is_sorted = any(_SORTS.match(step) for step in plan)
    faults = []
    for step in plan:
        if found := _WHOLE.match(step):
            condition = statement.rpartition(f"FROM {found[1]}")[2].partition("ORDER BY")[0].strip()
            walks = " USING " in step or _BY_POSITION in statement
            if is_sorted or not walks or "LIMIT" not in statement or condition not in _TAKES_ALL:
                faults.append(step)
    return faults


@pytest.mark.parametrize("address", ADDRESSES)
async def test_every_question_is_led_by_an_index(filled: House, browser: httpx.AsyncClient, address: str) -> None:
    """Also the question for the page behind the first."""
    with statements(filled) as seen:
        text = (await browser.get(address)).text
        if 'rel="next"' in text:
            following = text.partition('rel="next"')[0].rpartition('href="')[2].partition('"')[0]
            assert (await browser.get(following.replace("&amp;", "&"))).status_code == 200
    assert seen
    found = [(fault, statement) for statement, parameters in seen for fault in faults_of(filled, statement, parameters)]
    assert found == []


async def test_the_check_sees_a_table_that_is_read_from_end_to_end(filled: House) -> None:
    """A question that no index serves is found."""
    assert faults_of(filled, "SELECT purpose FROM events WHERE purpose = ?", ("x",))
    assert faults_of(filled, "SELECT agent_id FROM runs ORDER BY task LIMIT 5", ())
    assert faults_of(filled, "SELECT at FROM events WHERE task = ? ORDER BY at LIMIT 5", ("x",))
    assert not faults_of(filled, "SELECT at FROM events ORDER BY at DESC LIMIT 5", ())
