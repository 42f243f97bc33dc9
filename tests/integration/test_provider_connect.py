"""Reading through Connect, over HTTP: what is asked for, what a reference means, whose token goes where."""

from collections.abc import AsyncIterator

import pytest
from connect_server import TOKEN, Vault, failure, new_id, seen_operations
from connect_workbench import REF, Desk, open_desk
from provider_conformance import CANARY, everything_said, failure_of
from starlette.responses import HTMLResponse, JSONResponse

from broker_worker.core.errors import FailureKind, ProviderError, SetupError
from broker_worker.ports import Fetched
from broker_worker.providers.connect import ConnectProvider
from broker_worker.providers.connect_api import ConnectApi

K = FailureKind


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    """A desk whose server runs."""
    async with open_desk() as desk:
        yield desk


async def test_an_item_is_fetched_once_for_all_its_fields(desk: Desk) -> None:
    """Forty fields of two items cost the vault's name once, each title once and each item once."""
    for title in ("a", "b"):
        desk.vault.add(title, {f"f{i}": f"{i}" for i in range(20)})
    refs = [f"connect://Agents/{title}/f{i}" for title in ("a", "b") for i in range(20)]
    assert len(await desk.provider.get_many(refs)) == 40
    lists = [path.split("/")[-1] for path in desk.server.requests if path.endswith(("vaults", "items"))]
    assert sorted(lists) == ["items", "items", "vaults"]
    assert len(desk.server.requests) == 5


async def test_ids_need_no_looking_up(desk: Desk) -> None:
    """With the ids of vault and item there is one request."""
    ref = f"connect://{desk.vault.id}/{desk.item['id']}/key"
    assert await desk.get(ref) == [Fetched(CANARY.encode(), "1")]
    assert len(desk.server.requests) == 1


async def test_the_version_is_the_items(desk: Desk) -> None:
    """A change of the item gives all its values another version."""
    desk.item["version"] = 12
    assert [each.version for each in await desk.get(REF) if isinstance(each, Fetched)] == ["12"]


async def test_names_are_compared_as_written(desk: Desk) -> None:
    """What a server finds without regard to case is not what was asked for."""
    desk.item["title"] = "API"
    desk.server.fault = lambda request: (
        JSONResponse([{"id": desk.item["id"], "title": "API"}]) if request.url.path.endswith("/items") else None
    )
    assert await desk.kind(REF) is K.NOT_FOUND
    desk.server.fault = lambda request: (
        JSONResponse([{"id": desk.vault.id, "name": "AGENTS"}]) if request.url.path.endswith("/vaults") else None
    )
    assert await desk.kind(f"connect://Agents/{desk.item['id']}/key") is K.NOT_FOUND


async def test_whatever_fits_twice_is_refused(desk: Desk) -> None:
    """Two vaults, items, sections or fields of one name are `AMBIGUOUS`, and ids tell them apart."""
    twin = desk.vault.add("twin", {"key": "1"})
    desk.vault.add("twin", {"key": "2"})
    fields = desk.vault.add("fields", {"x": "1"})
    fields["fields"] += [{"id": new_id(), "label": "x", "type": "STRING", "value": "2"}]
    sections = desk.vault.add("sections", {}, sections=[{"id": "s1", "label": "S"}, {"id": "s2", "label": "S"}])
    sections["fields"] = [
        {"id": f"f{s}", "label": "x", "type": "STRING", "value": s, "section": {"id": s}} for s in ("s1", "s2")
    ]
    doubled = Vault("Doubled")
    desk.server.vaults |= {doubled.id: doubled, "other": Vault("Doubled", id=new_id())}
    for ref in ("Doubled/api/key", "Agents/twin/key", "Agents/fields/x", "Agents/sections/x", "Agents/sections/S/x"):
        assert await desk.kind(f"connect://{ref}") is K.AMBIGUOUS
    by_id = (f"{twin['id']}/key", f"fields/{fields['fields'][0]['id']}", "sections/s2/x", "sections/fs1")
    refs = [f"connect://Agents/{each}" for each in by_id]
    assert [each.value for each in await desk.get(*refs) if isinstance(each, Fetched)] == [b"1", b"1", b"s2", b"s1"]


