"""Tokens of Vault: how they are kept alive, replaced, and taken for what they are when they end."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from desk_workbench import until
from hashicorp_server import DENIED, Asked, FakeToken, Said
from provider_conformance import CANARY
from vault_site import APPROLE, REF, Site, open_site, refused, renewed, served

from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.ports import Fetched

K = FailureKind


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    """A server, and providers that are closed in the end."""
    async with open_site() as site:
        yield site


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
