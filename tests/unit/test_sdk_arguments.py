"""What a caller gets wrong is said before anything is sent, without repeating it; and what the package tells."""

from typing import Any

import pytest

import agent_sdk
from agent_sdk import Code, Denied, InvalidRequest, NotGranted, Revoked, RunIssuer, SecretBroker
from agent_sdk.holdings import Holdings
from agent_sdk.outcome import settle
from agent_sdk.recent import Recent
from agent_sdk.secret import wall_clock
from agent_sdk.testing import FakeAsyncSecretBroker, FakeDesk, FakeSecretBroker
from agent_sdk.wire.messages import Call, Reply, Result, Subject
from agent_sdk.wire.sealing import run_public_key

CANARY = "canary-7c1f0e"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"name": 3}, "a name is a text; got int"),
        ({"name": b"a"}, "a name is a text; got bytes"),
        ({"name": None}, "a name is a text; got NoneType"),
        ({"name": CANARY + "!"}, "this secret name is not in canonical form"),
        ({"purpose": 3}, "a purpose is a text; got int"),
        ({"purpose": None}, "a purpose is a text; got NoneType"),
        ({"purpose": CANARY + "\ud800"}, "a purpose is a text of whole characters"),
        ({"timeout": CANARY}, "a timeout is a positive number of seconds; got str"),
        ({"timeout": -1}, "a timeout is a positive number of seconds; got -1"),
        ({"ttl": CANARY}, "a ttl is a timedelta or whole seconds; got str"),
        ({"timeout": -(10**5000)}, r"a timeout is a positive number of seconds; got -1e\+15"),
        ({"ttl": 1.5}, "a ttl is a timedelta or whole seconds; got float"),
        ({"ttl": True}, "a ttl is a timedelta or whole seconds; got bool"),
        ({"ttl": 10**5000}, "a ttl is 1 to 2592000 s; got 10+"),
    ],
)
def test_an_argument_of_the_wrong_type_is_an_invalid_request(arguments: dict[str, Any], expected: str) -> None:
    """One class of error for all that asking again does not help; what was passed by mistake is not repeated."""
    with FakeSecretBroker({"a": "x"}) as broker:
        with pytest.raises(InvalidRequest, match=expected) as caught:
            broker.get(**{"name": "a", **arguments})
        assert CANARY not in f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"
        assert broker.desk.requests == []


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (3, "get_many takes several names; got int"),
        (None, "get_many takes several names; got NoneType"),
        ([3], "a name is a text; got int"),
        ([["a"]], "a name is a text; got list"),
    ],
)
def test_names_of_the_wrong_type_are_an_invalid_request(names: Any, expected: str) -> None:
    """Also what cannot be looked through or compared."""
    with FakeSecretBroker({"a": "x"}) as broker, pytest.raises(InvalidRequest, match=expected):
        broker.get_many(names)


@pytest.mark.parametrize(
    ("deliver", "expected"),
    [
        (CANARY, "a way to deliver is one of 'value', 'env', 'file', 'proxy', 'env,file'"),
        (3, "a way to deliver is one of"),
        (["env", "file"], "a way to deliver is one of"),
        ({"a": "env", "b": CANARY}, "a way to deliver is one of"),
        ({"a": "env", "b": ["file"]}, "a way to deliver is one of"),
        ({"a": "env"}, "ways to deliver are given for exactly the names that are asked for"),
        ({"a": "env", "b": "env", CANARY: "file"}, "ways to deliver are given for exactly the names"),
        ({"a": "env", "b": "proxy"}, "what goes to a proxy is asked for by itself"),
    ],
)
def test_a_way_that_is_none_is_an_invalid_request(deliver: Any, expected: str) -> None:
    """For all names or for one of them; nothing is sent, and what was passed by mistake is not repeated."""
    with FakeSecretBroker({"a": "x", "b": "y"}) as broker:
        with pytest.raises(InvalidRequest, match=expected) as caught:
            broker.get_many(["a", "b"], deliver=deliver)
        assert CANARY not in f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"
        assert broker.desk.requests == []


async def test_what_is_asked_on_behalf_of_a_run_goes_one_way() -> None:
    """The broker would not answer to anything else, so nothing is sent."""
    async with FakeAsyncSecretBroker({"a": "x", "b": "y"}) as broker:
        with pytest.raises(InvalidRequest, match="on behalf of a run goes one way"):
            await broker.get_many(["a", "b"], deliver={"a": "env", "b": "file"}, on_behalf_of=Subject("t"))
        await broker.get_many(["a", "b"], deliver={"a": "file", "b": "file"}, on_behalf_of=Subject("t"))
        assert [(each.deliver, each.ways) for each in broker.desk.requests] == [("file", {})]


