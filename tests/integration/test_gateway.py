"""The HTTP gateway: what it answers, and that nothing of what was sent comes back."""

import base64
import re
from datetime import datetime

import pytest
import structlog
from gateway_bench import BODY, VALUE, Reached, problem_of

from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import Subject
from broker_worker.gateway import app as gateway_app
from broker_worker.gateway.problems import CHALLENGE

STATIC = "sbt_abcdefgh_" + "0" * 49

pytestmark = pytest.mark.asyncio(loop_scope="module")


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