async def test_a_field_in_no_section_comes_first(desk: Desk) -> None:
    """Without a section in the reference, a field in a section does not stand beside one in none."""
    desk.item["sections"] = [{"id": "s", "label": "Old"}]
    desk.item["fields"].append(
        {"id": new_id(), "label": "key", "type": "STRING", "value": "old", "section": {"id": "s"}}
    )
    found = await desk.get(REF, "connect://Agents/api/Old/key")
    assert [each.value for each in found if isinstance(each, Fetched)] == [CANARY.encode(), b"old"]


@pytest.mark.parametrize("part", ["Nowhere/api/key", "Agents/api/none", "Agents/api/none/key", f"Agents/{'z' * 26}/k"])
async def test_what_is_not_there_is_not_found(desk: Desk, part: str) -> None:
    """Vault, field, section and the id of an item, each with a hint."""
    (found,) = await desk.get(f"connect://{part}")
    assert isinstance(found, ProviderError)
    assert found.kind is K.NOT_FOUND
    assert found.hint


@pytest.mark.parametrize("state", ["ARCHIVED", "DELETED"])
async def test_what_was_put_away_is_not_served(desk: Desk, state: str) -> None:
    """An archived item is not found, neither by title nor by id, and makes no title ambiguous."""
    gone = desk.vault.add("api", {"key": "retired"}, state=state)
    assert await desk.get(REF) == [Fetched(CANARY.encode(), "1")]
    assert await desk.kind(f"connect://Agents/{gone['id']}/key") is K.NOT_FOUND


async def test_a_file_arrives_byte_by_byte(desk: Desk) -> None:
    """By name, by id and by section; it stands beside fields, and may not share their names."""
    desk.item["sections"] = [{"id": "s", "label": "Keys"}]
    content = bytes(range(256))
    file_id = desk.server.attach(desk.item, "key.der", content, section={"id": "s"})
    desk.server.attach(desk.item, "other", b"file")
    refs = [f"connect://Agents/api/{part}" for part in ("key.der", file_id, "Keys/key.der")]
    assert await desk.get(*refs) == [Fetched(content, "1")] * 3
    assert await desk.kind("connect://Agents/api/other") is K.AMBIGUOUS


async def test_a_file_that_is_not_what_it_said_is_refused(desk: Desk) -> None:
    """One of another size, one without content, a page in its place: refused. One that is too large is not fetched."""
    for name, said in (("shorter", 3), ("empty", 0), ("large", 2 * 1024 * 1024), ("page", 4)):
        desk.server.attach(desk.item, name, b"" if name == "empty" else b"four", size=said)
    page = desk.item["files"][-1]["id"]
    desk.server.fault = lambda request: HTMLResponse("page") if page in request.url.path else None
    kinds = [await desk.kind(f"connect://Agents/api/{name}") for name in ("shorter", "empty", "large", "page")]
    assert kinds == [K.UNKNOWN, K.NOT_FOUND, K.TOO_LARGE, K.UNKNOWN]
    assert sum(path.endswith("/content") for path in desk.server.requests) == 3


async def test_an_empty_field_is_not_found(desk: Desk) -> None:
    """Neither an empty value nor none at all is a value of no bytes."""
    desk.item["fields"] = [
        {"id": "a", "label": "empty", "type": "STRING", "value": ""},
        {"id": "b", "label": "none", "type": "STRING"},
    ]
    assert await desk.kind("connect://Agents/api/empty") is K.NOT_FOUND
    assert await desk.kind("connect://Agents/api/none") is K.NOT_FOUND


