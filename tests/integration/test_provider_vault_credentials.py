"""Credentials that Vault makes: what belongs together, how long it lasts, and who gives it back."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest
from desk_workbench import until
from hashicorp_server import DENIED, FakeToken, Said
from hashicorp_workbench import PASSWORD, REF, USERNAME, Desk, held, open_desk, under_way
from provider_conformance import CANARY, everything_said, failure_of

from broker_worker.core.errors import FailureKind
from broker_worker.ports import DynamicProvider, Fetched

K = FailureKind


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    """A provider that was asked nothing yet."""
    async with open_desk() as desk:
        yield desk


async def test_fields_of_a_credential_belong_together(desk: Desk) -> None:
    """User name and password that are asked together come from one reading, with one lease and one version."""
    username, password = await desk.get(USERNAME, PASSWORD)
    assert isinstance(username, Fetched)
    assert isinstance(password, Fetched)
    assert username.value.decode().replace("user", "pass") == password.value.decode()
    assert username.upstream_lease == password.upstream_lease == "database/creds/reader/lease-1"
    assert username.version == password.version
    assert username.version is not None
    assert "lease-1" not in username.version
    assert desk.vault.paths("database/") == ["database/creds/reader"]
    (again,) = await desk.get(PASSWORD)
    assert isinstance(again, Fetched)
    assert again.version != password.version


@pytest.mark.parametrize(
    ("lease_seconds", "longest", "is_renewable", "lasts"),
    [(60, 7200, True, 3600), (60, 600, True, 600), (60, 7200, False, 60), (7200, 7200, True, 7200)],
)
async def test_a_short_lease_is_renewed_as_far_as_it_goes(
    desk: Desk, lease_seconds: int, longest: int, is_renewable: bool, lasts: int
) -> None:
    """Up to `lease_seconds`, an hour by default; what Vault grants is what is promised."""
    vault = desk.vault
    vault.lease_seconds, vault.longest_lease, vault.is_lease_renewable = lease_seconds, longest, is_renewable
    (answer,) = await desk.get(PASSWORD)
    assert isinstance(answer, Fetched)
    assert answer.lasts_ms == lasts * 1000
    assert vault.leases == {answer.upstream_lease: lasts}


async def test_a_lease_that_may_not_be_renewed_is_used_as_it_is(desk: Desk) -> None:
    """A policy without `sys/leases/renew` costs length, not the credential."""
    desk.break_at("sys/leases/renew", lambda _: Said(403, {"errors": [DENIED]}))
    (answer,) = await desk.get(PASSWORD)
    assert isinstance(answer, Fetched)
    assert answer.lasts_ms == 60_000


async def test_a_credential_lasts_no_longer_than_the_token_that_made_it(desk: Desk) -> None:
    """Vault ends it with its token."""
    desk.vault.tokens["root-token"] = FakeToken(desk.vault.clock + 300, 300)
    (answer,) = await desk.get(PASSWORD)
    assert isinstance(answer, Fetched)
    assert answer.lasts_ms is not None
    assert 290_000 <= answer.lasts_ms <= 300_000


async def test_another_process_takes_a_credential_back(desk: Desk) -> None:
    """The one that revokes upstream logs in for itself; Vault has done it before it answers."""
    (answer,) = await desk.get(PASSWORD)
    assert isinstance(answer, Fetched)
    assert answer.upstream_lease is not None
    other = desk.another()
    assert isinstance(other, DynamicProvider)
    await other.revoke(answer.upstream_lease)
    await other.revoke(answer.upstream_lease)
    await other.close()
    assert desk.vault.leases == {}
    assert desk.vault.asked[-1].body == {"lease_id": answer.upstream_lease, "sync": True}


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (Said(404, {"errors": ["no handler for route"]}), None),
        (Said(403, {"errors": [DENIED]}), K.FORBIDDEN),
        (Said(500, {"errors": [f"failed to revoke {CANARY}"]}), K.UNKNOWN),
        (Said(503, {"errors": ["Vault is sealed"]}), K.UNREACHABLE),
        (Said(400, {"errors": ["failed"]}), K.UNKNOWN),
        (Said(200, b"<html>"), K.UNKNOWN),
    ],
)
async def test_a_revocation_counts_when_vault_confirmed_it(desk: Desk, said: Said, kind: FailureKind | None) -> None:
    """Whatever else it says is an error, and is tried again; an engine that is gone took its credentials along."""
    desk.break_at("sys/leases/revoke", lambda _: said)
    if kind is None:
        await desk.provider.revoke("database/creds/reader/1")
        return
    error = await failure_of(desk.provider.revoke("database/creds/reader/1"))
    assert error.kind is kind
    assert CANARY not in everything_said(error)


async def test_a_credential_that_nobody_gets_is_given_back(desk: Desk) -> None:
    """A reference to a field that it does not have has made one for nothing."""
    assert (await desk.error("vault://database/creds/reader#nothing")).kind is K.NOT_FOUND
    await until(lambda: desk.vault.given_back)
    assert desk.vault.leases == {}


async def test_a_credential_that_comes_too_late_is_given_back(desk: Desk) -> None:
    """Whoever asked was cancelled while Vault made it."""
    gate = threading.Event()
    desk.break_at("database/", lambda _: held(gate))
    call = asyncio.create_task(desk.get(PASSWORD))
    await until(lambda: desk.vault.paths("database/"))
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    gate.set()
    await until(lambda: desk.vault.given_back)
    assert desk.vault.leases == {}


async def test_a_credential_is_given_back_if_the_call_ends_for_another_path(desk: Desk) -> None:
    """It was made in time, but the call was cancelled while another path was waited for."""
    gate = threading.Event()
    desk.break_at("secret/", lambda _: held(gate))
    call = asyncio.create_task(desk.get(PASSWORD, REF))
    await until(lambda: desk.vault.paths("secret/") and desk.vault.leases)
    await until(lambda: len(under_way("_read")) == 1)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    gate.set()
    await until(lambda: desk.vault.given_back)
    assert desk.vault.leases == {}


async def test_an_unknown_role_and_a_broken_engine_are_told_apart(desk: Desk) -> None:
    """The latter is not the name's fault, and not the whole Vault's: other paths are served meanwhile."""
    desk.break_at("database/", lambda _: Said(400, {"errors": ["unknown role: reader"]}))
    assert (await desk.error(PASSWORD)).kind is K.NOT_FOUND
    desk.break_at("database/", lambda _: Said(500, {"errors": [f"failed to get connection: {CANARY}"]}))
    error = await desk.error(PASSWORD)
    assert error.kind is K.UNKNOWN
    assert not error.is_about_the_name
    assert CANARY not in everything_said(error)
    assert await desk.value(REF) == f"{CANARY}-1"
