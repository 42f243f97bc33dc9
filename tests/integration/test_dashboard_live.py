"""The live page: what it lists, how it is filtered, and that its stream loses nothing and repeats nothing."""

import re
from collections.abc import Callable

import httpx
import pytest
from dashboard_house import NOW, House

HOUR = 3600 * 1000


def ids(text: str) -> list[str]:
    """The stream ids of what was received."""
    return re.findall(r"^id: (.+?)\r?$", text, re.MULTILINE)


def shown(text: str) -> list[int]:
    """The positions of the events that a page or a stream shows."""
    return [int(number) for number in re.findall(r'id="event-(\d+)"', text)]


def stream_of(text: str) -> str:
    """The address of the stream that a page follows."""
    found = re.search(r'sse-connect="([^"]+)"', text)
    assert found is not None, text
    return found[1].replace("&amp;", "&")


def arrived(count: int) -> Callable[[str], bool]:
    """Whether so many events came."""
    return lambda text: len(ids(text)) >= count


async def test_the_newest_event_comes_first(house: House, browser: httpx.AsyncClient) -> None:
    """The list begins with what happened last, whatever order it was recorded in."""
    late = house.record(at=NOW)
    early = house.record(at=NOW - HOUR)
    assert shown((await browser.get("/")).text) == [late, early]


async def test_an_empty_ledger_says_so(browser: httpx.AsyncClient) -> None:
    """Before anything happened the page is no empty table."""
    assert "Nothing to show" in (await browser.get("/")).text


async def test_a_hostile_purpose_is_text(house: House, browser: httpx.AsyncClient) -> None:
    """Whatever an agent writes as its purpose is shown, and nothing of it runs."""
    hostile = '<script>alert("x")</script><img src=x onerror=alert(1)>'
    house.record(agent_id="claude", run_id="r-1", secret_name="a.b", outcome="granted", purpose=hostile, task=hostile)
    text = (await browser.get("/")).text
    assert "<script>alert" not in text
    assert "<img" not in text
    assert "&lt;script&gt;alert" in text