async def test_the_token_is_read_for_every_call(desk: Desk) -> None:
    """A replaced token file counts at once; one that is missing or no token is refused before anything is sent."""
    tokens: list[str | Exception] = [
        TOKEN,
        "old",
        SetupError("token file /x has mode 0644", hint="chmod 600"),
        "a\nb",
        "",
    ]

    def read() -> str:
        token = tokens.pop(0)
        if isinstance(token, Exception):
            raise token
        return token

    provider = ConnectProvider(ConnectApi(desk.server.address, read, timeout_seconds=5), 5)
    assert isinstance((await provider.get_many([REF]))[REF], Fetched)
    before = len(desk.server.requests)
    errors = [await failure_of(provider.get_many([REF])) for _ in range(4)]
    assert {error.kind for error in errors} == {K.UNAUTHENTICATED}
    assert "0644" in str(errors[1])
    assert len(desk.server.requests) == before + 1
    await provider.close()


async def test_no_token_in_what_can_be_printed(desk: Desk) -> None:
    """Neither the provider nor an error shows it."""
    error = await desk.refused(lambda request: failure(401, TOKEN))
    assert TOKEN not in everything_said(error) + everything_said(desk.provider) + everything_said(desk.provider._api)


def test_a_fingerprint_tells_tokens_apart() -> None:
    """Another token, or none, has another one; it is nothing that a token could be found by without its salt."""
    tokens = ["a", "b", "a", ""]
    api = ConnectApi("http://127.0.0.1:1", lambda: tokens.pop(0), timeout_seconds=1)
    one, other, same, none = (ConnectProvider(api, 1).fingerprint(bytes(16)) for _ in range(4))
    assert one == same
    assert len({one, other, none}) == 3


async def test_vaults_beyond_the_registry_are_named(desk: Desk) -> None:
    """By name or by id, what no reference needs is too much."""
    other = Vault("Other")
    desk.server.vaults[other.id] = other
    scope = await desk.provider.visible([REF], ())
    assert scope is not None
    assert scope.beyond == ("Other",)
    assert scope.untold == ("Connect does not tell whether its token may write",)
    both = await desk.provider.visible([REF, f"connect://{other.id}/a/b"], ())
    assert both is not None
    assert both.beyond == ()


async def test_malformed_references_cause_no_request(desk: Desk) -> None:
    """A call with nothing to look up does not even read the token."""
    assert await desk.provider.get_many([]) == {}
    assert await desk.kind("connect://Agents/api") is K.BAD_REFERENCE
    assert desk.server.requests == []


async def test_health_tells_version_and_vaults(desk: Desk) -> None:
    """A token that sees no vault is no health; neither is one that is not taken, or a server that is not Connect."""
    assert (await desk.provider.health()).detail == "Connect 1.8.1 lets us in; vaults: 1"
    desk.server.fault = lambda r: JSONResponse({"name": "x", "version": CANARY}) if "health" in r.url.path else None
    assert (await desk.provider.health()).detail == "Connect lets us in; vaults: 1"
    desk.server.vaults.clear()
    assert "sees no vault" in (await desk.provider.health()).detail
    desk.server.token = "another"
    assert "does not accept" in (await desk.provider.health()).detail
    desk.server.fault = lambda request: HTMLResponse("hello")
    assert "not Connect" in (await desk.provider.health()).detail


async def test_both_sides_keep_to_the_description_in_all_of_it(desk: Desk) -> None:
    """Every operation that is described is used, so no part of the description is there for nothing."""
    desk.server.attach(desk.item, "file", b"x")
    await desk.get("connect://Agents/api/file")
    await desk.provider.put(REF, b"new")
    await desk.provider.health()

    def make_theirs() -> None:
        desk.vault.add("new", {})

    desk.server.before_write = make_theirs
    await failure_of(desk.provider.put("connect://Agents/new/x", b"x", expected=""))
    used, described = seen_operations()
    assert used == described
    assert len(described) == 8
