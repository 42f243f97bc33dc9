"""The page of leases: who holds what, and ending it."""

import httpx
import pytest
from dashboard_house import NOW, House
from ledger_rows import HOUR, LEASE, lease, revoked, run

from broker_worker.core.errors import SetupError
from broker_worker.people.revoking import NotAnnouncedError

END = f"/leases/{LEASE}/revoke"


async def test_without_open_leases_the_page_says_so(browser: httpx.AsyncClient) -> None:
    """An empty list is a sentence."""
    assert "Nobody holds anything" in (await browser.get("/leases")).text


async def test_only_what_is_held_now_is_shown_at_first(house: House, browser: httpx.AsyncClient) -> None:
    """Expired and ended leases, and those of revoked holders, appear under `all` alone."""
    lease(house)
    lease(house, lease_id="01" * 16, run_id="run-expired", expires_at=NOW - 1)
    lease(house, lease_id="02" * 16, run_id="run-ended", ended_at=NOW - 1, end_reason="released")
    lease(house, lease_id="03" * 16, run_id="run-revoked")
    revoked(house, "run:claude/run-revoked")
    held = (await browser.get("/leases")).text
    every = (await browser.get("/leases?state=all")).text
    assert "run-1<" in held
    for gone in ("run-expired", "run-ended", "run-revoked"):
        assert gone not in held
        assert gone in every


async def test_how_fresh_a_value_was_is_shown(house: House, browser: httpx.AsyncClient) -> None:
    """What was lent while its vault failed stands out, with how old it was."""
    lease(house, source="provider")
    assert ">stale<" not in (await browser.get("/leases")).text
    lease(house, lease_id="01" * 16, source="stale", age_s=700)
    shown = (await browser.get("/leases")).text
    assert ">stale<" in shown
    assert "11 min old" in shown


async def test_who_has_a_value_on_behalf_of_a_run_is_shown(house: House, browser: httpx.AsyncClient) -> None:
    """With links to both; an order about who has it ends it."""
    run(house)
    lease(house)
    assert 'href="/agents/egress"' not in (await browser.get("/leases")).text
    lease(house, lease_id="01" * 16, keeper_agent_id="egress", keeper_run_id="run-9")
    for address in ("/leases", "/runs/claude/run-1"):
        shown = (await browser.get(address)).text
        assert 'by <a href="/agents/egress">egress</a>' in shown
        assert 'href="/runs/egress/run-9">run-9</a>' in shown
    revoked(house, "run:egress/run-9")
    assert "01" * 16 not in (await browser.get("/leases")).text


@pytest.mark.parametrize("state", ["", "all"])
@pytest.mark.parametrize(
    ("name", "value"),
    [("agent", "codex"), ("run", "run-2"), ("secret", "openai.api_key"), ("version", "8")],
)
async def test_the_list_can_be_narrowed(
    house: House, browser: httpx.AsyncClient, name: str, value: str, state: str
) -> None:
    """Each filter leaves what it names."""
    columns = {"agent": "agent_id", "run": "run_id", "secret": "secret_name", "version": "version"}
    lease(house)
    lease(house, lease_id="01" * 16, **{columns[name]: value})
    text = (await browser.get("/leases", params={name: value, "state": state})).text
    assert "01" * 16 in text
    assert LEASE not in text


@pytest.mark.parametrize("state", ["", "all"])
async def test_pages_follow_each_other_without_a_gap(house: House, browser: httpx.AsyncClient, state: str) -> None:
    """Every lease is shown once, also those of the same moment."""
    for number in range(110):
        lease(house, lease_id=f"{number:032x}", expires_at=NOW + 1000 + number // 30)
    seen: list[str] = []
    address = f"/leases?state={state}"
    while address:
        text = (await browser.get(address)).text
        seen += [part.split("/")[0] for part in text.split('action="/leases/')[1:]]
        following = text.partition('rel="next"')[0].rpartition('href="')[2].partition('"')[0]
        address = following.replace("&amp;", "&") if 'rel="next"' in text else ""
    assert sorted(seen) == [f"{number:032x}" for number in range(110)]


async def test_a_damaged_place_begins_at_the_beginning(house: House, browser: httpx.AsyncClient) -> None:
    """A cursor that nobody made is no error."""
    lease(house)
    answer = await browser.get("/leases", params={"before": "'; drop table leases; --"})
    assert answer.status_code == 200
    assert LEASE in answer.text


async def test_a_lease_is_ended_with_a_reason(house: House, browser: httpx.AsyncClient) -> None:
    """The order names the lease, and the browser goes back to the list as it was filtered."""
    lease(house)
    back = "/leases?agent=claude"
    answer = await browser.post(END, data={"csrf": house.csrf, "reason": "done", "back": back})
    assert (answer.status_code, answer.headers["location"]) == (303, back)
    assert [(order.kind, order.subject) for order in house.revoked] == [("lease", LEASE)]


@pytest.mark.parametrize(
    "back", ["https://evil.example/", "//evil.example/leases", "/leases\\..", "javascript:1", "/x"]
)
async def test_a_form_leads_to_no_other_site(house: House, browser: httpx.AsyncClient, back: str) -> None:
    """Where a form wants to go next is one of our pages, or it is the list."""
    lease(house)
    answer = await browser.post(END, data={"csrf": house.csrf, "reason": "done", "back": back})
    assert answer.headers["location"] == "/leases"


async def test_an_unknown_lease_is_not_found(house: House, browser: httpx.AsyncClient) -> None:
    """Nothing is ordered about a lease that nobody has seen."""
    answer = await browser.post(END, data={"csrf": house.csrf, "reason": "done"})
    assert answer.status_code == 404
    assert house.revoked == []


async def test_without_the_form_token_no_lease_ends(house: House, browser: httpx.AsyncClient) -> None:
    """A post that another page made up is refused."""
    lease(house)
    answer = await browser.post(END, data={"reason": "done"})
    assert answer.status_code == 403
    assert house.revoked == []


async def test_an_order_that_only_this_host_knows_is_said_to_be_one(house: House, browser: httpx.AsyncClient) -> None:
    """When the queue is away the order holds here, and the person is told what is missing."""
    lease(house)

    async def unannounced(*args: object, **named: object) -> None:
        order = await house.revoke(house.settings, "lease", LEASE, reason="x", by="y")
        raise NotAnnouncedError([order], "no route")

    object.__setattr__(house.context, "revoke", unannounced)
    answer = await browser.post(END, data={"csrf": house.csrf, "reason": "done"})
    assert answer.status_code == 303
    text = (await browser.get("/leases")).text
    assert "Revoked lease" in text
    assert "the queue did not take it to others" in text


async def test_an_order_that_could_not_be_written_is_an_error(house: House, browser: httpx.AsyncClient) -> None:
    """Nobody is told that something was revoked which was not."""
    lease(house)

    async def failing(*args: object, **named: object) -> None:
        raise SetupError("the disk is full", hint="make room")

    object.__setattr__(house.context, "revoke", failing)
    answer = await browser.post(END, data={"csrf": house.csrf, "reason": "done"})
    assert answer.status_code == 503
    assert "the disk is full" in answer.text
    assert "Revoked" not in (await browser.get("/leases")).text


async def test_a_lease_that_was_cut_by_a_revocation_says_so(house: House, browser: httpx.AsyncClient) -> None:
    """It was not merely left to expire."""
    lease(house, issued_at=NOW - HOUR)
    revoked(house, "secret:github.token@7")
    assert "revoked</span>" in (await browser.get("/leases?state=all")).text
