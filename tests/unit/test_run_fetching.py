"""Fetching what a command needs: one request, all or nothing, people waited for."""

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

import pytest

from agent_sdk.errors import ApprovalDenied, ApprovalPending, Denied, Refusal, SeveralRefused, Unavailable
from agent_sdk.run.fetching import Wanted, fetch, give_back
from agent_sdk.testing import FakeAsyncSecretBroker
from agent_sdk.wire.errors import Code

BOTH: Wanted = {"a.key": "env", "b.key": "env", "c.key": "file"}


@pytest.fixture
async def client() -> AsyncIterator[FakeAsyncSecretBroker]:
    async with FakeAsyncSecretBroker({"a.key": "A", "b.key": "B", "c.key": "C"}) as client:
        yield client


def ignored(refusals: object) -> None:
    pass


async def test_all_names_are_asked_for_in_one_request_that_says_how_and_what_for(client: FakeAsyncSecretBroker) -> None:
    """The policy and the audit know the way of each."""
    held = await fetch(client, BOTH, purpose="deploy", timeout=5, waiting=ignored)
    assert {name: secret.reveal() for name, secret in held.items()} == {"a.key": "A", "b.key": "B", "c.key": "C"}
    (asked,) = client.desk.requests
    assert (asked.names, asked.ways, asked.purpose) == (("a.key", "b.key", "c.key"), BOTH, "deploy")


async def test_a_command_that_has_all_its_values_in_one_way_says_it_once(client: FakeAsyncSecretBroker) -> None:
    """The request is the one that names its way for all of them."""
    await fetch(client, {"a.key": "env", "b.key": "env"}, purpose="", timeout=5, waiting=ignored)
    assert [(asked.deliver, asked.ways) for asked in client.desk.requests] == [("env", {})]


async def test_a_value_that_goes_two_ways_is_lent_once(client: FakeAsyncSecretBroker) -> None:
    """One name of one request, one lease, which is given back once."""
    held = await fetch(client, {"a.key": "env,file", "c.key": "file"}, purpose="", timeout=5, waiting=ignored)
    assert await give_back(client, held) == []
    assert [asked.operation for asked in client.desk.requests] == ["resolve", "release", "release"]
    assert [(lease.name, lease.ended) for lease in client.desk.leases] == [("a.key", "released"), ("c.key", "released")]


async def test_one_refused_name_refuses_all_and_what_was_granted_is_given_back(client: FakeAsyncSecretBroker) -> None:
    """The error names it and no other."""
    with pytest.raises(Denied, match=r"^no\.key: denied") as caught:
        await fetch(client, {"a.key": "env", "no.key": "env", "c.key": "file"}, purpose="", timeout=5, waiting=ignored)
    assert caught.value.names == ("no.key",)
    assert {lease.name: lease.ended for lease in client.desk.leases} == {"a.key": "released", "c.key": "released"}


async def test_refusals_of_both_ways_are_told_together(client: FakeAsyncSecretBroker) -> None:
    """Whoever has to mend it sees all of it."""
    client.desk.rate_limited["c.key"] = 3
    with pytest.raises(SeveralRefused, match=r"no\.key \(denied\), c\.key \(rate_limited\)"):
        await fetch(client, {"no.key": "env", "c.key": "file"}, purpose="", timeout=5, waiting=ignored)


async def test_people_are_waited_for_and_the_command_is_told_whom_for(client: FakeAsyncSecretBroker) -> None:
    """Only names that people decide about are asked for again."""
    client.desk.needs_approval = {"b.key", "c.key"}
    told: list[Refusal] = []

    def waiting(refusals: Sequence[Refusal]) -> None:
        told.extend(refusals)
        client.desk.approve()

    held = await fetch(client, BOTH, purpose="p", timeout=20, waiting=waiting)
    assert held["b.key"].reveal() + held["c.key"].reveal() == "BC"
    assert [(r.name, r.code) for r in told] == [
        ("b.key", Code.APPROVAL_PENDING),
        ("c.key", Code.APPROVAL_PENDING),
    ]
    assert [(r.names, r.ways) for r in client.desk.requests] == [
        (("a.key", "b.key", "c.key"), BOTH),
        (("b.key", "c.key"), {"b.key": "env", "c.key": "file"}),
    ]


async def test_a_person_that_says_no_ends_it(client: FakeAsyncSecretBroker) -> None:
    """And what was granted is given back."""
    client.desk.needs_approval = {"b.key"}
    client.desk.person = lambda approval: "deny"
    with pytest.raises(ApprovalDenied):
        await fetch(client, BOTH, purpose="", timeout=20, waiting=ignored)
    assert all(lease.ended == "released" for lease in client.desk.leases)


async def test_nobody_is_asked_about_anything_else_when_a_name_is_refused(client: FakeAsyncSecretBroker) -> None:
    """A refusal for good ends the wait before it begins."""
    client.desk.needs_approval = {"b.key"}
    with pytest.raises(SeveralRefused, match=r"b\.key \(approval_pending\), no\.key \(denied\)"):
        await fetch(client, {"b.key": "env", "no.key": "env"}, purpose="", timeout=60, waiting=ignored)


async def test_the_time_for_people_ends(client: FakeAsyncSecretBroker) -> None:
    """The error is that they have not decided."""
    client.desk.needs_approval = {"b.key"}
    with pytest.raises(ApprovalPending):
        await fetch(client, {"b.key": "env"}, purpose="", timeout=0.1, waiting=ignored)


async def test_what_ended_while_people_decided_is_asked_for_again(client: FakeAsyncSecretBroker) -> None:
    """A command does not start with a value whose time is over."""
    client.desk.needs_approval = {"b.key"}

    def slowly(refusals: object) -> None:
        client.desk.advance(timedelta(minutes=6))
        client.desk.approve()

    held = await fetch(client, {"a.key": "env", "b.key": "env"}, purpose="", timeout=20, waiting=slowly)
    assert not any(secret.expired for secret in held.values())


async def test_a_broker_that_is_silent_starts_nothing(client: FakeAsyncSecretBroker) -> None:
    """Within the time."""
    client.desk.silent = True
    with pytest.raises(Unavailable):
        await fetch(client, BOTH, purpose="", timeout=0.1, waiting=ignored)


async def test_names_that_cannot_be_given_back_are_told(
    client: FakeAsyncSecretBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their leases end by themselves."""
    held = await fetch(client, {"a.key": "env", "b.key": "env"}, purpose="", timeout=5, waiting=ignored)
    monkeypatch.setattr("agent_sdk.run.fetching.RELEASE_SECONDS", 0.05)
    client.desk.silent = True
    assert await give_back(client, held) == ["a.key", "b.key"]
    client.desk.silent = False
    assert await give_back(client, held) == []
