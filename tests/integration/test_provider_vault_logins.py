"""Tokens of Vault: how they are had, kept alive, replaced, and how rarely refused ones are tried."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from desk_workbench import until
from hashicorp_server import DENIED, Asked, FakeToken, FakeVault, Said, serving
from hashicorp_workbench import make_vault, under_way
from provider_conformance import CANARY, everything_said, failure_of
from vault_workbench import StateNotebook

from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.ports import DynamicProvider, Fetched
from broker_worker.providers.governor import governor_of
from broker_worker.providers.resilient import resilient
from broker_worker.providers.vault.provider import VaultProvider

K = FailureKind
REF = "vault://secret/app#key"
APPROLE: dict[str, Any] = {"auth": "approle", "role_id": "role-1"}


class Site:
    """A server, and providers that log in to it."""

    def __init__(self, vault: FakeVault, url: str) -> None:
        self.vault, self.url = vault, url
        self.providers: list[VaultProvider] = []

    def provider(self, environ: dict[str, str] | None = None, **options: Any) -> VaultProvider:
        found = {"VAULT_SECRET_ID": "secret-1"} if environ is None else environ
        made = make_vault(self.url, found, lambda: self.vault.clock, **options)
        self.providers.append(made)
        return made

    def logins(self) -> int:
        return len([path for path in self.vault.paths("auth/") if path.endswith("/login")])


@pytest.fixture
def vault() -> FakeVault:
    """A server with a secret, where AppRole is set up."""
    made = FakeVault()
    made.put("secret/app", key=CANARY)
    made.logins["approle"] = {"role_id": "role-1", "secret_id": "secret-1"}
    return made


@pytest.fixture
async def site(vault: FakeVault, url: str) -> AsyncIterator[Site]:
    """It, with providers that are closed in the end."""
    made = Site(vault, url)
    yield made
    for provider in made.providers:
        await provider.close()


@pytest.fixture
def url(vault: FakeVault) -> Iterator[str]:
    """Where it listens."""
    with serving(vault) as url:
        yield url


async def served(provider: VaultProvider) -> bool:
    """Whether the secret comes out."""
    (answer,) = (await provider.get_many([REF])).values()
    return isinstance(answer, Fetched)


async def renewed() -> None:
    """Wait for the end of a renewal that is under way."""
    await until(lambda: not under_way("_renew"))


async def refused(provider: VaultProvider) -> ProviderError:
    return await failure_of(provider.get_many([REF]))


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


async def test_a_token_is_renewed_before_it_ends(site: Site) -> None:
    """After two thirds of its life, without anybody waiting for it; then it lives as long again."""
    provider = site.provider(**APPROLE)
    for renewals in range(1, 6):
        assert await served(provider)
        site.vault.clock += 401
        assert await served(provider)
        await renewed()
        assert len(site.vault.paths("auth/token/renew-self")) == renewals
    assert site.logins() == 1


async def test_a_token_is_renewed_although_nobody_asks(site: Site) -> None:
    """An idle weekend must not end a token that the operator gave, nor the credentials that were made with it."""
    site.vault.tokens["short"] = FakeToken(site.vault.clock + 1, 1)
    assert await served(site.provider({"VAULT_TOKEN": "short"}))
    await until(lambda: site.vault.paths("auth/token/renew-self"))


async def test_a_token_as_old_as_it_may_become_is_replaced(site: Site) -> None:
    """A renewal that gains nothing is the last; the next login comes when the token ends."""
    site.vault.issues = FakeToken(ttl=600)
    provider = site.provider(**APPROLE)
    assert await served(provider)
    ends = site.vault.clock + 600

    def at_its_limit(asked: Asked) -> Said | None:
        if asked.path != "auth/token/renew-self":
            return None
        rest = int(ends - site.vault.clock)
        return Said(200, {"auth": {"client_token": "hvs.1", "lease_duration": rest, "renewable": True}})

    site.vault.fault = at_its_limit
    for _ in range(10):
        site.vault.clock += 55
        assert await served(provider)
        await renewed()
    assert len(site.vault.paths("auth/token/renew-self")) == 1
    site.vault.clock += 60
    assert await served(provider)
    assert site.logins() == 2


@pytest.mark.parametrize(
    "said", [Said(403, {"errors": [DENIED]}), Said(403, {"errors": ["permission denied"]}), Said(400), Said(200, b"{")]
)
async def test_a_renewal_that_is_refused_costs_nobody_anything(site: Site, said: Said) -> None:
    """The token is used to its end, and then there is a new login."""
    provider = site.provider(**APPROLE)
    site.vault.fault = lambda asked: said if asked.path == "auth/token/renew-self" else None
    for seconds in (0, 401, 100, 101):
        site.vault.clock += seconds
        assert await served(provider)
        await renewed()
    assert site.logins() == 2


async def test_a_token_that_ends_early_is_replaced_unnoticed(site: Site) -> None:
    """Vault revoked it, or lost it: the call goes on with another one."""
    provider = site.provider(**APPROLE)
    assert await served(provider)
    site.vault.clock += 60
    site.vault.tokens.clear()
    assert all(await asyncio.gather(*(served(provider) for _ in range(8))))
    assert site.logins() == 2


async def test_a_token_that_ends_midway_costs_no_value(site: Site) -> None:
    """Of twenty paths half were read when it ended."""
    for number in range(20):
        site.vault.put(f"secret/many/{number}", key=str(number))
    provider = site.provider(**APPROLE)
    assert await served(provider)
    site.vault.clock += 60
    read = iter(range(100))

    def end(asked: Asked) -> None:
        if asked.path.startswith("secret/") and next(read) == 10:
            site.vault.tokens.clear()

    site.vault.fault = end
    refs = [f"vault://secret/many/{number}#key" for number in range(20)]
    answers = await provider.get_many(refs)
    assert [answer.value for answer in answers.values() if isinstance(answer, Fetched)] == [
        str(number).encode() for number in range(20)
    ]
    assert site.logins() == 2


async def test_tokens_that_are_refused_at_once_are_no_loop(site: Site) -> None:
    """A login that gives nothing of use is tried once a minute, then every two."""
    provider = site.provider(**APPROLE)
    site.vault.fault = lambda asked: (
        None if asked.path.endswith("/login") else Said(403, {"errors": ["permission denied"]})
    )
    for logins, wait in ((1, 60), (2, 120), (3, 240)):
        errors = [await refused(provider) for _ in range(5)]
        assert {error.kind for error in errors} == {K.UNAUTHENTICATED}
        assert errors[-1].retry_after == wait * 1000
        assert site.logins() == logins
        site.vault.clock += wait


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


async def test_a_path_that_is_not_allowed_does_not_question_the_token(site: Site) -> None:
    """It holds up no other path, and causes no login, also for a token that may not look itself up."""
    site.vault.put("secret/forbidden", key=CANARY)
    for may_look_up in (True, False):
        site.vault.issues = FakeToken(ttl=600, paths=("secret/app",), may_look_up=may_look_up)
        before, provider = site.logins(), site.provider(**APPROLE)
        answers = await provider.get_many(["vault://secret/forbidden#key", REF])
        error = answers["vault://secret/forbidden#key"]
        assert isinstance(error, ProviderError)
        assert error.kind is K.FORBIDDEN
        assert isinstance(answers[REF], Fetched)
        assert site.logins() == before + 1


async def test_vault_is_asked_before_a_token_counts_as_refused(site: Site) -> None:
    """A version that words a policy's refusal like that of a token must not stop everything."""
    provider = site.provider(**APPROLE)
    bare = Said(403, {"errors": ["permission denied"]})
    site.vault.put("secret/forbidden", key=CANARY)
    site.vault.fault = lambda asked: bare if asked.path == "secret/data/forbidden" else None
    answers = await provider.get_many(["vault://secret/forbidden#key", REF])
    error = answers["vault://secret/forbidden#key"]
    assert isinstance(error, ProviderError)
    assert error.kind is K.FORBIDDEN
    assert isinstance(answers[REF], Fetched)
    assert site.logins() == 1


