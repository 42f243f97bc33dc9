"""Writing through Connect, over HTTP: what is written, what is left alone, and who else writes."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from connect_server import TOKEN, ConnectServer, Vault, failure, new_id
from provider_conformance import CANARY, everything_said, failure_of
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from broker_worker.core.errors import FailureKind
from broker_worker.ports import Fetched
from broker_worker.providers.connect import ConnectProvider
from broker_worker.providers.connect_api import ConnectApi

K = FailureKind
REF = "connect://Agents/api/key"
NEW = "connect://Agents/new item/credential"


class Desk:
    """A provider, the server that it talks to, and the server's one vault with one item."""

    def __init__(self, server: ConnectServer, vault: Vault) -> None:
        self.server = server
        self.vault = vault
        self.item = vault.add("api", {"key": "old", "other": "o"})
        self.provider = self.provider_with()

    def provider_with(self, timeout: float = 5.0) -> ConnectProvider:
        """A provider of the server."""
        return ConnectProvider(ConnectApi(self.server.address, lambda: TOKEN, timeout_seconds=timeout), timeout)

    async def get(self, ref: str) -> bytes | None:
        """A value, as another provider would read it."""
        found = (await self.provider.get_many([ref]))[ref]
        return found.value if isinstance(found, Fetched) else None

    def writes(self) -> list[str]:
        """The methods of all requests but reading ones."""
        return [line.split(" ")[0] for line in self.server.requests if not line.startswith("GET")]


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    """A desk whose server runs."""
    vault = Vault("Agents")
    server = ConnectServer(vault)
    async with server.running():
        desk = Desk(server, vault)
        yield desk
        await desk.provider.close()


async def test_a_missing_item_is_made(desk: Desk) -> None:
    """With its title and one concealed field; what is read back has the version that was told."""
    version = await desk.provider.put(NEW, b"made")
    assert await desk.provider.get_many([NEW]) == {NEW: Fetched(b"made", version)}
    (made,) = [item for item in desk.vault.items.values() if item["title"] == "new item"]
    assert [(field["label"], field["type"]) for field in made["fields"]] == [("credential", "CONCEALED")]
    assert desk.writes() == ["POST"]


async def test_a_missing_item_is_made_with_its_section(desk: Desk) -> None:
    """A reference with a section makes both."""
    ref = "connect://Agents/new item/Keys/a"
    await desk.provider.put(ref, b"made")
    assert await desk.get(ref) == b"made"


async def test_a_value_is_replaced_and_nothing_else(desk: Desk) -> None:
    """One patch of one field; other fields, files and sections are as they were."""
    desk.server.attach(desk.item, "file", b"f")
    before = {key: value for key, value in desk.item.items() if key not in {"fields", "version"}}
    assert await desk.provider.put(REF, "neu €".encode()) == "2"
    assert await desk.get(REF) == "neu €".encode()
    assert await desk.get("connect://Agents/api/other") == b"o"
    assert {key: value for key, value in desk.item.items() if key not in {"fields", "version"}} == before
    assert desk.writes() == ["PATCH"]


async def test_a_missing_field_is_added(desk: Desk) -> None:
    """In no section, or in a section that is there; a section that is not there is not made."""
    desk.item["sections"] = [{"id": "s", "label": "Keys"}]
    await desk.provider.put("connect://Agents/api/third", b"3")
    await desk.provider.put("connect://Agents/api/Keys/key", b"4")
    assert [await desk.get(ref) for ref in (REF, "connect://Agents/api/third", "connect://Agents/api/Keys/key")] == [
        b"old",
        b"3",
        b"4",
    ]
    error = await failure_of(desk.provider.put("connect://Agents/api/None/x", b"x"))
    assert error.kind is K.NOT_FOUND
    assert desk.writes() == ["PATCH", "PATCH"]