async def test_what_people_decided_is_no_answer_to_an_agent(house: House, browser: httpx.AsyncClient) -> None:
    """A value released is one, however often its agent was told to wait and whoever approved it; likewise a refusal."""
    waits = {"outcome": "refused", "code": "approval_pending"}
    for event, columns in (
        ("access", {**waits, "action": "resolve"}),
        ("access", {**waits, "action": "resolve"}),
        ("approval_decided", {"outcome": "granted"}),
        ("approval_settled", {"outcome": "granted", "reason": "approved"}),
        ("access", {"outcome": "granted", "action": "resolve"}),
        ("access", {"outcome": "granted", "action": "renew"}),
        ("approval_decided", {"outcome": "refused"}),
        ("request_refused", {"outcome": "refused", "code": "revoked"}),
    ):
        house.record(event, at=NOW - 1000, agent_id="claude", run_id="r-1", secret_name="a.b", **columns)
    text = " ".join(re.sub("<[^>]*>", "", (await browser.get("/live/summary")).text).split())
    assert "1 released · 1 refused" in text
    assert shown((await browser.get("/?outcome=granted")).text) == [5]
    assert shown((await browser.get("/?outcome=refused")).text) == [8]
    secret = (await browser.get("/agents/claude")).text
    assert "waits for approval" not in secret


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("agent=claude", [1, 2, 3]),
        ("agent=nobody", []),
        ("run=claude/r-1", [1, 2]),
        ("secret=db.url", [3, 4]),
        ("outcome=granted", [1, 4]),
        ("outcome=refused", [2]),
        ("outcome=approvals", [3]),
        ("outcome=system", [5]),
        ("since=30m", [3, 4, 5]),
        ("from=2030-01-03T13:00&to=2030-01-03T14:00Z", [1, 2]),
        ("agent=claude&outcome=refused&secret=a.b", [2]),
    ],
)
async def test_filters(house: House, browser: httpx.AsyncClient, query: str, expected: list[int]) -> None:
    """Each filter, and several at once, leave exactly the events that fit, in the list and in the stream."""
    house.record(at=NOW - HOUR, agent_id="claude", run_id="r-1", secret_name="a.b", outcome="granted", action="resolve")
    house.record(at=NOW - HOUR // 2 - 1, agent_id="claude", run_id="r-1", secret_name="a.b", outcome="refused")
    house.record("approval_requested", agent_id="claude", run_id="r-2", secret_name="db.url")
    house.record(agent_id="codex", run_id="r-1", secret_name="db.url", outcome="granted")
    house.record("worker_started", at=NOW + 1)
    assert sorted(shown((await browser.get(f"/?{query}")).text)) == expected


@pytest.mark.parametrize("query", ["since=soon", "outcome=secret", "run=r-1", "from=yesterday", f"agent={'a' * 401}"])
async def test_a_filter_that_cannot_be_meant_is_refused(browser: httpx.AsyncClient, query: str) -> None:
    """A parameter that is not of its form is an error, never a list of something else."""
    assert (await browser.get(f"/?{query}")).status_code == 400


async def test_pages_follow_without_gaps(house: House, browser: httpx.AsyncClient) -> None:
    """Going on to older events shows each once, also when many have the same time and new ones arrive meanwhile."""
    wanted = [house.record(at=NOW - number // 90, outcome="granted") for number in range(250)]
    seen: list[int] = []
    address = "/?outcome=granted"
    while address:
        text = (await browser.get(address)).text
        seen += shown(text)
        house.record(outcome="granted")
        found = re.search(r'href="([^"]+)" rel="next"', text)
        address = found[1].replace("&amp;", "&") if found else ""
    assert seen == sorted(seen, key=lambda position: (NOW - (position - 1) // 90, position), reverse=True)
    assert sorted(seen) == wanted


async def test_the_stream_continues_where_the_page_ends(house: House, browser: httpx.AsyncClient) -> None:
    """What is recorded after the page was made comes by its stream, and nothing that the page shows."""
    house.record(outcome="granted")
    text = (await browser.get("/")).text
    new = [house.record(outcome="granted", at=NOW - HOUR), house.record(outcome="granted")]
    received = await house.follow(browser, stream_of(text), enough=arrived(2))
    assert shown(received) == new


async def test_a_broken_stream_goes_on_behind_the_last_event(house: House, browser: httpx.AsyncClient) -> None:
    """A browser that lost its connection gets what it missed, nothing lost and nothing twice."""
    stream = stream_of((await browser.get("/?outcome=granted")).text)
    first = [house.record(outcome="granted") for _ in range(3)]
    received = await house.follow(browser, stream, enough=arrived(2))
    known = shown(received)
    house.record(outcome="refused")
    later = [house.record(outcome="granted") for _ in range(300)]
    rest = first[len(known) :] + later
    again = await house.follow(browser, stream, last=ids(received)[-1], enough=arrived(len(rest)))
    assert known + shown(again) == first + later


async def test_a_ledger_made_anew_is_noticed(house: House, browser: httpx.AsyncClient) -> None:
    """Positions of another ledger are never taken for this one's: the page is told to begin again."""
    house.record(outcome="granted")
    received = await house.follow(
        browser, "/live/stream?after=1.ffffffffffffffff-000000000001", enough=lambda text: "rebuilt" in text
    )
    assert "event: rebuilt" in received


async def test_a_stream_ends_with_its_session(house: House, browser: httpx.AsyncClient) -> None:
    """Who is logged out receives nothing more."""
    stream = stream_of((await browser.get("/")).text)
    house.context.sessions.end_all()
    async with house.client() as stranger:
        answer = await stranger.get(stream)
    assert answer.status_code == 401

    await house.log_in(browser)

    def log_out(text: str) -> bool:
        house.context.sessions.end_all()
        return False

    assert ids(await house.follow(browser, stream, enough=log_out)) == []


async def test_a_stream_from_nowhere_is_refused(browser: httpx.AsyncClient) -> None:
    """A stream begins at an event, not at whatever somebody wrote."""
    for after in ("", "x", "1", "-1.a", "٣.a"):
        assert (await browser.get("/live/stream", params={"after": after})).status_code == 400


async def test_a_past_window_is_not_followed(browser: httpx.AsyncClient) -> None:
    """A page about a time that is over has no stream."""
    assert "sse-connect" not in (await browser.get("/?to=2020-01-01T00:00")).text


async def test_a_ledger_that_is_away_is_said_plainly(house: House, browser: httpx.AsyncClient) -> None:
    """Without the ledger's database the page says what is missing instead of failing."""
    house.close()
    (house.folder / "ledger.sqlite3").unlink()
    answer = await browser.get("/")
    assert answer.status_code == 503
    assert "run ledger cannot be read" in answer.text
    assert not (house.folder / "ledger.sqlite3").exists()
