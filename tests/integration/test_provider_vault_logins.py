"""Logins to Vault: what each method shows, how few there are, and how rarely refused credentials are tried."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hashicorp_server import FakeToken, Said
from provider_conformance import CANARY, everything_said, failure_of
from vault_site import APPROLE, Site, open_site, refused, served
from vault_workbench import StateNotebook

from broker_worker.core.errors import FailureKind
from broker_worker.ports import DynamicProvider
from broker_worker.providers.governor import governor_of
from broker_worker.providers.resilient import resilient

K = FailureKind


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    """A server, and providers that are closed in the end."""
    async with open_site() as site:
        yield site


@pytest.mark.parametrize(
    ("options", "mount", "shown"),
    [
        ({"auth": "approle", "role_id": "r"}, "approle", {"role_id": "r", "secret_id": "secret-1"}),
        ({"auth": "approle", "role_id": "r", "auth_mount": "ci/a"}, "ci/a", {"role_id": "r", "secret_id": "secret-1"}),
        ({"auth": "kubernetes", "role": "broker"}, "kubernetes", {"role": "broker", "jwt": "eyJ.a.b"}),
        ({"auth": "jwt", "role": "broker"}, "jwt", {"role": "broker", "jwt": "eyJ.a.b"}),
        ({"auth": "jwt", "role": "broker", "auth_mount": "gitlab"}, "gitlab", {"role": "broker", "jwt": "eyJ.a.b"}),
    ],
)
async def test_each_method_shows_its_own_credentials(
    site: Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    mount: str,
    shown: dict[str, str],
) -> None:
    """At the method's mount and with no token of the environment; the one that comes back is used from then on."""
    monkeypatch.setenv("VAULT_TOKEN", CANARY)
    (tmp_path / "jwt").write_text("eyJ.a.b\n")
    if "role" in options:
        options = {**options, "jwt_file": str(tmp_path / "jwt")}
    site.vault.logins = {mount: shown}
    assert await served(site.provider(**options))
    assert (site.vault.asked[0].path, site.vault.asked[0].token) == (f"auth/{mount}/login", "")
    assert {asked.token for asked in site.vault.asked[1:]} == {"hvs.1"}


async def test_one_login_serves_everybody(site: Site) -> None:
    """However many ask at once and again."""
    provider = site.provider(**APPROLE)
    await asyncio.gather(*(served(provider) for _ in range(20)))
    assert site.logins() == 1


async def test_a_cancelled_caller_does_not_cancel_the_login(site: Site) -> None:
    """Others wait for the same one."""
    provider = site.provider(**APPROLE)
    first, second = asyncio.create_task(served(provider)), asyncio.create_task(served(provider))
    await asyncio.sleep(0)
    first.cancel()
    assert await second
    assert site.logins() == 1


async def test_files_are_read_at_each_login(site: Site, tmp_path: Path) -> None:
    """A secret id that was replaced counts when the token ends."""
    file = tmp_path / "secret-id"
    file.touch(0o600)
    file.write_text("secret-1\n")
    site.vault.issues = FakeToken(ttl=600, is_renewable=False)
    provider = site.provider(**APPROLE, secret_id_file=str(file))
    assert await served(provider)
    file.write_text("secret-2\n")
    site.vault.logins["approle"]["secret_id"] = "secret-2"
    site.vault.clock += 600
    assert await served(provider)
    assert site.logins() == 2


async def test_a_file_that_others_may_read_is_refused(site: Site, tmp_path: Path) -> None:
    """A secret id or token belongs to the broker alone; the health says how to mend it."""
    file = tmp_path / "token"
    file.write_text("root-token")
    file.chmod(0o644)
    provider = site.provider(token_file=str(file))
    health = await provider.health()
    assert "0644" in health.detail
    assert "chmod 600" in health.hint
    file.chmod(0o600)
    assert (await provider.health()).ok


@pytest.mark.parametrize("text", ["", " ", "two words", "line\nline", "ü", "x" * 20_000, f"{CANARY}\x00"])
async def test_what_is_no_credential_is_not_sent(site: Site, tmp_path: Path, text: str) -> None:
    """Nor repeated."""
    file = tmp_path / "token"
    file.touch(0o600)
    file.write_text(text)
    error = await refused(site.provider(token_file=str(file)))
    assert error.kind is K.UNAUTHENTICATED
    assert CANARY not in everything_said(error)
    assert site.vault.asked == []


@pytest.mark.parametrize(
    ("environ", "options", "says", "hint"),
    [
        ({}, {}, "VAULT_TOKEN is not set", "before the broker starts"),
        ({}, {"token_env": "MY_TOKEN"}, "MY_TOKEN is not set", "token_file"),
        ({}, APPROLE, "VAULT_SECRET_ID is not set", "secret_id_file"),
        ({}, {"token_file": "/nowhere/token"}, "does not exist", "put the token there"),
        ({}, {"auth": "kubernetes", "role": "r", "jwt_file": "/nowhere/jwt"}, "cannot be read", "jwt_file"),
    ],
)
async def test_what_is_missing_is_a_health_problem(
    site: Site, environ: dict[str, str], options: dict[str, Any], says: str, hint: str
) -> None:
    """The provider is made, says what is missing, and what to do; when it is there, it counts at once."""
    health = await site.provider(environ, **options).health()
    assert not health.ok
    assert says in health.detail
    assert hint in health.hint
    assert site.vault.asked == []