async def test_any_field_id_can_be_pointed_to(desk: Desk) -> None:
    """A slash or a tilde in an id does not lead to another place."""
    desk.item["fields"] = [{"id": "a/b~1c", "label": "key", "type": "STRING", "value": "old"}]
    await desk.provider.put(REF, b"new")
    assert await desk.get(REF) == b"new"


async def test_an_empty_field_holds_nothing(desk: Desk) -> None:
    """It may be filled by a writer that only creates, and by none that expects a version."""
    desk.item["fields"][0]["value"] = ""
    assert (await failure_of(desk.provider.put(REF, b"x", expected="1"))).kind is K.CONFLICT
    assert await desk.provider.put(REF, b"new", expected="") == "2"


@pytest.mark.parametrize(
    ("ref", "value", "kind"),
    [
        ("connect://Agents/api/file", b"x", K.READ_ONLY),
        (f"connect://Agents/{'a' * 26}/key", b"x", K.NOT_FOUND),
        ("connect://Nowhere/api/key", b"x", K.NOT_FOUND),
        ("connect://Agents/api", b"x", K.BAD_REFERENCE),
        (REF, b"", K.UNKNOWN),
        (REF, b"\xff\xfe", K.UNKNOWN),
        (REF, b"x" * (128 * 1024 + 1), K.TOO_LARGE),
    ],
)
async def test_what_cannot_be_written_is_refused(desk: Desk, ref: str, value: bytes, kind: FailureKind) -> None:
    """Files, ids and vaults of nothing, half references, and values that no field can hold: nothing is sent."""
    desk.server.attach(desk.item, "file", b"f")
    assert (await failure_of(desk.provider.put(ref, value))).kind is kind
    assert desk.writes() == []


async def test_the_largest_value_can_be_written(desk: Desk) -> None:
    """128 KiB."""
    value = b"x" * (128 * 1024)
    await desk.provider.put(REF, value)
    assert await desk.get(REF) == value


async def test_a_token_that_only_reads_is_told_so(desk: Desk) -> None:
    """Connect answers 401 for that; it is not taken for a token that is not accepted."""
    desk.server.may_write = False
    error = await failure_of(desk.provider.put(REF, b"x"))
    assert error.kind is K.FORBIDDEN
    assert "whether it may write" in error.hint


async def test_a_change_in_between_is_reported(desk: Desk) -> None:
    """Somebody changes the item between the check and the write: the writer with an expectation is told."""
    desk.server.before_write = lambda: desk.item.update(version=desk.item["version"] + 1)
    error = await failure_of(desk.provider.put(REF, b"x", expected="1"))
    assert error.kind is K.UNKNOWN
    assert "another writer changed the item" in str(error)
    assert await desk.provider.put(REF, b"y") == "5"


async def test_a_second_item_of_the_title_is_taken_away_again(desk: Desk) -> None:
    """Somebody makes the item between the check and the write: theirs stays, and the writer that creates is told."""

    def make_theirs() -> None:
        desk.server.before_write = lambda: None
        desk.vault.add("new item", {"credential": "theirs"})

    desk.server.before_write = make_theirs
    assert (await failure_of(desk.provider.put(NEW, b"ours", expected=""))).kind is K.CONFLICT
    assert await desk.get(NEW) == b"theirs"
    assert desk.writes() == ["POST", "DELETE"]


async def test_who_expects_nothing_writes_into_the_item_of_the_other(desk: Desk) -> None:
    """A writer that replaces whatever is there ends up in one item, not in two."""

    def make_theirs() -> None:
        desk.server.before_write = lambda: None
        desk.vault.add("new item", {"credential": "theirs"})

    desk.server.before_write = make_theirs
    await desk.provider.put(NEW, b"ours")
    assert await desk.get(NEW) == b"ours"


