"""A Vault that answers otherwise than it should: what it costs, how long it is left alone, and what is not repeated."""

from collections.abc import AsyncIterator

import pytest
from hashicorp_server import DENIED, FakeVault, Said, serving
from hashicorp_workbench import PASSWORD, REF, Desk, make_server, open_desk
from provider_conformance import CANARY, everything_said, failure_of

from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.ports import Fetched
from broker_worker.providers.vault.client import MAX_ANSWER

K = FailureKind


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    """A provider that was asked nothing yet."""
    async with open_desk() as desk:
        yield desk


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (Said(200, f"<html>{CANARY}</html>".encode()), K.UNKNOWN),
        (Said(200, f'["{CANARY}"]'.encode()), K.UNKNOWN),
        (Said(200, f'{{"data": "{CANARY}"'.encode()), K.UNKNOWN),
        (Said(200, b"[" * 100_000), K.UNKNOWN),
        (Said(200, {"data": {"data": [CANARY], "metadata": {"version": 1}}}), K.UNKNOWN),
        (Said(200, {"data": {"data": {"password": CANARY}, "metadata": {"version": "1"}}}), K.UNKNOWN),
        (Said(200, {"data": {"data": {"password": CANARY}}}), K.UNKNOWN),
        (Said(200, {"data": None}), K.UNKNOWN),
        (Said(200), K.UNKNOWN),
        (Said(204), K.UNKNOWN),
        (Said(200, b"\x1f\x8b", {"Content-Encoding": "gzip"}), K.UNKNOWN),
        (Said(200, b" " * (MAX_ANSWER + 1)), K.TOO_LARGE),
        (Said(400, {"errors": [CANARY]}), K.UNKNOWN),
        (Said(403, {"errors": [f"{DENIED} {CANARY}"]}), K.FORBIDDEN),
        (Said(404, f"<html>{CANARY}</html>".encode()), K.UNKNOWN),
        (Said(405, {"errors": ["unsupported operation"]}), K.BAD_REFERENCE),
        (Said(500, f"<html>{CANARY}</html>".encode()), K.UNKNOWN),
        (Said(418, {"errors": [CANARY]}), K.UNKNOWN),
    ],
)
async def test_a_path_that_fails_costs_the_others_nothing(desk: Desk, said: Said, kind: FailureKind) -> None:
    """Each has its kind, repeats nothing, and holds up no other path."""
    desk.vault.put("secret/other", a="b")
    desk.break_at("secret/data/app", lambda _: said)
    answers = await desk.provider.get_many([REF, "vault://secret/other#a"])
    error = answers[REF]
    assert isinstance(error, ProviderError)
    assert error.kind is kind
    assert CANARY not in everything_said(error)
    assert answers["vault://secret/other#a"] == Fetched(b"b", "1")


@pytest.mark.parametrize(
    ("said", "kind", "says"),
    [
        (Said(429, {"errors": [CANARY]}), K.RATE_LIMITED, "rate limit"),
        (Said(429, f"<html>{CANARY}".encode()), K.RATE_LIMITED, "rate limit"),
        (Said(412, {"errors": ["required index state not present"]}), K.UNREACHABLE, "caught up"),
        (Said(472, {"errors": []}), K.UNREACHABLE, "standby"),
        (Said(473, {"errors": []}), K.UNREACHABLE, "standby"),
        (Said(501, {"errors": []}), K.UNREACHABLE, "not initialized"),
        (Said(502, f"<html>{CANARY}".encode()), K.UNREACHABLE, "out of order"),
        (Said(503, {"errors": ["Vault is sealed"]}), K.UNREACHABLE, "is sealed"),
        (Said(503, {"errors": ["local node not active but active cluster node not found"]}), K.UNREACHABLE, "standby"),
        (Said(503, f"<html>{CANARY}".encode()), K.UNREACHABLE, "out of order"),
        (Said(504), K.UNREACHABLE, "out of order"),
        (Said(200, b"{", {"Content-Length": "9999", "Connection": "close"}), K.UNREACHABLE, "cannot be reached"),
    ],
)
async def test_an_outage_is_of_the_whole_vault(desk: Desk, said: Said, kind: FailureKind, says: str) -> None:
    """Nothing is asked for a second, then two, and so on; an answer ends that."""
    await desk.get(REF)
    said.headers.setdefault("Connection", "close")
    for wait in (1, 2, 4):
        desk.vault.fault = lambda asked: said
        error = await failure_of(desk.get(REF))
        assert (error.kind, says in str(error)) == (kind, True)
        assert CANARY not in everything_said(error)
        asked = len(desk.vault.asked)
        assert (await failure_of(desk.get(REF))).retry_after == wait * 1000
        assert len(desk.vault.asked) == asked
        desk.vault.clock += wait
    desk.vault.fault = lambda asked: None
    assert await desk.value(REF) == f"{CANARY}-1"


@pytest.mark.parametrize(
    ("text", "wait"), [("7", 7), ("99999", 3600), ("-1", None), ("soon", None), ("9" * 400, None), ("", None)]
)
async def test_a_rate_limit_is_waited_out_as_vault_says(desk: Desk, text: str, wait: int | None) -> None:
    """In whole seconds, an hour at most; without a word of it for a second."""
    await desk.get(REF)
    desk.break_at("secret/", lambda _: Said(429, {}, {"Retry-After": text}))
    assert (await failure_of(desk.get(REF))).retry_after == (None if wait is None else wait * 1000)
    asked = len(desk.vault.asked)
    desk.vault.clock += (wait or 1) - 0.5
    error = await failure_of(desk.get(REF))
    assert (error.kind, error.retry_after, len(desk.vault.asked)) == (K.RATE_LIMITED, 500, asked)
    desk.vault.clock += 0.5
    desk.vault.fault = lambda asked: None
    assert await desk.value(REF) == f"{CANARY}-1"


async def test_a_vault_that_went_away_is_unreachable() -> None:
    """A closed port, in words of our own."""
    vault = make_server()
    with serving(vault) as url:
        desk = Desk(vault, url)
        await desk.get(REF)
    error = await failure_of(desk.get(REF))
    assert error.kind is K.UNREACHABLE
    assert "127.0.0.1" not in everything_said(error)
    assert not (await desk.provider.health()).ok
    await desk.provider.close()


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_no_redirect_is_followed(desk: Desk, status: int) -> None:
    """A standby, or whoever answers in its place, cannot send token and secrets to another host."""
    elsewhere = FakeVault()
    with serving(elsewhere) as other:
        for path in ("auth/token/lookup-self", "sys/internal", "secret/data"):
            provider = desk.another()
            desk.break_at(path, lambda asked: Said(status, b"", {"Location": f"{other}/v1/{asked.path}"}))
            error = await failure_of(provider.get_many([REF]))
            assert error.kind is K.UNREACHABLE
            assert "no redirect is followed" in str(error)
            await provider.close()
    assert elsewhere.asked == []


async def test_a_closed_provider_keeps_its_token_alive(desk: Desk) -> None:
    """Credentials that agents hold would end with it; nothing is asked any more."""
    await desk.get(PASSWORD)
    await desk.provider.close()
    assert not [path for path in desk.vault.paths() if "revoke" in path]
    asked = len(desk.vault.asked)
    assert (await failure_of(desk.get(REF))).kind is K.UNREACHABLE
    assert (await failure_of(desk.provider.revoke("database/creds/reader/1"))).kind is K.UNREACHABLE
    assert len(desk.vault.asked) == asked
