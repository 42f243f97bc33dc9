"""The HTTP gateway: what it answers, whom it refuses, and that nothing of what was sent comes back."""

import base64
import json
import re
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
import structlog
from gateway_bench import BODY, HEADERS, Reached, serving

from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import Subject
from broker_worker.core.errors import SetupError
from broker_worker.gateway import app as gateway_app
from broker_worker.gateway.app import Gateway
from broker_worker.gateway.problems import CHALLENGE
from broker_worker.gateway.serving import Connection

VALUE = "sk-very-secret"
STATIC = "sbt_abcdefgh_" + "0" * 49
HEAD = b"POST /v1/secrets/resolve HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Reached]:
    """One gateway for all tests of this module."""
    async with serving() as reached:
        yield reached


@pytest.fixture
def gateway(running: Reached) -> Reached:
    """It, with a desk that has two secrets and was asked for nothing yet."""
    desk = running.desk
    desk.values = {"openai_key": VALUE, "deploy.key": b"\xff\x00"}
    for what in (desk.requests, desk.refused, desk.rate_limited, desk.needs_approval):
        what.clear()
    return running


def problem_of(response: httpx.Response) -> dict[str, object]:
    """The problem that was answered, checked for what every one has."""
    assert response.headers["content-type"] == "application/problem+json"
    content: dict[str, object] = response.json()
    assert content["status"] == response.status_code
    assert re.fullmatch("req-[0-9a-f]{16}", str(content["requestId"]))
    return content


async def test_a_value_is_answered_in_exactly_the_documented_form(gateway: Reached) -> None:
    """What was asked, until when it may be used, and nothing that could be kept."""
    response = await gateway.ask({**BODY, "ttl_seconds": 60})
    assert response.status_code == 200
    content = response.json()
    until = content["resolved"]["openai_key"].pop("expiresAt")
    request_id = content.pop("requestId")
    assert content == {"resolved": {"openai_key": {"value": VALUE}}, "cached": False}
    assert re.fullmatch("req-[0-9a-f]{16}", request_id)
    left = datetime.fromisoformat(until).timestamp() * 1000 - gateway.desk.clock()
    assert 0 < left <= 60_000
    assert (response.headers["cache-control"], response.headers["connection"]) == ("no-store", "close")
    assert "set-cookie" not in response.headers
    request = gateway.desk.requests[-1]
    assert (request.names, request.purpose, request.ttl, request.deliver) == (
        ("openai_key",),
        "summarise the ticket",
        60,
        "value",
    )


async def test_a_value_that_is_no_text_comes_in_base64(gateway: Reached) -> None:
    """And says so."""
    shown = (await gateway.ask({"secrets": ["deploy.key", "openai_key"]})).json()["resolved"]
    assert base64.b64decode(shown["deploy.key"]["value"]) == b"\xff\x00"
    assert shown["deploy.key"]["encoding"] == "base64"
    assert "encoding" not in shown["openai_key"]


@pytest.mark.parametrize(
    ("headers", "subject"),
    [
        ({}, Subject("eyJ.e30.c2ln", None, "claude", "run-1")),
        ({"Authorization": "bearer  a.b.c"}, Subject("a.b.c", None, "claude", "run-1")),
        ({"Workload-Proof-Token": "p.q"}, Subject("eyJ.e30.c2ln", "p.q", "claude", "run-1")),
        (
            {"Authorization": "WPT s.t.u", "Workload-Identity-Token": "a.b.c"},
            Subject("a.b.c", "s.t.u", "claude", "run-1"),
        ),
        ({"Authorization": f"Bearer {STATIC}", "X-Agent-Run-Id": None}, Subject(STATIC, None, "claude", None)),
        ({"Authorization": f"Bearer {STATIC}", "X-Agent-Run-Id": "a"}, Subject(STATIC, None, "claude", "a")),
    ],
)
async def test_what_a_program_shows_is_passed_on_to_the_broker(
    gateway: Reached, headers: dict[str, str], subject: Subject
) -> None:
    """The gateway believes nothing of it; the broker verifies it, and that it is one run's."""
    assert (await gateway.ask(headers=headers)).status_code == 200
    assert gateway.desk.requests[-1].subject == subject