@pytest.mark.parametrize(("times", "written"), [(2, True), (3, False)])
async def test_a_busy_vault_is_tried_three_times(desk: Desk, times: int, written: bool) -> None:
    """1Password refuses one of two changes of a vault at once; nothing was written, so it is tried again."""
    left = times

    def busy(request: Request) -> Response | None:
        nonlocal left
        if request.method != "PATCH" or left == 0:
            return None
        left -= 1
        return failure(409, "Internal server conflict")

    desk.server.fault = busy
    if written:
        assert await desk.provider.put(REF, b"new", expected="1") == "2"
    else:
        assert (await failure_of(desk.provider.put(REF, b"new", expected="1"))).kind is K.CONFLICT
    assert desk.writes() == ["PATCH"] * 3


@pytest.mark.parametrize("ref", [REF, NEW])
async def test_written_is_what_can_be_read(desk: Desk, ref: str) -> None:
    """Connect shows changes late; the write ends when it does, so the next fetch has the new value."""
    desk.server.lag = 2
    await desk.provider.put(ref, b"new")
    assert await desk.get(ref) == b"new"


async def test_a_change_that_is_never_shown_is_written_all_the_same(desk: Desk) -> None:
    """Waiting for it has an end."""
    desk.server.lag = 1_000_000
    provider = desk.provider_with(timeout=0.4)
    assert await provider.put(REF, b"new") == "2"
    await provider.close()


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 1},
        {"version": 1, "fields": [{"id": "a", "label": "key", "type": "STRING", "value": CANARY}]},
        {"version": 2, "fields": []},
        {"version": 2, "fields": [{"id": "a", "label": "key", "type": "STRING", "value": f"{CANARY} and more"}]},
        {"version": 2, "id": new_id()},
    ],
)
async def test_an_answer_that_does_not_show_the_write_is_refused(desk: Desk, changes: dict[str, object]) -> None:
    """The version must have counted up, and the field hold what was sent."""
    desk.server.fault = lambda r: JSONResponse({**desk.item, **changes}) if r.method == "PATCH" else None
    provider = desk.provider_with(timeout=0.5)
    error = await failure_of(provider.put(REF, CANARY.encode()))
    assert error.kind is K.UNKNOWN
    assert CANARY not in everything_said(error)
    await provider.close()


async def test_the_same_value_again_may_be_no_change(desk: Desk) -> None:
    """A server that does not count it up is believed, if the field holds what was sent."""
    desk.server.fault = lambda r: JSONResponse(desk.item) if r.method == "PATCH" else None
    assert await desk.provider.put(REF, b"old", expected="1") == "1"


@pytest.mark.parametrize("method", ["PATCH", "GET"])
async def test_whether_it_was_written_is_said_where_it_is_not_known(desk: Desk, method: str) -> None:
    """A write that is not answered may have happened; a look that is not answered has written nothing."""
    over = asyncio.Event()

    async def hang(request: Request) -> Response | None:
        if request.method == method:
            await over.wait()
        return None

    desk.server.fault = hang
    provider = desk.provider_with(timeout=0.3)
    error = await failure_of(provider.put(REF, CANARY.encode()))
    over.set()
    assert error.kind is K.TIMEOUT
    assert ("whether the value was written is not known" in str(error)) == (method == "PATCH")
    assert CANARY not in everything_said(error)
    await provider.close()


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (failure(400, f"invalid field {CANARY}"), K.UNKNOWN),
        (failure(413, CANARY), K.TOO_LARGE),
        (failure(403, CANARY), K.FORBIDDEN),
        (failure(429, CANARY, retry_after="60"), K.RATE_LIMITED),
        (HTMLResponse(CANARY, 503), K.UNREACHABLE),
    ],
)
@pytest.mark.parametrize("ref", [REF, NEW])
async def test_failed_writes_are_told_apart(desk: Desk, ref: str, response: Response, kind: FailureKind) -> None:
    """Each with its kind, tried once, and without the server's words or the value."""
    desk.server.fault = lambda request: response if request.method != "GET" else None
    error = await failure_of(desk.provider.put(ref, CANARY.encode()))
    assert error.kind is kind
    assert error.retry_after == (60_000 if kind is K.RATE_LIMITED else None)
    assert CANARY not in everything_said(error)
    assert len(desk.writes()) == 1
