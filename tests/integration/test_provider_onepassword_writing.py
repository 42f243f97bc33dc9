"""Writing to 1Password over the SDK's own Python layer, and the versions that writers need."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from onepassword_fakes import FakeNativeCore, install, make_token, native_error
from provider_conformance import CANARY, everything_said, failure_of

from broker_worker.core.errors import FailureKind
from broker_worker.ports import Fetched
from broker_worker.providers.onepassword import OnePasswordProvider
from broker_worker.providers.onepassword_sdk import SdkClient
from broker_worker.providers.onepassword_session import OnePasswordSession

K = FailureKind
REF = "op://Agents/api/key"
NEW = "op://Agents/new item/credential"
CONFLICT = native_error("data conflict occurred on the server: performing a vault operation")


class Desk:
    """A provider and the account that it talks to, with one item."""

    def __init__(self, core: FakeNativeCore) -> None:
        self.core = core
        self.account = core.items
        self.item_id = self.account.add("Agents", "api", {"key": "old", "other": "o"})["id"]
        self.clock = 1000.0
        self.provider = self.provider_with()

    def provider_with(self, timeout: float = 5.0, versions: bool = True) -> OnePasswordProvider:
        """A provider of the account."""
        session = OnePasswordSession(
            make_token, SdkClient.sign_in, timeout_seconds=timeout, monotonic=lambda: self.clock
        )
        return OnePasswordProvider(session, timeout, versions=versions)

    def titled(self, title: str) -> list[dict[str, object]]:
        """The items of a title."""
        return [item for item in self.account.items.values() if item["title"] == title]

    def times(self, name: str) -> int:
        """How often an operation was asked for."""
        return self.account.calls.count(name)


@pytest.fixture
async def desk(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    """A desk."""
    core = FakeNativeCore({})
    install(monkeypatch, core)
    desk = Desk(core)
    yield desk
    await desk.provider.close()


async def test_a_missing_item_is_made(desk: Desk) -> None:
    """An API credential whose own field has the value; what is read back has the version that was told."""
    version = await desk.provider.put(NEW, b"made")
    assert await desk.provider.get_many([NEW]) == {NEW: Fetched(b"made", version)}
    (made,) = desk.titled("new item")
    assert made["category"] == "ApiCredentials"
    assert [(f["id"], f["fieldType"]) for f in desk.account.items[str(made["id"])]["fields"]] == [
        ("credential", "Concealed")
    ]


async def test_sections_are_made_with_the_item_only(desk: Desk) -> None:
    """A new item gets the section of its reference; an item that is there does not."""
    await desk.provider.put("op://Agents/new item/Keys/a", b"1")
    await desk.provider.put("op://Agents/new item/Keys/b", b"2")
    (made,) = desk.titled("new item")
    assert made["sections"] == [{"id": "section", "title": "Keys"}]
    assert [field["sectionId"] for field in desk.account.items[str(made["id"])]["fields"]] == ["section"] * 2
    assert (await failure_of(desk.provider.put("op://Agents/new item/Other/b", b"3"))).kind is K.NOT_FOUND


async def test_a_value_is_replaced_and_nothing_else(desk: Desk) -> None:
    """The item that is sent back is the one that was read, but for the field; ids spare the looking up."""
    before = desk.account.items[desk.item_id]
    vault = before["vaultId"]
    assert await desk.provider.put(f"op://{vault}/{desk.item_id}/key", b"new", expected="1") == "2"
    after = desk.account.items[desk.item_id]
    assert [field["value"] for field in after["fields"]] == ["new", "o"]
    assert {k: v for k, v in after.items() if k not in {"fields", "version", "createdAt", "updatedAt"}} == {
        k: v for k, v in before.items() if k not in {"fields", "version", "createdAt", "updatedAt"}
    } | {"document": None}
    assert desk.account.calls == ["ItemsGet", "ItemsPut"]


async def test_names_are_those_that_are_read(desk: Desk) -> None:
    """References are read without regard to case: nothing is made beside what they mean."""
    ref = "op://AGENTS/Api/KEY"
    assert (await failure_of(desk.provider.put(ref, b"x", expected=""))).kind is K.CONFLICT
    assert await desk.provider.put(ref, b"new", expected="1") == "2"
    assert [field["value"] for field in desk.account.items[desk.item_id]["fields"]] == ["new", "o"]
    assert len(desk.account.items) == 1


async def test_a_missing_field_is_added(desk: Desk) -> None:
    """Beside the others, under an id of its own."""
    await desk.provider.put("op://Agents/api/third", b"3")
    fields = desk.account.items[desk.item_id]["fields"]
    assert [field["value"] for field in fields] == ["old", "o", "3"]
    assert len({field["id"] for field in fields}) == 3


@pytest.mark.parametrize(
    ("ref", "value", "kind"),
    [
        ("op://Agents/api/key?attribute=otp", b"x", K.BAD_REFERENCE),
        (f"op://Agents/{'a' * 26}/key", b"x", K.NOT_FOUND),
        ("op://Nowhere/api/key", b"x", K.NOT_FOUND),
        ("op://Doubled/api/key", b"x", K.AMBIGUOUS),
        ("op://Agents/twin/key", b"x", K.AMBIGUOUS),
        (REF, b"", K.UNKNOWN),
        (REF, b"\xff", K.UNKNOWN),
    ],
)
async def test_what_cannot_be_written_is_refused(desk: Desk, ref: str, value: bytes, kind: FailureKind) -> None:
    """Attributes, what is not there, what is there twice, and values that no field can hold."""
    desk.account.vaults |= {"1" * 26: "Doubled", "2" * 26: "Doubled"}
    for _ in range(2):
        desk.account.add("Agents", "twin", {"key": "x"})
    assert (await failure_of(desk.provider.put(ref, value))).kind is kind
    assert desk.times("ItemsPut") + desk.times("ItemsCreate") == 0


def change_once(desk: Desk, operation: str) -> None:
    """Have somebody else change the item just before an operation."""

    def change(name: str) -> None:
        if name == operation:
            desk.account.before = lambda name: None
            desk.account.items[desk.item_id]["version"] += 1

    desk.account.before = change


async def test_a_change_in_between_is_a_conflict(desk: Desk) -> None:
    """1Password itself refuses the item of an older version, so nothing of the other's is lost."""
    change_once(desk, "ItemsPut")
    assert (await failure_of(desk.provider.put(REF, b"x", expected="1"))).kind is K.CONFLICT
    assert desk.account.items[desk.item_id]["fields"][0]["value"] == "old"


