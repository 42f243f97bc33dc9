"""The pages of runs: the list, one run's story, and revoking it."""

import httpx
import pytest
from dashboard_house import NOW, House
from ledger_rows import HOUR, LEASE, approval, lease, revoked, run

from agent_sdk.wire.audit import AuditRecord, encode_line, format_time

PAGE = "/runs/claude/run-1"
HOSTILE = "<script>alert(1)</script>"


async def test_without_runs_the_list_says_when_one_appears(browser: httpx.AsyncClient) -> None:
    """An empty ledger shows no empty table but says what will be there."""
    answer = await browser.get("/runs")
    assert answer.status_code == 200
    assert "A run appears here" in answer.text


async def test_the_list_shows_a_run_with_what_it_got(house: House, browser: httpx.AsyncClient) -> None:
    """A run stands there with its agent, its task and a link to its story."""
    run(house)
    answer = await browser.get("/runs")
    assert f'href="{PAGE}"' in answer.text
    assert "mend it" in answer.text


async def test_the_list_can_be_narrowed_to_an_agent(house: House, browser: httpx.AsyncClient) -> None:
    """The filter is a link, and other agents' runs are gone."""
    run(house)
    run(house, agent_id="codex", run_id="run-2")
    text = (await browser.get("/runs", params={"agent": "codex"})).text
    assert "run-2" in text
    assert "run-1" not in text


async def test_the_list_can_be_narrowed_to_revoked_runs(house: House, browser: httpx.AsyncClient) -> None:
    """Only what was revoked is left."""
    run(house)
    run(house, run_id="run-2", revoked_at=NOW)
    text = (await browser.get("/runs", params={"state": "revoked"})).text
    assert "run-2" in text
    assert "run-1" not in text


