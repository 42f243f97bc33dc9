"""What the HTTP gateway refuses before it asks the broker: headers, bodies, other servers' names and web pages."""

import json

import pytest
from gateway_bench import HEAD, HEADERS, Reached, problem_of

from agent_sdk.wire.errors import Code
from broker_worker.gateway.problems import CHALLENGE

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": None},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Basic dXNlcjpwYXNz"},
        {"Authorization": "Bearer two words"},
        {"Authorization": "Bearer " + "a" * 4097},
        {"Authorization": "Bearer a,b"},
        {"Authorization": "WPT p.q.r"},
        {"Workload-Proof-Token": "p" * 2049},
        {"Workload-Proof-Token": "two words"},
    ],
)
async def test_whoever_shows_nothing_good_gets_one_answer(gateway: Reached, headers: dict[str, str]) -> None:
    """It is the answer that an unknown token gets, so it tells nothing apart."""
    gateway.desk.refused["unknown"] = Code.UNAUTHENTICATED
    expected = problem_of(await gateway.ask({"secrets": ["unknown"]}))
    response = await gateway.ask(headers=headers)
    problem = problem_of(response)
    assert response.headers["www-authenticate"] == CHALLENGE
    assert {**problem, "requestId": ""} == {**expected, "requestId": ""}


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Agent-Id": None},
        {"X-Agent-Id": "Claude"},
        {"X-Agent-Run-Id": None},
        {"X-Agent-Run-Id": "a b"},
        {"X-Agent-Run-Id": ""},
        {"Workload-Identity-Token": "a.b.c"},
        {"Authorization": "WPT p", "Workload-Identity-Token": "a", "Workload-Proof-Token": "p"},
    ],
)
async def test_headers_that_contradict_each_other_are_refused(gateway: Reached, headers: dict[str, str]) -> None:
    """And the broker is not asked."""
    assert problem_of(await gateway.ask(headers=headers))["code"] == "invalid"
    assert gateway.desk.requests == []


@pytest.mark.parametrize("name", [*HEADERS, "Content-Type", "Workload-Proof-Token", "Host", "Content-Length"])
async def test_a_header_that_stands_twice_is_refused(gateway: Reached, name: str) -> None:
    """Two readers could take different ones of them."""
    given = {"Content-Type": "application/json", **HEADERS, "Workload-Proof-Token": "p", "Content-Length": "26"}
    lines = [f"{key}: {text}".encode() for key, text in given.items()]
    lines += [f"{name}: {given.get(name, f'127.0.0.1:{gateway.port}')}".encode()]
    answer = await gateway.raw(HEAD % gateway.port + b"\r\n".join([*lines, b"", b'{"secrets":["openai_key"]}']))
    if name == "Content-Length":  # two that agree are one (RFC 9110, section 8.6); the library makes them so
        assert answer.startswith(b"HTTP/1.1 200")
    else:
        assert answer.split(b" ")[1] in (b"400", b"421")
        assert gateway.desk.requests == []


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b'\xef\xbb\xbf{"secrets":["a"]}', "not JSON"),
        ('{"secrets":["a"]}'.encode("utf-16"), "not JSON"),
        (b'{"secrets":["a"],"ttl_seconds":NaN}', "not JSON"),
        (b"[" * 60_000, "not JSON"),
        (b'{"secrets":["a"],"ttl_seconds":' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"secrets":["a"],"secrets":["b"]}', "a key stands twice"),
        (b'{"secrets":["a"],"purpose":"","\\u0070urpose":""}', "a key stands twice"),
        (b"[]", "Expected `object`"),
        (b"{}", "missing required field"),
        (b'{"secrets":[]}', "length >= 1"),
        (json.dumps({"secrets": [f"n{n}" for n in range(65)]}).encode(), "length <= 64"),
        (b'{"secrets":"openai_key"}', "Expected `array`"),
        (b'{"secrets":[1]}', "Expected `str`"),
        (b'{"secrets":["a"],"more":1}', "unknown"),
        (b'{"secrets":["a"],"ttl_seconds":0}', ">= 1"),
        (b'{"secrets":["a"],"ttl_seconds":60.5}', "Expected `int"),
        (b'{"secrets":["a"],"ttl_seconds":true}', "Expected `int"),
        (b'{"secrets":["a"],"ttl_seconds":"60"}', "Expected `int"),
        (json.dumps({"secrets": ["a"], "purpose": "p" * 257}).encode(), "length <= 256"),
        (b'{"secrets":["a"],"purpose":"\\ud800"}', "surrogate"),
        (b'{"secrets":["ok","sk-Pasted-By-Mistake"]}', "secrets[1] is not a canonical secret name"),
        (b'{"secrets":["\\u0430"]}', "secrets[0] is not a canonical secret name"),
        (b'{"secrets":["a","a"]}', "twice"),
    ],
)
async def test_a_body_that_could_mean_two_things_is_refused(gateway: Reached, body: bytes, detail: str) -> None:
    """The answer says where, and repeats nothing; the broker is not asked."""
    response = await gateway.ask(body)
    problem = problem_of(response)
    assert (response.status_code, problem["code"]) == (400, "invalid")
    assert detail in str(problem["detail"])
    assert "Pasted" not in response.text
    assert gateway.desk.requests == []


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1"]
)
async def test_only_json_is_read(gateway: Reached, kind: str | None) -> None:
    """What a page could send to another site without asking is refused by its type alone."""
    response = await gateway.ask(headers={"Content-Type": kind})  # type: ignore[dict-item]  # None takes it away
    assert (response.status_code, problem_of(response)["code"]) == (415, "unsupported_media_type")
    assert (await gateway.ask(headers={"Content-Type": "Application/JSON; Charset=UTF-8"})).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example:{port}", "127.0.0.1", "localhost:1", "127.0.0.1:{port}.evil.example", "[::1]:{port}", ""]
)
async def test_a_request_for_another_server_is_refused(gateway: Reached, host: str) -> None:
    """A name that somebody lets point to 127.0.0.1 is not ours (DNS rebinding)."""
    response = await gateway.ask(headers={"Host": host.format(port=gateway.port)})
    assert (response.status_code, problem_of(response)["code"]) == (421, "misdirected")
    assert gateway.desk.requests == []