async def test_who_expects_nothing_tries_again(desk: Desk) -> None:
    """With the item as the other left it."""
    change_once(desk, "ItemsPut")
    assert await desk.provider.put(REF, b"x") == "3"
    assert desk.times("ItemsPut") == 2


async def test_a_busy_vault_is_given_up_after_three_times(desk: Desk) -> None:
    """1Password refuses changes of a vault while another is under way."""
    desk.account.failure = lambda name: CONFLICT if name == "ItemsCreate" else None
    assert (await failure_of(desk.provider.put(NEW, b"x"))).kind is K.CONFLICT
    assert desk.times("ItemsCreate") == 3


async def test_a_second_item_of_the_title_is_taken_away_again(desk: Desk) -> None:
    """Somebody makes the item between the check and the write: theirs stays, and the writer that creates is told."""

    def make_theirs(name: str) -> None:
        if name == "ItemsCreate":
            desk.account.add("Agents", "new item", {"credential": "theirs"})

    desk.account.before = make_theirs
    assert (await failure_of(desk.provider.put(NEW, b"ours", expected=""))).kind is K.CONFLICT
    assert [item["fields"][0]["value"] for item in map(dict, desk.titled("new item"))] == ["theirs"]  # type: ignore[index]  # JSON
    assert desk.times("ItemsDelete") == 1


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (
            native_error(f"bad input: you do not have the right permissions to perform this action {CANARY}"),
            K.FORBIDDEN,
        ),
        (native_error("not sufficient permissions for the item update operation"), K.FORBIDDEN),
        (native_error(f"item is too big {CANARY}"), K.TOO_LARGE),
        (native_error("rate limit exceeded", name="RateLimitExceeded"), K.RATE_LIMITED),
        (native_error(f"something new {CANARY}"), K.UNKNOWN),
        (native_error("error sending request for url"), K.UNREACHABLE),
    ],
)
async def test_failed_writes_are_told_apart(desk: Desk, failure: Exception, kind: FailureKind) -> None:
    """Each with its kind and without the SDK's words; where it may have been written, that is said."""
    desk.account.failure = lambda name: failure if name == "ItemsPut" else None
    error = await failure_of(desk.provider.put(REF, CANARY.encode()))
    assert error.kind is kind
    assert ("is not known" in str(error).partition(";")[2]) == (kind in {K.UNKNOWN, K.UNREACHABLE})
    assert CANARY not in everything_said(error)
    assert desk.times("ItemsPut") == 1