async def test_pages_of_the_list_follow_each_other_without_a_gap(house: House, browser: httpx.AsyncClient) -> None:
    """Following `Older` shows every run once, also those that were active at the same moment."""
    for number in range(120):
        run(house, run_id=f"run-x{number:03d}", last_at=NOW - number // 40)
    seen: list[str] = []
    address = "/runs"
    while address:
        text = (await browser.get(address)).text
        seen += [part.split('"')[0] for part in text.split('href="/runs/claude/')[1:]]
        following = text.partition('rel="next"')[0].rpartition('href="')[2].partition('"')[0]
        address = following.replace("&amp;", "&") if 'rel="next"' in text else ""
    assert sorted(seen) == [f"run-x{number:03d}" for number in range(120)]


async def test_an_unknown_run_is_not_found(browser: httpx.AsyncClient) -> None:
    """A made-up address leads to a page that says so."""
    answer = await browser.get("/runs/claude/run-77")
    assert answer.status_code == 404
    assert "knows no run run-77" in answer.text


async def test_a_story_tells_refusals_approvals_leases_and_revocation(house: House, browser: httpx.AsyncClient) -> None:
    """Everything that concerns the run is there, in order, with the reasons."""
    run(house)
    lease(house)
    approval(house)
    own = {"agent_id": "claude", "run_id": "run-1", "secret_name": "github.token"}
    house.record(at=NOW - 9, outcome="refused", code="denied", reason="no_grant", **own)
    house.record("approval_requested", at=NOW - 8, approver="ops", **own)
    house.record("revoked", at=NOW - 7, subject="run:claude/run-1", reason="leaked", approver="maria")
    house.record("reinstated", at=NOW - 6, subject=f"lease:{LEASE}", reason="by mistake", approver="maria")
    text = (await browser.get(PAGE)).text
    places = [
        text.index(part, text.index('id="story"')) for part in ("no grant", "asked a person", "leaked", "mistake")
    ]
    assert places == sorted(places)
    assert "merge it" in text
    assert f"/leases/{LEASE}/revoke" in text


async def test_a_story_says_what_a_proxy_called_with_a_secret(house: House, browser: httpx.AsyncClient) -> None:
    """Method, host, the path's template and the answer; also among what happens now."""
    run(house)
    own = {"agent_id": "claude", "run_id": "run-1", "secret_name": "github.token", "outcome": "granted"}
    record = AuditRecord(
        v=1,
        event="call",
        timestamp=format_time(NOW),
        host="api.github.com",
        method="GET",
        path="/user",
        status=200,
        elapsed_ms=34,
    )
    house.record("call", at=NOW, line=encode_line(record, "worker-1", "ab" * 8, 1, "0" * 64).decode(), **own)
    for page in (PAGE, "/"):
        text = (await browser.get(page)).text
        assert "used by a proxy" in text
        assert "GET api.github.com/user: 200, 34 ms" in text


async def test_a_run_of_which_only_events_are_known_has_a_story(house: House, browser: httpx.AsyncClient) -> None:
    """A run that was only ever refused as a whole is no 404."""
    house.record("request_refused", agent_id="claude", run_id="run-1", outcome="refused", reason="replay")
    answer = await browser.get(PAGE)
    assert answer.status_code == 200
    assert "replay" in answer.text


async def test_a_long_story_is_paged_from_the_beginning(house: House, browser: httpx.AsyncClient) -> None:
    """The first page begins with the first event, the next goes on behind it."""
    run(house)
    for number in range(60):
        house.record(at=NOW, agent_id="claude", run_id="run-1", outcome="granted", purpose=f"step {number:02d}.")
    first = (await browser.get(PAGE)).text
    assert "step 00." in first
    assert "step 50." not in first
    following = first.partition('rel="next"')[0].rpartition('href="')[2].partition("#")[0]
    second = (await browser.get(following)).text
    assert "step 50." in second
    assert "step 49." not in second


async def test_what_an_agent_wrote_is_shown_and_never_run(house: House, browser: httpx.AsyncClient) -> None:
    """A purpose with a script in it is text."""
    run(house, task=HOSTILE)
    approval(house, purpose=HOSTILE)
    house.record(agent_id="claude", run_id="run-1", outcome="granted", purpose=HOSTILE)
    text = (await browser.get(PAGE)).text
    assert HOSTILE not in text
    assert text.count("&lt;script&gt;alert(1)") == 3


async def test_a_run_is_revoked_with_a_reason(house: House, browser: httpx.AsyncClient) -> None:
    """The order names the run and the reason, and the page says what happens now, once."""
    run(house)
    answer = await browser.post(f"{PAGE}/revoke", data={"csrf": house.csrf, "reason": " leaked "})
    assert answer.status_code == 303
    assert answer.headers["location"] == PAGE
    (order,) = house.revoked
    assert (order.kind, order.subject, order.reason) == ("run", "claude/run-1", "leaked")
    assert order.by.endswith("(dashboard)")
    assert "Revoked run claude/run-1" in (await browser.get(PAGE)).text
    assert "Revoked run claude/run-1" not in (await browser.get(PAGE)).text


@pytest.mark.parametrize("reason", ["", "   ", "x" * 257])
async def test_without_a_good_reason_nothing_is_revoked(house: House, browser: httpx.AsyncClient, reason: str) -> None:
    """No reason, or one that no record could hold, is refused."""
    answer = await browser.post(f"{PAGE}/revoke", data={"csrf": house.csrf, "reason": reason})
    assert answer.status_code == 400
    assert "write a reason" in answer.text
    assert house.revoked == []


async def test_without_the_form_token_nothing_is_revoked(house: House, browser: httpx.AsyncClient) -> None:
    """A post that another page made up is refused."""
    answer = await browser.post(f"{PAGE}/revoke", data={"csrf": "guess", "reason": "leaked"})
    assert answer.status_code == 403
    assert house.revoked == []


@pytest.mark.parametrize("subject", ["run:claude/run-1", "agent:claude"])
async def test_a_revoked_run_says_by_whom_and_how_to_take_it_back(
    house: House, browser: httpx.AsyncClient, subject: str
) -> None:
    """An order about the run or its agent stands on top, and there is nothing left to revoke."""
    run(house)
    revoked(house, subject)
    text = (await browser.get(PAGE)).text
    assert "maria: leaked" in " ".join(text.split())
    assert "secret-broker reinstate" in text
    assert f"{PAGE}/revoke" not in text


async def test_an_order_that_was_taken_back_is_not_in_force(house: House, browser: httpx.AsyncClient) -> None:
    """A reinstated run can be revoked again."""
    run(house)
    revoked(house, "run:claude/run-1", reinstated_at=NOW)
    assert f"{PAGE}/revoke" in (await browser.get(PAGE)).text


async def test_leases_are_drawn_on_one_axis_of_time(house: House, browser: httpx.AsyncClient) -> None:
    """Each secret has a lane in which what is held now looks unlike what expired."""
    run(house)
    lease(house)
    lease(house, lease_id="02" * 16, secret_name="a.b", issued_at=NOW - HOUR, expires_at=NOW - HOUR // 2)
    text = (await browser.get(PAGE)).text
    assert 'class="held"' in text
    assert 'class="over"' in text
