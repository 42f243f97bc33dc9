"""The SDK's writes: what is sent, what comes back, people in the way, and that no value shows anywhere."""

import asyncio
import traceback
from datetime import timedelta
from typing import Any

import pytest
from desk_workbench import until

from agent_sdk import (
    ApprovalDenied,
    ApprovalPending,
    Code,
    Conflict,
    Denied,
    InvalidRequest,
    NotGranted,
    RateLimited,
    Unavailable,
)
from agent_sdk.testing import FakeAsyncSecretBroker, FakeDesk, FakeSecretBroker

CANARY = "canary-5d02c1"


async def test_a_value_is_stored_and_can_be_had() -> None:
    """Text or bytes; what was stored has a version, and is granted with it."""
    desk = FakeDesk()
    async with FakeAsyncSecretBroker(desk=desk) as broker:
        stored = await broker.put("a.key", CANARY, purpose="first key")
        assert (stored.name, stored.version, stored.secret) == ("a.key", "1", None)
        assert (await broker.put("b.key", b"\xff\x00")).version == "1"
        secret = await broker.get("a.key")
        assert (secret.reveal(), secret.version) == (CANARY, "1")
    assert [(each.operation, each.names, each.purpose) for each in desk.requests[:1]] == [
        ("put", ("a.key",), "first key")
    ]


async def test_a_name_is_created_once_and_replaced_by_version() -> None:
    """`Conflict` names the version that is there; whoever holds the older value is told."""
    desk = FakeDesk({"a.key": "old"})
    heard: list[tuple[str, str | None]] = []
    async with FakeAsyncSecretBroker(
        desk=desk, on_notice=lambda notice: heard.append((notice.event, notice.name))
    ) as broker:
        held = await broker.get("a.key")
        with pytest.raises(Conflict) as caught:
            await broker.put("a.key", CANARY)
        assert caught.value.version == "1"
        stored = await broker.put("a.key", CANARY, replaces=caught.value.version)
        assert stored.version == "2"
        with pytest.raises(Conflict):
            await broker.put("a.key", "later", replaces="1")
        assert held.rotated
    assert heard == [("secret_rotated", "a.key")]


async def test_a_value_is_made_and_shown_only_if_asked_for() -> None:
    """Without `reveal` nobody but the vault has it."""
    desk = FakeDesk()
    async with FakeAsyncSecretBroker(desk=desk) as broker:
        assert (await broker.generate("a.key", "hex:32")).secret is None
        made = await broker.generate("b.key", "hex:32", reveal=True)
        assert made.secret is not None
        assert made.secret.reveal_bytes() == desk.values["b.key"]
        await broker.renew(made.secret)


def test_the_blocking_client_does_the_same() -> None:
    """Both operations, from a thread that waits."""
    desk = FakeDesk()
    with FakeSecretBroker(desk=desk) as broker:
        assert broker.put("a.key", CANARY).version == "1"
        made = broker.generate("a.key", "uuid4", replaces="1", reveal=True, purpose="renewal")
        assert made.version == "2"
        assert made.secret is not None


async def test_a_write_waits_for_people_and_is_then_made() -> None:
    """What people approve is asked once more, and nothing is written before."""
    desk = FakeDesk(needs_approval={"a.key"})
    async with FakeAsyncSecretBroker(desk=desk) as broker:
        writing = asyncio.ensure_future(broker.put("a.key", CANARY, timeout=45))
        await until(lambda: desk.approvals)
        assert "a.key" not in desk.values
        desk.approve()
        assert (await writing).version == "1"
        with pytest.raises(ApprovalPending):
            await broker.put("a.key", CANARY, replaces="1", wait_for_approval=False)
        desk.deny()
        with pytest.raises(ApprovalDenied):
            await broker.put("a.key", CANARY, replaces="1")


async def test_a_write_is_asked_once() -> None:
    """One whose answer does not come may have been made: the client does not repeat it."""
    desk = FakeDesk()
    desk.silent = True
    async with FakeAsyncSecretBroker(desk=desk) as broker:
        with pytest.raises(Unavailable):
            await broker.put("a.key", CANARY, timeout=0.05)
    assert [each.operation for each in desk.requests] == ["put"]