async def test_a_failed_write_does_not_hold_up_readers(desk: Desk) -> None:
    """That an item cannot be written says nothing about reading."""
    desk.account.failure = lambda name: native_error("error sending request") if name == "ItemsPut" else None
    await failure_of(desk.provider.put(REF, b"x"))
    assert isinstance((await desk.provider.get_many([REF]))[REF], Fetched)


async def test_an_ended_session_is_made_anew(desk: Desk) -> None:
    """The write goes on in the next session."""
    await desk.provider.get_many([REF])
    desk.clock += 3600
    desk.account.failure = lambda name: (
        native_error("you are not authenticated") if desk.core.sign_ins == 1 and name == "VaultsList" else None
    )
    assert await desk.provider.put(REF, b"x") == "2"
    assert desk.core.sign_ins == 2


async def test_garbage_is_refused_and_not_repeated(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the SDK cannot parse is `UNKNOWN`, and its parser's message, which holds values, is dropped."""
    monkeypatch.setattr(desk.account, "invoke", lambda name, parameters: json.dumps({"secret": CANARY}))
    error = await failure_of(desk.provider.put(REF, b"x"))
    assert error.kind is K.UNKNOWN
    assert CANARY not in everything_said(error)


async def test_a_hanging_write_ends_at_its_deadline(desk: Desk) -> None:
    """And it is said that it may have happened."""
    gate = asyncio.Event()
    desk.account.before = lambda name: setattr(desk.core, "gate", gate) if name == "ItemsGet" else None
    provider = desk.provider_with(timeout=0.1)
    error = await failure_of(provider.put(REF, b"x"))
    assert error.kind is K.TIMEOUT
    assert "is not known" in str(error)
    gate.set()
    await provider.close()


async def test_versions_are_asked_for_only_where_wanted(desk: Desk) -> None:
    """One request more a batch and vault; without it, values have none."""
    assert await desk.provider.get_many([REF]) == {REF: Fetched(b"old", "1")}
    assert desk.account.calls == ["ItemsGetAll"]
    plain = desk.provider_with(versions=False)
    assert await plain.get_many([REF]) == {REF: Fetched(b"old", None)}
    assert desk.account.calls == ["ItemsGetAll"]
    await plain.close()


async def test_a_version_belongs_to_its_value(desk: Desk) -> None:
    """A value that the item no longer has when its version is asked for has none."""

    def change(name: str) -> None:
        item = desk.account.items[desk.item_id]
        desk.account.items[desk.item_id] = {**item, "version": 2, "fields": [{**item["fields"][0], "value": "new"}]}

    desk.account.before = change
    assert await desk.provider.get_many([REF]) == {REF: Fetched(b"old", None)}


async def test_versions_of_many_items_are_asked_for_in_parts(desk: Desk) -> None:
    """1Password gives fifty items in a request."""
    refs = [f"op://Agents/item {number}/x" for number in range(60)]
    for number in range(60):
        desk.account.add("Agents", f"item {number}", {"x": f"{number}"})
    client = await SdkClient.sign_in(make_token())
    answers = await client.resolve(refs, versions=True)
    assert answers == {ref: Fetched(f"{number}".encode(), "1") for number, ref in enumerate(refs)}
    assert desk.times("ItemsGetAll") == 2
    client.release()