async def test_a_proof_counts_once(gateway: Reached) -> None:
    """Whoever saw one cannot show it again; what the broker took for no proof may be shown again, and is none again."""
    proof = {"Workload-Proof-Token": "once.and.again"}
    gateway.desk.refused["unknown"] = Code.UNAUTHENTICATED
    for _ in range(2):
        assert (await gateway.ask({"secrets": ["unknown"]}, proof)).status_code == 401
    assert (await gateway.ask(headers=proof)).status_code == 200
    replayed = await gateway.ask(headers=proof)
    assert (replayed.status_code, problem_of(replayed)["code"]) == (401, "unauthenticated")
    assert len(gateway.desk.requests) == 3


async def test_one_refused_name_holds_back_all_values(gateway: Reached) -> None:
    """The problem names each refused one with its code, and holds no value."""
    response = await gateway.ask({"secrets": ["openai_key", "other", "another"]})
    problem = problem_of(response)
    assert (response.status_code, problem["code"]) == (403, "denied")
    refusals = problem["refusals"]
    assert isinstance(refusals, list)
    assert [(each["name"], each["code"]) for each in refusals] == [("other", "denied"), ("another", "denied")]
    assert VALUE not in response.text


@pytest.mark.parametrize(
    ("codes", "status", "code", "retry"),
    [
        ([Code.RATE_LIMITED], 429, "rate_limited", "7"),
        ([Code.UNAVAILABLE], 503, "unavailable", "1"),
        ([Code.AUDIT_UNAVAILABLE], 503, "audit_unavailable", "1"),
        ([Code.APPROVAL_PENDING], 409, "approval_pending", "5"),
        ([Code.APPROVAL_DENIED], 403, "approval_denied", None),
        ([Code.APPROVAL_EXPIRED], 403, "approval_expired", None),
        ([Code.REVOKED], 403, "revoked", None),
        ([Code.EXPIRED], 401, "expired", None),
        ([Code.UNAUTHENTICATED], 401, "unauthenticated", None),
        ([Code.TOO_LARGE], 413, "too_large", None),
        ([Code.RATE_LIMITED, Code.DENIED], 403, "denied", None),
        ([Code.UNAVAILABLE, Code.APPROVAL_PENDING], 409, "approval_pending", "5"),
        ([Code.UNAVAILABLE, Code.RATE_LIMITED], 429, "rate_limited", "7"),
    ],
)
async def test_each_code_has_its_status(
    gateway: Reached, codes: list[Code], status: int, code: str, retry: str | None
) -> None:
    """Of several the one decides that asking again would help least; what may help says when to ask again."""
    names = [f"name{number}" for number in range(len(codes))]
    for name, each in zip(names, codes, strict=True):
        gateway.desk.values[name] = "x"
        if each is Code.RATE_LIMITED:
            gateway.desk.rate_limited[name] = 6.2
        elif each is Code.APPROVAL_PENDING:
            gateway.desk.needs_approval.add(name)
        else:
            gateway.desk.refused[name] = each
    response = await gateway.ask({"secrets": names})
    problem = problem_of(response)
    assert (response.status_code, problem["code"], response.headers.get("retry-after")) == (status, code, retry)
    assert (response.headers.get("www-authenticate") == CHALLENGE) == (status == 401)
    assert ("refusals" in problem) == (status != 401)


async def test_what_waits_for_people_says_what_they_decide_on(gateway: Reached) -> None:
    """The approval's id is what `secret-broker approve` takes; asking again after it gives the value."""
    gateway.desk.needs_approval.add("openai_key")
    problem = problem_of(await gateway.ask())
    refusals = problem["refusals"]
    assert isinstance(refusals, list)
    assert re.fullmatch("[0-9a-f]{16}", refusals[0]["approval"])
    assert refusals[0]["approvableForSeconds"] > 500
    gateway.desk.approve()
    assert (await gateway.ask()).status_code == 200


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


SMUGGLED = b'{"secrets":["openai_key"]}'
_AUTHORISED = "\r\n".join(f"{name}: {text}" for name, text in HEADERS.items()).encode() + b"\r\n"
_JSON = _AUTHORISED + b"Content-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"Content-Length: 26\r\nTransfer-Encoding: chunked\r\n", b"411"),
        (b"Transfer-Encoding: chunked\r\n", b"411"),
        (b"Transfer-Encoding: chunked, identity\r\n", b"400"),
        (b"Transfer-Encoding : chunked\r\nContent-Length: 26\r\n", b"400"),
        (b"Content-Length: 26\r\nContent-Length: 0\r\n", b"400"),
        (b"Content-Length: +26\r\n", b"400"),
        (b"Content-Length: 0x1a\r\n", b"400"),
        (b"Content-Length: 65537\r\n", b"413"),
        (b"Content-Length: 99999999999999999999\r\n", b"413"),
        (b"", b"411"),
    ],
)
async def test_where_a_body_ends_is_never_in_doubt(gateway: Reached, head: bytes, status: bytes) -> None:
    """A length that two readers could understand differently is refused, and the connection ends."""
    chunked = b"1a\r\n" + SMUGGLED + b"\r\n0\r\n\r\n"
    body = chunked if b"chunked" in head else SMUGGLED
    answer = await gateway.raw(HEAD % gateway.port + _JSON + head + b"\r\n" + body)
    assert answer.split(b" ")[1] == status
    assert gateway.desk.requests == []


