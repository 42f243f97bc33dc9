"""The pages of secrets and agents: use over time, last use, never used, exposure; and stopping it."""

from pathlib import Path

import httpx
import pytest
from dashboard_house import NOW, House
from desk_workbench import write_files
from ledger_rows import HOUR, LEASE, lease, revoked, run, used

NAME = "/secrets/github.token"
AGENT = "/agents/claude"


@pytest.fixture(autouse=True)
def files(house: House) -> Path:
    """What the operator's files name."""
    return write_files(
        house.settings.config_dir,
        policy="agents: {claude: {allow: [github.token]}, idle-agent: {allow: [github.token]}}",
        registry="secrets: {github.token: 'local://github', never.used: 'local://never'}",
    )


def row_of(text: str, name: str) -> str:
    """The row of a list in which a name stands."""
    return next(row for row in text.split("<tr>") if f">{name}</a>" in row)


async def test_what_the_registry_names_and_nobody_used_is_shown(house: House, browser: httpx.AsyncClient) -> None:
    """A secret without any use stands in the list, as never given."""
    used(house)
    text = (await browser.get("/secrets")).text
    assert "never</span>" in row_of(text, "never.used")
    assert "never</span>" not in row_of(text, "github.token")


async def test_a_name_that_only_agents_know_is_marked(house: House, browser: httpx.AsyncClient) -> None:
    """Somebody asked for a secret that the registry does not have."""
    used(house, secret_name="made.up", granted=0)
    text = (await browser.get("/secrets")).text
    assert "not in the registry" in row_of(text, "made.up")
    assert "not in the registry" not in row_of(text, "github.token")


@pytest.mark.parametrize(
    ("show", "names"),
    [
        ("", {"github.token", "never.used", "made.up"}),
        ("used", {"github.token"}),
        ("unused", {"never.used"}),
        ("refused", {"github.token", "made.up"}),
        ("unknown", {"made.up"}),
    ],
)
async def test_secrets_can_be_narrowed(house: House, browser: httpx.AsyncClient, show: str, names: set[str]) -> None:
    """Each filter leaves what it says."""
    used(house)
    used(house, secret_name="made.up", granted=0, refused=3)
    text = (await browser.get("/secrets", params={"show": show})).text
    assert {name for name in ("github.token", "never.used", "made.up") if f">{name}</a>" in text} == names


async def test_secrets_can_be_ordered_by_refusals(house: House, browser: httpx.AsyncClient) -> None:
    """What was denied most stands first when that is asked for."""
    used(house, granted=50, refused=0)
    used(house, secret_name="made.up", granted=0, refused=9)
    by_use = (await browser.get("/secrets")).text
    by_refusal = (await browser.get("/secrets?order=refused")).text
    assert by_use.index(">github.token<") < by_use.index(">made.up<")
    assert by_refusal.index(">made.up<") < by_refusal.index(">github.token<")


