"""Who may reach a page of the dashboard, and under which rules a browser shows it."""

import hashlib
from importlib.resources import files

import httpx
import pytest
from dashboard_house import NOW, House
from starlette.routing import Route

from broker_worker.dashboard.links import LIFETIME_MS
from broker_worker.dashboard.pages import ROUTES
from broker_worker.dashboard.security import CONTENT_SECURITY_POLICY, MAX_BODY
from broker_worker.dashboard.sessions import ABSOLUTE_MS, IDLE_MS

POSTS = [route for route in ROUTES if "POST" in (route.methods or ()) and route.path != "/login"]
PINNED = {
    "htmx-2.0.11.min.js": "d6fdc75f204e6bdefa99b69bf1e6d4ac69b8a364f77929f45c13476b4000f717",
    "htmx-ext-sse-2.2.4.min.js": "98a46496de0c3605fbffdce9167ba427bdd9553184f83f149c261891a92c0136",
}
SESSION = "/session"


def filled(route: Route) -> str:
    """An address of a route."""
    return route.path.replace("{", "").replace("}", "").replace(":path", "")


async def test_a_page_without_a_session_asks_for_a_login(house: House) -> None:
    """Whoever is not logged in sees how to log in, and nothing else."""
    async with house.client() as client:
        answer = await client.get("/")
    assert answer.status_code == 401
    assert "secret-broker dashboard link" in answer.text
    assert "Runs" not in answer.text


async def test_looking_at_a_link_does_not_use_it_up(house: House) -> None:
    """A program that fetches links ahead leaves the link to the person."""
    token = house.context.links.make(NOW)
    async with house.client() as client:
        for _ in range(2):
            assert (await client.get("/login", params={"token": token})).status_code == 200
        assert (await client.post("/login", data={"token": token})).status_code == 303


async def test_a_link_opens_once(house: House) -> None:
    """The second use of a link is refused."""
    token = house.context.links.make(NOW)
    async with house.client() as client, house.client() as thief:
        assert (await client.post("/login", data={"token": token})).status_code == 303
        answer = await thief.post("/login", data={"token": token})
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


async def test_a_link_is_over_after_ten_minutes(house: House) -> None:
    """A link that lay around opens nothing."""
    token = house.context.links.make(NOW)
    house.now += LIFETIME_MS
    async with house.client() as client:
        assert (await client.post("/login", data={"token": token})).status_code == 403


async def test_only_the_hash_of_a_link_is_stored(house: House) -> None:
    """Whoever reads the state folder cannot log in with what stands there, and only the owner reads it."""
    token = house.context.links.make(NOW)
    file = house.settings.state_dir / "dashboard" / "links.json"
    assert token not in file.read_text()
    assert hashlib.sha256(token.encode()).hexdigest() in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600


async def test_the_cookie_is_for_this_site_and_no_script(house: House) -> None:
    """Neither another site nor a script gets hold of the session."""
    async with house.client() as client:
        answer = await client.post("/login", data={"token": house.context.links.make(NOW)})
    cookie = answer.headers["set-cookie"].lower()
    assert cookie.startswith("secret-broker-7710=")
    assert "httponly" in cookie
    assert "samesite=strict" in cookie


@pytest.mark.parametrize(
    "change", [lambda c: ("A" if c[0] != "A" else "B") + c[1:], lambda c: c.split(".")[0], str.upper]
)
async def test_a_cookie_that_was_changed_is_no_session(
    house: House, browser: httpx.AsyncClient, change: object
) -> None:
    """A cookie counts only as it was signed."""
    assert callable(change)
    cookie = browser.cookies["secret-broker-7710"]
    async with house.client() as client:
        client.cookies.set("secret-broker-7710", change(cookie), domain="localhost")
        assert (await client.get(SESSION)).status_code == 401


async def test_a_session_that_nobody_used_ends(house: House, browser: httpx.AsyncClient) -> None:
    """After half an hour without use the browser is logged out."""
    house.now += IDLE_MS - 1
    assert (await browser.get(SESSION)).status_code == 204
    house.now += IDLE_MS
    assert (await browser.get(SESSION)).status_code == 401


async def test_a_session_ends_after_twelve_hours_of_use(house: House, browser: httpx.AsyncClient) -> None:
    """A session is over at its age, however busy it was."""
    while house.now < NOW + ABSOLUTE_MS - IDLE_MS:
        house.now += IDLE_MS - 1
        assert (await browser.get(SESSION)).status_code == 204
    house.now = NOW + ABSOLUTE_MS
    assert (await browser.get(SESSION)).status_code == 401


async def test_what_a_page_does_by_itself_keeps_no_session_alive(house: House, browser: httpx.AsyncClient) -> None:
    """A page left open does not stay logged in by refreshing itself."""
    house.now += IDLE_MS - 1
    assert (await browser.get(SESSION, headers={"HX-Request": "true"})).status_code == 204
    house.now += 1
    assert (await browser.get(SESSION, headers={"HX-Request": "true"})).status_code == 401


async def test_logging_out_ends_the_session_on_the_server(house: House, browser: httpx.AsyncClient) -> None:
    """A copy of the cookie opens nothing after the logout."""
    cookie = browser.cookies["secret-broker-7710"]
    assert (await browser.post("/logout", data={"csrf": house.csrf})).status_code == 303
    async with house.client() as client:
        client.cookies.set("secret-broker-7710", cookie, domain="localhost")
        assert (await client.get(SESSION)).status_code == 401