async def test_one_connection_carries_one_request(gateway: Reached) -> None:
    """What comes behind a request is not read as another one."""
    request = HEAD % gateway.port + _JSON + b"Content-Length: 26\r\n\r\n" + SMUGGLED
    answer = await gateway.raw(request + request)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert len(gateway.desk.requests) == 1


async def test_a_client_that_sends_nothing_is_cut(gateway: Reached, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a connection without a request nor one whose head never ends is kept."""
    monkeypatch.setattr(Connection, "head_seconds", 0.02)
    assert await gateway.raw(b"") == b""
    assert await gateway.raw(b"POST /v1/secrets/resolve HTTP/1.1\r\nHost: ") == b""


async def test_a_body_that_does_not_come_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client is told, and may ask again."""
    monkeypatch.setattr(Gateway.__init__, "__defaults__", (0.02,))
    async with serving() as gateway:
        answer = await gateway.raw(HEAD % gateway.port + _JSON + b"Content-Length: 26\r\n\r\n{")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"timeout"' in answer


async def test_a_head_of_too_many_bytes_is_refused(gateway: Reached) -> None:
    """Before it is read to its end."""
    answer = await gateway.raw(HEAD % gateway.port + b"X: " + b"x" * 40_000)
    assert answer.split(b" ")[1] == b"400"


async def test_only_so_many_requests_wait_for_the_broker(gateway: Reached, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one is told to ask again; when one is done there is room again."""
    monkeypatch.setattr(gateway_app, "MAX_UNDER_WAY", 0)
    response = await gateway.ask()
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert problem_of(response)["code"] == "unavailable"
    monkeypatch.setattr(gateway_app, "MAX_UNDER_WAY", 1)
    for _ in range(2):
        assert (await gateway.ask()).status_code == 200


async def test_a_defect_shows_nothing_of_the_request(gateway: Reached, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in the answer nor in the log; the id of the one is in the other."""

    def fail(*_: object) -> None:
        raise RuntimeError(VALUE)

    monkeypatch.setattr(gateway_app, "_resolved", fail)
    with structlog.testing.capture_logs() as logs:
        response = await gateway.ask()
    problem = problem_of(response)
    assert (response.status_code, problem["code"]) == (500, "internal")
    assert logs == [
        {"event": "defect", "log_level": "error", "request_id": problem["requestId"], "kind": "RuntimeError"}
    ]


async def test_the_log_names_requests_and_nothing_that_was_sent(gateway: Reached) -> None:
    """What was answered has the leases that the audit names too."""
    with structlog.testing.capture_logs() as logs:
        good = await gateway.ask()
        bad = await gateway.ask({"secrets": ["other"]})
    assert [(log["event"], log["request_id"]) for log in logs] == [
        ("resolved", good.json()["requestId"]),
        ("refused", bad.json()["requestId"]),
    ]
    assert len(logs[0]["leases"][0]) == 32
    for sent in (VALUE, "openai_key", "other", "eyJ", "summarise"):
        assert sent not in str(logs)


async def test_a_port_that_is_taken_is_an_error_with_a_hint(gateway: Reached) -> None:
    """And not a gateway somewhere else."""
    from broker_worker.loopback import listening  # noqa: PLC0415  # only this test listens by itself

    with pytest.raises(SetupError, match="cannot be used") as caught, listening(gateway.port, ("127.0.0.1",), "choose"):
        pass
    assert caught.value.hint == "choose"


async def test_it_listens_on_this_host_alone() -> None:
    """The folder of the package never binds an address of a network."""
    text = "".join(path.read_text() for path in Path(gateway_app.__file__).parent.glob("*.py"))
    assert "0.0.0.0" not in text
