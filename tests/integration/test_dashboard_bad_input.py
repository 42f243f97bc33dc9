"""What makes no sense to the dashboard: each is refused in words or ignored, and none is a defect."""

import httpx
import pytest
from dashboard_house import House
from desk_workbench import write_files
from starlette.routing import Route

from broker_worker.dashboard.pages import ROUTES
from broker_worker.dashboard.reads.keyset import Cursor
from broker_worker.dashboard.security import CONTENT_SECURITY_POLICY, MAX_BODY

PLACES = {"agent": "claude", "run": "run-1", "name": "openai.api_key", "approval_id": "0" * 16}
PAGES = [route for route in ROUTES if "GET" in (route.methods or ()) and not route.path.endswith("/stream")]
PARAMETERS = {
    "/": ("agent", "run", "secret", "outcome", "since", "from", "to", "before"),
    "/runs": ("agent", "state", "before"),
    "/runs/claude/run-1": ("before",),
    "/leases": ("agent", "run", "secret", "version", "state", "before"),
    "/secrets": ("span", "show", "order", "before"),
    "/secrets/openai.api_key": ("span", "version", "state", "before"),
    "/agents": ("span", "show", "order", "before"),
    "/agents/claude": ("span",),
}
"""What each page reads of its address."""
ODD = {
    "long": "a" * 5000,
    "not UTF-8": "%ff%fe",
    "surrogate": "%ed%a0%80",
    "markup": "%3Cscript%3E%22%27",
    "header": "a%0d%0aSet-Cookie:x=1",
    "SQL": "'%20OR%201=1--",
    "other digits": "1~%C2%B2",
    "cursor beyond integers": "-9999999999999999~9999999999999999999999",
    "cursor of other rows": "1~x",
    "year 1": "0001-01-01T00:00%2B23:59",
    "year 9999": "9999-12-31T23:59-23:59",
    "long time": "99999999999d",
    "slashes": "//",
    "bidirectional": "%E2%80%AE",
}

NOWHERE = (
    "/static/../app.py",
    "/static/..%2fapp.py",
    "/static/%2e%2e/app.py",
    "/static/....//app.py",
    "/static//etc/passwd",
    "/static/%2fetc%2fpasswd",
    "/static/..\\app.py",
    "/static/%ff",
    "/static/",
    f"/static/{'a' * 5000}",
    f"/secrets/{'a' * 20_000}",
    "/secrets/%2e%2e%2fx",
    "/runs/a/b/c",
    "/approvals/%3Cscript%3E",
    "/agents/%F0%9F%98%80",
    "//evil.example/",
)


def filled(route: Route) -> str:
    """An address of a route whose parts name what the ledger knows."""
    return route.path.format(**PLACES)


@pytest.fixture
async def reader(house: House, browser: httpx.AsyncClient) -> httpx.AsyncClient:
    """A browser that is logged in where something happened."""
    write_files(house.settings.config_dir)
    for outcome in ("granted", "refused"):
        house.record(outcome=outcome, agent_id="claude", run_id="run-1", secret_name="openai.api_key")
    return browser


@pytest.mark.parametrize("odd", ODD)
async def test_a_parameter_that_makes_no_sense_breaks_no_page(reader: httpx.AsyncClient, odd: str) -> None:
    """Every page, asked with each of its parameters: it is shown as without it, or says what was expected."""
    for path, parameters in PARAMETERS.items():
        for parameter in parameters:
            answer = await reader.get(f"{path}?{parameter}={ODD[odd]}")
            assert answer.status_code in {200, 400}, (path, parameter, answer.text)
            assert "set-cookie" not in answer.headers
            assert "<script>" not in answer.text


async def test_a_parameter_that_comes_twice_counts_once(reader: httpx.AsyncClient) -> None:
    """The same filter twice is no way around it, and no defect."""
    for path in PARAMETERS:
        answer = await reader.get(f"{path}?agent=a&agent=b&before=1~1&before=2~2&since=1h&since=2h")
        assert answer.status_code == 200, path


async def test_thousands_of_parameters_are_ignored(reader: httpx.AsyncClient) -> None:
    """Nothing is asked of the ledger for a name that no page knows."""
    query = "&".join(f"p{number}=1" for number in range(2000))
    assert (await reader.get(f"/?{query}")).status_code == 200


async def test_a_null_character_is_refused(reader: httpx.AsyncClient) -> None:
    """What no name can have, and PostgreSQL would not take, is refused at the door."""
    for path in ("/secrets/a%00b", "/runs/%00/%00", "/?agent=a%00", "/static/%00.css", "/leases?before=1~%00"):
        assert (await reader.get(path)).status_code == 400, path


async def test_a_path_that_leads_nowhere_is_not_found(reader: httpx.AsyncClient) -> None:
    """Neither a file beside the static ones nor another host is reached."""
    for path in NOWHERE:
        answer = await reader.get(httpx.URL("http://localhost:7710").copy_with(raw_path=path.encode()))
        assert answer.status_code == 404, path
        assert "import" not in answer.text
        assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "PUT", "DELETE", "PATCH", "NONSENSE"])
async def test_another_method_is_refused(reader: httpx.AsyncClient, method: str) -> None:
    """Every page knows GET and HEAD, some POST, and nothing else."""
    for route in PAGES:
        assert (await reader.request(method, filled(route), headers={"Content-Length": "0"})).status_code == 405


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data", "application/x-www-form-urlencoded", ""])
async def test_a_body_that_is_no_form_of_ours_is_refused(reader: httpx.AsyncClient, kind: str) -> None:
    """Whatever it says it is, nothing is done for it."""
    for body in (b"{}", b"csrf=%ff", b"&&&===", b"\xff" * 100, b"a=1&" * 2000):
        answer = await reader.post("/logout", content=body, headers={"Content-Type": kind})
        assert answer.status_code in {400, 403}, body[:20]
    assert (await reader.get("/session")).status_code == 204


async def test_a_body_that_is_too_long_is_refused(house: House, reader: httpx.AsyncClient) -> None:
    """Also with the form token."""
    answer = await reader.post("/logout", data={"csrf": house.csrf, "more": "x" * MAX_BODY})
    assert answer.status_code == 413


async def test_a_body_without_an_end_is_refused(house: House, reader: httpx.AsyncClient) -> None:
    """A body in chunks could be of any length, whatever else the request says about it."""
    headers = {"Transfer-Encoding": "chunked", "Content-Length": "5"}
    answer = await reader.post("/login", content=b"token=x", headers=headers)
    assert answer.status_code == 413


@pytest.mark.parametrize(("key", "position"), [("12", 12), ("²", None), ("9" * 17, None), ("-1", None), ("", None)])
def test_a_cursor_s_key_is_a_position_or_none(key: str, position: int | None) -> None:
    """Only what a database takes as the number of a row is used as one."""
    assert Cursor(1, key).position == position