async def test_an_operators_token_that_ended_is_said_to_be_refused(site: Site) -> None:
    """There is nothing to log in with; the hint says what to do."""
    site.vault.tokens["short"] = FakeToken(site.vault.clock + 600, 600, is_renewable=False)
    provider = site.provider({"VAULT_TOKEN": "short"})
    assert await served(provider)
    site.vault.clock += 600
    error = await refused(provider)
    assert error.kind is K.UNAUTHENTICATED
    assert "put a new one" in error.hint


async def test_writing_and_revoking_survive_the_end_of_a_token(site: Site) -> None:
    """What was refused was not done, so it can be done again with another token."""
    provider = site.provider(**APPROLE)
    for number in (2, 3):
        await provider.health()
        site.vault.clock += 60
        site.vault.tokens.clear()
        assert await provider.put(REF, b"new") == str(number)
        site.vault.clock += 60
        site.vault.tokens.clear()
        await provider.revoke("database/creds/reader/1")
    assert site.vault.given_back == ["database/creds/reader/1"] * 2


async def test_health_says_how_long_the_token_lives(site: Site) -> None:
    """And what is wrong while Vault is sealed, without raising."""
    assert (await site.provider({"VAULT_TOKEN": "root-token"}).health()).detail.endswith("its token has no end")
    provider = site.provider(**APPROLE)
    assert (await provider.health()).detail.endswith("its token ends in 595 s")
    site.vault.is_sealed = True
    health = await provider.health()
    assert (health.ok, health.detail) == (False, "Vault is sealed")
    assert "unseal" in health.hint


async def test_closing_ends_a_login_under_way(site: Site) -> None:
    """Whoever waits for it gets an error, and no timer is left."""
    provider = site.provider(**APPROLE)
    site.vault.issues = replace(site.vault.issues, ttl=1)
    waits = asyncio.create_task(refused(provider))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await provider.close()
    assert (await waits).kind is K.UNREACHABLE