@pytest.mark.parametrize(
    ("desk", "error"),
    [
        (FakeDesk(refused={"a.key": Code.DENIED}), Denied),
        (FakeDesk({"a.key": "x"}, unavailable={"a.key"}), Unavailable),
        (FakeDesk({"a.key": "x"}, rate_limited={"a.key": 2}), RateLimited),
    ],
)
async def test_a_refusal_is_raised_without_the_value(desk: FakeDesk, error: type[Exception]) -> None:
    """Neither its text nor its traceback's summary shows what was to be stored."""
    async with FakeAsyncSecretBroker(desk=desk) as broker:
        with pytest.raises(error) as caught:
            await broker.put("a.key", CANARY)
    shown = f"{caught.value!r} {vars(caught.value)!r} " + "".join(traceback.format_exception(caught.value))
    assert CANARY not in shown.replace('broker.put("a.key", CANARY)', "")


@pytest.mark.parametrize(
    "call",
    [
        {"value": ""},
        {"value": b""},
        {"value": "x" * (128 * 1024 + 1)},
        {"value": 7},
        {"value": "\ud800"},
        {"name": "A.key"},
        {"purpose": "p" * 257},
        {"replaces": ""},
        {"replaces": 7},
        {"replaces": "v" * 129},
    ],
    ids=str,
)
async def test_a_wrong_argument_is_refused_before_anything_is_sent(call: dict[str, Any]) -> None:
    """With what was expected, and without the value."""
    desk = FakeDesk()
    async with FakeAsyncSecretBroker(desk=desk) as broker:
        with pytest.raises(InvalidRequest) as caught:
            await broker.put(**{"name": "a.key", "value": CANARY, **call})
    assert CANARY not in str(caught.value)
    assert desk.requests == []


@pytest.mark.parametrize("recipe", ["", "r" * 65, 7])
async def test_a_wrong_recipe_is_refused_before_anything_is_sent(recipe: Any) -> None:
    """As far as the client can know."""
    async with FakeAsyncSecretBroker() as broker:
        with pytest.raises(InvalidRequest):
            await broker.generate("a.key", recipe)


async def test_a_revealed_value_ends_like_any_other() -> None:
    """It is a secret with a lease and an end."""
    desk = FakeDesk(ttl=timedelta(seconds=60))
    async with FakeAsyncSecretBroker(desk=desk) as broker:
        made = await broker.generate("a.key", "hex:32", reveal=True)
        desk.revoke("a.key")
        secret = made.secret
        assert secret is not None
        await until(lambda: secret.revoked)


def _shown_with_locals(error: BaseException) -> str:
    """What an error tracker sends: every frame with its variables."""
    return "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())


@pytest.mark.parametrize(
    "arguments", [{"name": "A"}, {"purpose": 3}, {"timeout": 0}, {"replaces": "7"}, {"name": "no.such"}]
)
async def test_a_failed_write_does_not_leave_its_value_in_a_traceback(arguments: dict[str, Any]) -> None:
    """Refused here, refused by the broker or not answered: no frame of the client has the value among its variables."""
    desk = FakeDesk({"a.key": "old"})
    desk.silent = arguments == {"name": "no.such"}
    given = {"name": "a.key", "timeout": 0.05 if desk.silent else 5, **arguments}
    values = [CANARY[:3] + CANARY[3:]]
    async with FakeAsyncSecretBroker(desk=desk) as broker:
        with pytest.raises(NotGranted) as caught:
            await broker.put(value=values.pop(), **given)
    assert CANARY not in _shown_with_locals(caught.value)
    values = [CANARY[:3] + CANARY[3:]]
    with FakeSecretBroker(desk=desk) as blocking, pytest.raises(NotGranted) as caught:
        blocking.put(value=values.pop(), **given)
    assert CANARY not in _shown_with_locals(caught.value)


@pytest.mark.parametrize("value", [3, "", CANARY + "\ud800", CANARY * 100_000])
async def test_a_value_that_is_none_is_not_left_in_a_traceback(value: Any) -> None:
    """Neither as it was given nor as bytes."""
    values = [value]
    del value
    async with FakeAsyncSecretBroker() as broker:
        with pytest.raises(InvalidRequest, match="a value") as caught:
            await broker.put("a.key", values.pop())
    assert CANARY not in _shown_with_locals(caught.value)


@pytest.mark.parametrize("argument", ["replaces", "recipe"])
async def test_half_a_character_is_an_invalid_request(argument: str) -> None:
    """As from a command line that is not UTF-8; it could not be sent."""
    given: dict[str, Any] = {"recipe": "hex:32", argument: "\udcff"}
    async with FakeAsyncSecretBroker() as broker:
        with pytest.raises(InvalidRequest, match="a text of whole characters"):
            await broker.generate("a.key", **given)
        assert broker.desk.requests == []