async def test_taking_credentials_back_tries_bad_credentials_as_rarely(site: Site) -> None:
    """Whatever the layer before it does: orders to take credentials back wait there for no circuit breaker."""
    site.vault.logins.clear()
    provider = resilient(inner := site.provider(**APPROLE), governor_of(inner, StateNotebook(), None))
    assert isinstance(provider, DynamicProvider)
    for number in range(10):
        assert (await failure_of(provider.revoke(f"database/creds/x/{number}"))).kind is K.UNAUTHENTICATED
    assert site.logins() == 1


async def test_bad_credentials_are_not_tried_again_and_again(site: Site) -> None:
    """For 60 s, then 120 s, up to an hour: a hundred calls cost one login."""
    site.vault.logins.clear()
    provider = site.provider(**APPROLE)
    for logins, wait in ((1, 60), (2, 120), (3, 240)):
        errors = [await refused(provider) for _ in range(25)]
        assert site.logins() == logins
        assert {error.kind for error in errors} == {K.UNAUTHENTICATED}
        assert errors[1].retry_after == wait * 1000
        site.vault.clock += wait
    for _ in range(20):
        await refused(provider)
        site.vault.clock += 3600
    assert site.logins() == 23


async def test_replaced_credentials_count_at_once(site: Site, tmp_path: Path) -> None:
    """Another token in the file ends the wait that the refused one caused."""
    file = tmp_path / "token"
    file.touch(0o600)
    file.write_text("wrong")
    provider = site.provider(token_file=str(file))
    await refused(provider)
    assert (await refused(provider)).retry_after == 60_000
    file.write_text("root-token")
    assert await served(provider)


async def test_a_fingerprint_tells_other_credentials_from_these(site: Site, tmp_path: Path) -> None:
    """So that all workers know that a refused one was replaced; none at all is one of its own."""
    file = tmp_path / "token"
    provider = site.provider(token_file=str(file))
    found = [provider.fingerprint(bytes(16))]
    file.touch(0o600)
    for text in ("wrong", "root-token", "root-token\n"):
        file.write_text(text)
        found.append(provider.fingerprint(bytes(16)))
    assert len(set(found)) == 3
    assert found[2] == found[3]
    assert site.vault.asked == []


@pytest.mark.parametrize(
    ("said", "kind", "wait"),
    [
        (Said(400, {"errors": [f"invalid role or secret ID {CANARY}"]}), K.UNAUTHENTICATED, 60),
        (Said(403, {"errors": ["permission denied"]}), K.UNAUTHENTICATED, 60),
        (Said(404, {"errors": [f'no handler for route "{CANARY}"']}), K.UNAUTHENTICATED, 60),
        (Said(403, f"<html>{CANARY}".encode()), K.UNKNOWN, 60),
        (Said(200, b"<html>"), K.UNKNOWN, 60),
        (Said(200, {"auth": None}), K.UNKNOWN, 60),
        (Said(200, {"auth": {"client_token": "a b", "lease_duration": 1}}), K.UNKNOWN, 60),
        (Said(200, {"auth": {"client_token": "a\r\nX-Vault-Token: b", "lease_duration": 1}}), K.UNKNOWN, 60),
        (Said(200, {"auth": {"client_token": "a", "lease_duration": "1h"}}), K.UNKNOWN, 60),
        (Said(200, {"auth": {"client_token": "a", "lease_duration": -1}}), K.UNKNOWN, 60),
        (Said(429, {"errors": ["slow down"]}), K.RATE_LIMITED, 1),
        (Said(503, {"errors": ["Vault is sealed"]}), K.UNREACHABLE, 1),
        (Said(502, f"<html>{CANARY}".encode()), K.UNREACHABLE, 1),
        (Said(307, b"", {"Location": "http://127.0.0.1:9/"}), K.UNREACHABLE, 1),
    ],
)
async def test_logins_that_fail_are_told_apart(site: Site, said: Said, kind: FailureKind, wait: int) -> None:
    """A refusal waits a minute, an outage a second; nothing that Vault said is repeated."""
    provider = site.provider(**APPROLE)
    site.vault.fault = lambda asked: said if asked.path.endswith("/login") else None
    errors = [await refused(provider) for _ in range(2)]
    assert [error.kind for error in errors] == [kind, kind]
    assert errors[1].retry_after == wait * 1000
    assert CANARY not in "".join(map(everything_said, errors))
    assert site.logins() == 1
    site.vault.fault = lambda asked: None
    site.vault.clock += wait
    assert await served(provider)


async def test_closing_ends_a_login_under_way(site: Site) -> None:
    """Whoever waits for it gets an error, and no timer is left."""
    provider = site.provider(**APPROLE)
    site.vault.issues = replace(site.vault.issues, ttl=1)
    waits = asyncio.create_task(refused(provider))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await provider.close()
    assert (await waits).kind is K.UNREACHABLE