async def test_a_long_list_of_secrets_is_paged_without_a_gap(house: House, browser: httpx.AsyncClient) -> None:
    """Every name is shown once, also those that were used equally often."""
    names = [f"service.key-{number}" for number in range(120)]
    for number, name in enumerate(names):
        used(house, secret_name=name, granted=1 + number // 50)
    seen: list[str] = []
    address = "/secrets?show=used"
    while address:
        text = (await browser.get(address)).text
        seen += [part.partition('"')[0] for part in text.split('class="name" href="/secrets/')[1:]]
        following = text.partition('rel="next"')[0].rpartition('href="')[2].partition('"')[0]
        address = following.replace("&amp;", "&") if 'rel="next"' in text else ""
    assert sorted(seen) == sorted(names)


async def test_use_before_the_span_does_not_count(house: House, browser: httpx.AsyncClient) -> None:
    """A chart of a day shows what was used that day, and the last use is known all the same."""
    used(house, hour=NOW - NOW % HOUR - 48 * HOUR)
    row = row_of((await browser.get("/secrets?span=24h")).text, "github.token")
    assert "<rect" not in row
    assert "2 d ago" in row
    assert "<rect" in row_of((await browser.get("/secrets?span=7d")).text, "github.token")


async def test_an_unknown_span_is_a_week(browser: httpx.AsyncClient) -> None:
    """A made-up parameter is no error."""
    answer = await browser.get("/secrets", params={"span": "1' or 1=1"})
    assert answer.status_code == 200
    assert 'href="/secrets?span=7d" aria-current="true"' in answer.text


async def test_without_readable_files_a_list_shows_what_the_ledger_knows(
    house: House, browser: httpx.AsyncClient, files: Path
) -> None:
    """A mistake in the files hides no use, and is named."""
    used(house)
    run(house)
    lease(house)
    (files / "policy.yaml").write_text("agents: [")
    for address in ("/secrets", "/agents", NAME, AGENT, "/health"):
        answer = await browser.get(address)
        assert answer.status_code == 200, address
        assert "policy.yaml" in answer.text
        assert "not in the registry" not in answer.text


async def test_the_page_of_a_secret_shows_who_asks_who_holds_and_what_was_refused(
    house: House, browser: httpx.AsyncClient
) -> None:
    """One look tells the exposure of a secret."""
    used(house)
    lease(house)
    lease(house, lease_id="02" * 16, run_id="run-old", issued_at=NOW - 9 * HOUR, expires_at=NOW - 8 * HOUR)
    house.record(outcome="refused", secret_name="github.token", agent_id="codex", run_id="run-9", reason="no_grant")
    text = (await browser.get(NAME)).text
    assert f"/leases/{LEASE}/revoke" in text
    assert "run-old" in text
    assert "no grant" in text
    assert "5 granted, 2 refused" in text


async def test_exposure_can_be_narrowed_to_a_version(house: House, browser: httpx.AsyncClient) -> None:
    """Only holders of that version are shown."""
    lease(house)
    lease(house, lease_id="02" * 16, run_id="run-8", version="8")
    text = (await browser.get(f"{NAME}?version=8")).text
    assert "run-8" in text
    assert "run-1<" not in text


@pytest.mark.parametrize("address", ["/secrets/no.such", "/agents/nobody", "/secrets/%3Cscript%3E"])
async def test_what_nobody_knows_is_not_found(browser: httpx.AsyncClient, address: str) -> None:
    """A made-up name leads to a page that says so, with the name as text."""
    answer = await browser.get(address)
    assert answer.status_code == 404
    assert "knows" in answer.text
    assert "<script>" not in answer.text


async def test_a_secret_of_the_registry_that_nobody_used_has_a_page(browser: httpx.AsyncClient) -> None:
    """Empty parts say that they are."""
    text = (await browser.get("/secrets/never.used")).text
    assert "Nobody holds it now" in text
    assert "Nobody ever held it" in text


async def test_a_secret_is_revoked(house: House, browser: httpx.AsyncClient) -> None:
    """The order names the secret."""
    answer = await browser.post(f"{NAME}/revoke", data={"csrf": house.csrf, "reason": "leaked"})
    assert answer.headers["location"] == NAME
    assert [(order.kind, order.subject, order.version) for order in house.revoked] == [("secret", "github.token", None)]


async def test_one_version_of_a_secret_is_revoked(house: House, browser: httpx.AsyncClient) -> None:
    """The order names the version, and the page of that version says so afterwards."""
    lease(house)
    await browser.post(f"{NAME}/revoke", data={"csrf": house.csrf, "reason": "leaked", "version": "7"})
    assert [(order.subject, order.version) for order in house.revoked] == [("github.token", "7")]
    revoked(house, "secret:github.token@7")
    assert "maria" in (await browser.get(f"{NAME}?version=7")).text
    assert "maria" not in (await browser.get(NAME)).text


async def test_all_open_leases_of_a_secret_end_and_no_others(house: House, browser: httpx.AsyncClient) -> None:
    """Exactly those that are open now are ordered to end."""
    lease(house)
    lease(house, lease_id="02" * 16, version="8")
    lease(house, lease_id="03" * 16, expires_at=NOW - 1)
    lease(house, lease_id="04" * 16, secret_name="a.b")
    await browser.post(f"{NAME}/end-leases", data={"csrf": house.csrf, "reason": "rotate"})
    assert {(order.kind, order.subject) for order in house.revoked} == {("lease", LEASE), ("lease", "02" * 16)}
    assert "Ended 2 leases" in (await browser.get(NAME)).text


async def test_open_leases_of_one_version_end(house: House, browser: httpx.AsyncClient) -> None:
    """With a version, holders of others keep theirs."""
    lease(house)
    lease(house, lease_id="02" * 16, version="8")
    await browser.post(f"{NAME}/end-leases", data={"csrf": house.csrf, "reason": "rotate", "version": "8"})
    assert [order.subject for order in house.revoked] == ["02" * 16]


@pytest.mark.parametrize(
    "address", [f"{NAME}/revoke", f"{NAME}/end-leases", f"{AGENT}/revoke", "/secrets/no.such/revoke"]
)
@pytest.mark.parametrize("form", [{"reason": "leaked"}, {"csrf": "guess", "reason": "leaked"}, {"reason": ""}])
async def test_without_token_or_reason_nothing_is_revoked(
    house: House, browser: httpx.AsyncClient, address: str, form: dict[str, str]
) -> None:
    """Every form of these pages needs both."""
    lease(house)
    token = {} if form["reason"] else {"csrf": house.csrf}
    answer = await browser.post(address, data=form | token)
    assert answer.status_code in {400, 403, 404}
    assert house.revoked == []


@pytest.mark.parametrize(
    "address", ["/secrets/no.such/revoke", "/secrets/never.used/end-leases", "/agents/nobody/revoke"]
)
async def test_nothing_is_ordered_about_what_nobody_knows(
    house: House, browser: httpx.AsyncClient, address: str
) -> None:
    """An order about a name that was mistyped would do nothing."""
    answer = await browser.post(address, data={"csrf": house.csrf, "reason": "leaked"})
    assert answer.status_code == 404
    assert house.revoked == []


async def test_agents_of_the_policy_and_of_the_ledger_are_listed(house: House, browser: httpx.AsyncClient) -> None:
    """Idle agents are there, and strangers are marked."""
    used(house)
    used(house, agent_id="stranger", granted=0)
    run(house)
    text = (await browser.get("/agents")).text
    assert "never</span>" in row_of(text, "idle-agent")
    assert "not in the policy" in row_of(text, "stranger")
    assert 'href="/runs?agent=claude">1<' in row_of(text, "claude")


async def test_the_page_of_an_agent_shows_what_it_asks_for_and_is_refused(
    house: House, browser: httpx.AsyncClient
) -> None:
    """Its secrets, runs, leases and refusals are there."""
    used(house)
    run(house)
    lease(house)
    house.record(outcome="refused", secret_name="a.b", agent_id="claude", run_id="run-1", reason="no_grant")
    text = (await browser.get(AGENT)).text
    for part in ('href="/secrets/github.token"', 'href="/runs/claude/run-1"', f"/leases/{LEASE}/revoke", "no grant"):
        assert part in text


async def test_an_agent_is_revoked(house: House, browser: httpx.AsyncClient) -> None:
    """The order names the agent."""
    answer = await browser.post(f"{AGENT}/revoke", data={"csrf": house.csrf, "reason": "hijacked"})
    assert answer.headers["location"] == AGENT
    assert [(order.kind, order.subject) for order in house.revoked] == [("agent", "claude")]


async def test_a_revoked_agent_says_so(house: House, browser: httpx.AsyncClient) -> None:
    """The order in force stands on its page, with the way back."""
    revoked(house, "agent:claude")
    text = (await browser.get(AGENT)).text
    assert "secret-broker reinstate agent claude" in text
    assert f"{AGENT}/revoke" not in text