def test_a_client_is_not_made_with_a_timeout_that_is_none() -> None:
    """Not at the first request, when the agent is half-way through its work."""
    with pytest.raises(InvalidRequest, match="a timeout is a positive number of seconds; got 0"):
        SecretBroker(FakeDesk().credential(), timeout=0)


@pytest.mark.parametrize("code", [Code.DENIED, Code.REVOKED])
def test_a_request_that_is_refused_as_a_whole_grants_nothing(code: Code) -> None:
    """Whatever results come with it: a reply that contradicts itself is read in the strictest way."""
    results = (Result("a", "granted", value=b"x"), Result("b", "refused", Code.RATE_LIMITED))
    answer = settle(Reply(bytes(16), "refused", code, results=results), ("a", "b"), Holdings(wall_clock), 0)
    assert (answer.secrets, [refusal.code for refusal in answer.refusals]) == ({}, [code, code])
    with pytest.raises(NotGranted) as caught:
        answer.raise_if_refused()
    assert type(caught.value) is {Code.DENIED: Denied, Code.REVOKED: Revoked}[code]


def test_a_list_that_does_not_say_the_ways_of_each_name_says_none() -> None:
    """No name is shown with the ways of another."""
    reply = Reply(bytes(16), "ok", names=("a", "b"), ways=(("env",),))
    assert settle(reply, (), Holdings(wall_clock), 0).names == {"a": (), "b": ()}


def test_the_package_lists_each_of_its_names_once() -> None:
    """Also once they were imported."""
    for name in agent_sdk.__all__:
        getattr(agent_sdk, name)
    listed = dir(agent_sdk)
    assert len(listed) == len(set(listed))
    assert set(agent_sdk.__all__) <= set(listed)


def test_an_issuer_says_which_key_the_broker_must_list() -> None:
    """The public half of its seed."""
    seed = bytes(range(32))
    assert RunIssuer(seed, "orchestrator").public_key == run_public_key(seed)


def test_what_was_heard_lately_is_remembered_within_a_bound() -> None:
    """The first is forgotten first; what is known is not news, and does not become younger."""
    recent: Recent[int] = Recent(3)
    assert [recent.add(number) for number in (1, 2, 3, 1, 4, 1)] == [True, True, True, False, True, True]
    assert (len(recent), 2 in recent, 4 in recent) == (3, False, True)


GOOD_CALL: dict[str, Any] = {"at": 1, "route": "r", "name": "a.b", "host": "h", "method": "GET", "path": "/v1"}


@pytest.mark.parametrize(
    ("subject", "calls", "expected"),
    [
        (CANARY, [GOOD_CALL], "subject: expected a Subject"),
        (Subject(CANARY * 400), [GOOD_CALL], "subject: Expected `str` of length <= 4096"),
        (Subject("t", "\ud800"), [GOOD_CALL], "subject: not of its form"),
        (Subject("t"), [], "a report has 1 to 64 calls; got 0"),
        (Subject("t"), [GOOD_CALL] * 65, "a report has 1 to 64 calls; got 65"),
        (Subject("t"), [GOOD_CALL, {**GOOD_CALL, "method": CANARY * 2}], r"calls\[1\]: Expected `str` of length <= 16"),
        (Subject("t"), [{**GOOD_CALL, "at": -1}], r"calls\[0\]: Expected `int` >= 0"),
        (Subject("t"), [{**GOOD_CALL, "name": f"{CANARY}!"}], r"calls\[0\]: name is not a canonical secret name"),
    ],
)
async def test_a_report_that_the_broker_would_not_read_is_an_invalid_request(
    subject: Any, calls: list[dict[str, Any]], expected: str
) -> None:
    """It answers nothing to what breaks the form, so a proxy would wait, and tell it again, without end."""
    async with FakeAsyncSecretBroker({"a.b": "x"}) as broker:
        with pytest.raises(InvalidRequest, match=expected) as caught:
            await broker.report(subject, [Call(**call) for call in calls])
        assert CANARY not in f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"
        if "subject" in expected:
            with pytest.raises(InvalidRequest, match=expected):
                await broker.get("a.b", on_behalf_of=subject)
        assert broker.desk.requests == []
        await broker.report(Subject("t"), [Call(**GOOD_CALL)])
