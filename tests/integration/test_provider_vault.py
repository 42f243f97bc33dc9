"""Vault over a fake server: what is read, and what never leaks."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from desk_workbench import until
from hashicorp_server import Said
from hashicorp_workbench import PASSWORD, REF, USERNAME, Desk, held, open_desk
from provider_conformance import CANARY, everything_said

from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.ports import Fetched
from broker_worker.providers.vault.provider import CONCURRENCY

K = FailureKind


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    """A provider that was asked nothing yet."""
    async with open_desk() as desk:
        yield desk


async def test_fields_of_one_path_are_one_reading(desk: Desk) -> None:
    """Two names of one secret cost one request, and so does what its engine is."""
    answers = await desk.get("vault://secret/app/db#user", REF)
    assert answers == [Fetched(b"reader", "1"), Fetched(f"{CANARY}-1".encode(), "1")]
    await desk.get(REF)
    assert desk.vault.paths("secret/") == ["secret/data/app/db"] * 2
    assert desk.vault.paths("sys/") == ["sys/internal/ui/mounts/secret/app/db"]


async def test_a_version_can_be_named(desk: Desk) -> None:
    """Without one it is the current one; of either the version is told."""
    desk.vault.put("secret/app/db", password="newer")
    answers = await desk.get(REF, "vault://secret/app/db?version=1#password")
    assert answers == [Fetched(b"newer", "2"), Fetched(f"{CANARY}-1".encode(), "1")]


@pytest.mark.parametrize("removal", ["deleted", "destroyed"])
async def test_a_removed_version_is_said_to_be_one(desk: Desk, removal: str) -> None:
    """Not merely that there is nothing."""
    if removal == "deleted":
        desk.vault.versions["secret/app/db"][0] = None
    else:
        desk.vault.destroyed.add(("secret/app/db", 1))
    error = await desk.error()
    assert error.kind is K.NOT_FOUND
    assert str(error) == f"this version of the secret was {removal}"
    assert error.hint


async def test_version_1_of_the_engine_is_read_as_it_is(desk: Desk) -> None:
    """It keeps no versions, so none is told and none can be asked for."""
    desk.vault.stored["old/app"] = {"key": CANARY}
    assert await desk.get("vault://old/app#key") == [Fetched(CANARY.encode())]
    assert (await desk.error("vault://old/app?version=1#key")).kind is K.BAD_REFERENCE
    assert (await desk.error("vault://old/nothing#key")).kind is K.NOT_FOUND


async def test_mounts_and_paths_may_have_several_parts_and_spaces(desk: Desk) -> None:
    """What Vault says is mounted there decides where the path below begins."""
    desk.vault.put("team/kv/my app/prod", key=CANARY)
    assert await desk.value("vault://team/kv/my app/prod#key") == CANARY
    assert "team/kv/data/my app/prod" in desk.vault.paths()


async def test_all_fields_are_one_json_object(desk: Desk) -> None:
    """`#*` stands for the whole secret, in one text that does not depend on the order of its fields."""
    desk.vault.put("secret/both", z="1", a={"b": True}, n=7)
    assert await desk.value("vault://secret/both#*") == '{"a":{"b":true},"n":7,"z":"1"}'


@pytest.mark.parametrize(
    ("content", "kind", "says"),
    [
        ("", K.NOT_FOUND, "the field is empty"),
        (None, K.NOT_FOUND, "the field is not there"),
        (7, K.BAD_REFERENCE, "only texts are served"),
        (True, K.BAD_REFERENCE, "only texts are served"),
        ({"a": CANARY}, K.BAD_REFERENCE, "only texts are served"),
        ([CANARY], K.BAD_REFERENCE, "only texts are served"),
        (f"{CANARY}\ud800", K.UNKNOWN, "not one of Vault's"),
    ],
)
async def test_what_is_no_text_is_no_value(desk: Desk, content: object, kind: FailureKind, says: str) -> None:
    """Each says what it is, shows nothing of it, and costs the other field nothing."""
    desk.vault.put("secret/odd", odd=content, good="fine")
    answers = await desk.provider.get_many(["vault://secret/odd#odd", "vault://secret/odd#good"])
    error = answers["vault://secret/odd#odd"]
    assert isinstance(error, ProviderError)
    assert (error.kind, says in str(error)) == (kind, True)
    assert CANARY not in everything_said(error)
    assert answers["vault://secret/odd#good"] == Fetched(b"fine", "1")


@pytest.mark.parametrize(
    "mount",
    [
        {"path": "secret/", "type": "system"},
        {"path": "secret/", "type": "token"},
        {"path": "secret/", "type": "ns_cubbyhole"},
        {"path": "other/", "type": "kv", "options": {"version": "2"}},
        {"path": "secret/app/d", "type": "kv"},
        {"path": "", "type": "kv"},
    ],
)
async def test_no_reference_leaves_its_mount(desk: Desk, mount: dict[str, Any]) -> None:
    """A path that Vault counts to itself, or to another mount, is not read, whatever it looks like."""
    desk.break_at("sys/internal", lambda _: Said(200, {"data": mount}))
    assert (await desk.error()).kind is K.BAD_REFERENCE
    assert desk.vault.paths("secret/") == []


async def test_nothing_is_sent_for_what_cannot_be_meant(desk: Desk) -> None:
    """Malformed references and an empty call cause no login."""
    await desk.provider.get_many([])
    await desk.provider.get_many(["vault://secret/app#", "vault://sys/seal-status#sealed"])
    assert desk.vault.asked == []


async def test_requests_under_way_are_bounded(desk: Desk) -> None:
    """Of forty paths four are asked for at a time."""
    await desk.get(REF)
    gate = threading.Event()
    desk.break_at("secret/data", lambda _: held(gate))
    for number in range(40):
        desk.vault.put(f"secret/{number}", a="b")
    call = asyncio.create_task(desk.get(*(f"vault://secret/{number}#a" for number in range(40))))
    await until(lambda: desk.vault.under_way == CONCURRENCY)
    gate.set()
    assert all(isinstance(answer, Fetched) for answer in await call)
    assert desk.vault.most_under_way == CONCURRENCY


async def test_namespace_is_named_with_every_request(desk: Desk) -> None:
    """From the login on; without the option there is no such header."""
    provider = desk.another(namespace="team-a/prod")
    await provider.get_many([REF])
    await provider.close()
    assert {asked.namespace for asked in desk.vault.asked} == {"team-a/prod"}
    desk.vault.asked.clear()
    await desk.get(REF)
    assert {asked.namespace for asked in desk.vault.asked} == {None}


async def test_environment_and_home_change_nothing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Neither proxies, nor a netrc, nor Vault's own variables and files: only the operator's section counts."""
    home = tmp_path_factory.mktemp("home")
    (home / ".netrc").write_text(f"machine 127.0.0.1 login x password {CANARY}\n")
    (home / ".netrc").chmod(0o600)
    (home / ".vault-token").write_text(CANARY)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "VAULT_ADDR"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("VAULT_TOKEN", "VAULT_NAMESPACE"):
        monkeypatch.setenv(name, CANARY)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert await desk.value(REF) == f"{CANARY}-1"
    sent = [json.dumps(asked.headers) for asked in desk.vault.asked]
    assert not [headers for headers in sent if CANARY in headers or "Authorization" in headers]
    assert {asked.headers["Accept-Encoding"] for asked in desk.vault.asked} == {"identity"}


async def test_nothing_of_a_secret_is_shown(desk: Desk) -> None:
    """Neither by the provider, nor by answers, nor by what a failing call leaves behind."""
    await desk.get(USERNAME, PASSWORD, REF)
    things: list[object] = [desk.provider, *vars(desk.provider).values(), *await desk.get(REF, PASSWORD)]
    desk.vault.fault = lambda asked: Said(400, {"errors": [CANARY]})
    things.append(await desk.error())
    said = "\n".join(everything_said(thing) for thing in things)
    assert CANARY not in said
    assert "root-token" not in said