async def test_logging_out_everywhere_ends_all_sessions(house: House, browser: httpx.AsyncClient) -> None:
    """Every other browser is logged out too."""
    async with house.client() as other:
        await house.log_in(other)
        await other.post("/logout", data={"csrf": house.csrf, "everywhere": "1"})
    assert (await browser.get(SESSION)).status_code == 401


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7710", "localhost.evil.example:7710", "127.0.0.1.nip.io", ""]
)
async def test_another_host_name_is_refused(house: House, browser: httpx.AsyncClient, host: str) -> None:
    """A name that someone points at this address (DNS rebinding) reaches no page, with or without a session."""
    answer = await browser.get(SESSION, headers={"Host": host})
    assert answer.status_code == 421


async def test_an_address_leads_to_the_name(house: House) -> None:
    """WebAuthn and the cookie know only the name, so a visit by address goes there."""
    async with house.client("http://127.0.0.1:7710") as client:
        answer = await client.get("/login?token=x")
    assert answer.headers["location"] == "http://localhost:7710/login?token=x"


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost:3000", "https://localhost:7710", None]
)
async def test_a_post_from_elsewhere_is_refused(house: House, browser: httpx.AsyncClient, origin: str | None) -> None:
    """Neither another site nor another port of this host can act for the person, even with the form token."""
    del browser.headers["Origin"]
    headers = {} if origin is None else {"Origin": origin}
    answer = await browser.post("/logout", data={"csrf": house.csrf}, headers=headers)
    assert answer.status_code == 403
    assert (await browser.get(SESSION)).status_code == 204


async def test_a_post_that_the_browser_calls_cross_site_is_refused(house: House, browser: httpx.AsyncClient) -> None:
    """What the browser says about the request's origin counts besides the Origin header."""
    answer = await browser.post("/logout", data={"csrf": house.csrf}, headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403


@pytest.mark.parametrize("token", [None, "", "wrong", "é"])
@pytest.mark.parametrize("route", POSTS, ids=lambda route: route.path)
async def test_every_post_needs_the_form_token(browser: httpx.AsyncClient, route: Route, token: str | None) -> None:
    """No route that changes something runs without the token of this session's forms."""
    answer = await browser.post(filled(route), data={} if token is None else {"csrf": token})
    assert answer.status_code == 403


async def test_the_form_token_of_another_session_does_not_count(house: House, browser: httpx.AsyncClient) -> None:
    """A token that somebody else got is worth nothing here."""
    async with house.client() as other:
        await house.log_in(other)
    answer = await browser.post("/logout", data={"csrf": house.csrf})
    assert answer.status_code == 403


@pytest.mark.parametrize("length", [str(MAX_BODY + 1), "-1", "9" * 30, "1e3"])
async def test_a_long_body_is_refused_unread(house: House, browser: httpx.AsyncClient, length: str) -> None:
    """A request that is too long, or does not say how long it is, is not read."""
    request = browser.build_request("POST", "/logout", data={"csrf": house.csrf}, headers={"Content-Length": length})
    answer = await browser.send(request)
    assert answer.status_code == 413


@pytest.mark.parametrize("path", ["/login", "/nowhere", SESSION, "/static/dashboard.css", "/static/nothing"])
async def test_every_answer_has_the_headers(browser: httpx.AsyncClient, path: str) -> None:
    """Pages, errors and files alike come with the policy, and are not kept."""
    headers = (await browser.get(path)).headers
    assert headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["cache-control"] == "no-store"


async def test_a_defect_is_an_error_page_with_the_headers(
    house: House, browser: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception that nobody expected shows its type only, under the same policy."""

    def broken(_: object) -> bool:
        raise ZeroDivisionError("text with a secret")

    monkeypatch.setattr(type(house.context.links), "is_open", lambda *_: broken(0))
    answer = await browser.get("/login?token=x")
    assert answer.status_code == 500
    assert "ZeroDivisionError" in answer.text
    assert "text with a secret" not in answer.text
    assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY


async def test_an_unknown_page_is_an_error_page(browser: httpx.AsyncClient) -> None:
    """An address that leads nowhere says so, with the navigation."""
    answer = await browser.get("/nowhere")
    assert answer.status_code == 404
    assert "Not Found" in answer.text


def test_shipped_scripts_are_those_that_were_published() -> None:
    """What the package ships is, byte for byte, what npm had under that version; their licence lies beside them."""
    folder = files("broker_worker.dashboard") / "static"
    assert {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in PINNED} == PINNED
    assert "BSD" in (folder / "LICENSE-htmx.txt").read_text()


def test_templates_hold_no_script_style_or_handler() -> None:
    """Nothing in a template needs an exception from the policy, or could be evaluated."""
    for template in (files("broker_worker.dashboard") / "templates").iterdir():
        text = template.read_text().lower()
        for forbidden in (
            "style=",
            "<style",
            "<script>",
            " onclick",
            " onload",
            "javascript:",
            "hx-on",
            "js:",
            "| safe",
            "|safe",
        ):
            assert forbidden not in text, f"{template.name}: {forbidden}"