async def test_a_request_for_no_server_is_refused(gateway: Reached) -> None:
    """HTTP/1.0 lets a client leave the Host header out; we do not."""
    answer = await gateway.raw(b"GET /healthz HTTP/1.0\r\n\r\n")
    assert b" 421 " in answer.split(b"\r\n")[0]
    assert b'"code":"misdirected"' in answer


async def test_it_is_found_as_localhost_too(gateway: Reached) -> None:
    """In whatever case a client writes it."""
    assert (await gateway.ask(headers={"Host": f"LOCALHOST:{gateway.port}"})).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:7700"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "NONE"},
    ],
)
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/v1/secrets/resolve"), ("GET", "/openapi.json"), ("OPTIONS", "/")]
)
async def test_no_web_page_is_served(gateway: Reached, headers: dict[str, str], method: str, path: str) -> None:
    """Not even one that was loaded from here; and no answer has a header that would let a page read it."""
    response = await gateway.send(method, path, headers=headers)
    assert (response.status_code, problem_of(response)["code"]) == (403, "from_a_browser")
    assert not [name for name in response.headers if name.startswith("access-control-")]
    assert gateway.desk.requests == []


async def test_an_address_typed_into_a_browser_may_be_looked_at(gateway: Reached) -> None:
    """It is no page's doing, and there is nothing to be had by it."""
    response = await gateway.send("GET", "/healthz", headers={"Sec-Fetch-Site": "none"})
    assert response.json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "not_found"),
        ("POST", "/v1/secrets/resolve/", 404, "not_found"),
        ("POST", "/v1/secrets/%72esolve%00", 404, "not_found"),
        ("GET", "/v1/secrets/resolve", 405, "method_not_allowed"),
        ("OPTIONS", "/v1/secrets/resolve", 405, "method_not_allowed"),
        ("DELETE", "/healthz", 405, "method_not_allowed"),
    ],
)
async def test_whatever_else_is_asked_is_a_problem(
    gateway: Reached, method: str, path: str, status: int, code: str
) -> None:
    """Also of a preflight, which is answered as any other method is."""
    response = await gateway.send(method, path, headers={"Content-Length": "0"})
    assert (response.status_code, problem_of(response)["code"]) == (status, code)
    assert not [name for name in response.headers if name.startswith("access-control-")]


async def test_a_query_is_refused(gateway: Reached) -> None:
    """What stands in an address ends up in histories and logs."""
    response = await gateway.send("POST", "/v1/secrets/resolve?secrets=a", content=b"{}", headers=HEADERS)
    assert problem_of(response)["code"] == "invalid"
