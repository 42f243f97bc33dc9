"""Vault over a fake server: what is read, lent, written and refused, and what never leaks."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from desk_workbench import until
from hashicorp_server import DENIED, Asked, FakeToken, FakeVault, Said, serving
from hashicorp_workbench import make_vault, under_way
from provider_conformance import CANARY, everything_said, failure_of

from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.ports import DynamicProvider, Fetched
from broker_worker.providers.vault.client import MAX_ANSWER
from broker_worker.providers.vault.provider import CONCURRENCY, VaultProvider

K = FailureKind
REF = "vault://secret/app/db#password"
USERNAME, PASSWORD = "vault://database/creds/reader#username", "vault://database/creds/reader#password"


def held(gate: threading.Event) -> None:
    """Hold up a request until a test lets it go on; it is served then."""
    gate.wait(45)


@dataclass
class Desk:
    """A provider and the fake that it talks to."""

    vault: FakeVault
    url: str
    provider: VaultProvider = field(init=False)

    def __post_init__(self) -> None:
        self.provider = self.another()

    def another(self, **options: Any) -> VaultProvider:
        return make_vault(self.url, {"VAULT_TOKEN": "root-token"}, lambda: self.vault.clock, **options)

    async def get(self, *refs: str) -> list[Fetched | ProviderError]:
        return list((await self.provider.get_many(refs)).values())

    async def value(self, ref: str) -> str:
        (answer,) = await self.get(ref)
        assert isinstance(answer, Fetched), answer
        return answer.value.decode()

    async def error(self, ref: str = REF) -> ProviderError:
        (answer,) = await self.get(ref)
        assert isinstance(answer, ProviderError)
        return answer

    def break_at(self, beginning: str, said: Callable[[Asked], Said | None]) -> None:
        """Have requests from a path on answered otherwise."""
        self.vault.fault = lambda asked: said(asked) if asked.path.startswith(beginning) else None


@pytest.fixture
def vault() -> FakeVault:
    """A server with one secret of two fields."""
    made = FakeVault()
    made.put("secret/app/db", user="reader", password=f"{CANARY}-1")
    return made


@pytest.fixture
def url(vault: FakeVault) -> Iterator[str]:
    """Where it listens."""
    with serving(vault) as url:
        yield url


@pytest.fixture
async def desk(vault: FakeVault, url: str) -> AsyncIterator[Desk]:
    """A provider that was asked nothing yet."""
    made = Desk(vault, url)
    yield made
    await made.provider.close()


# --- stored secrets ------------------------------------------------------------------------------------------------


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


# --- credentials that Vault makes ----------------------------------------------------------------------------------


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


# --- writing -------------------------------------------------------------------------------------------------------


async def test_the_other_fields_stay(desk: Desk) -> None:
    """One field changes, in a new version."""
    assert await desk.provider.put(REF, b"new") == "2"
    assert desk.vault.versions["secret/app/db"][-1] == {"user": "reader", "password": "new"}


async def test_somebody_elses_field_is_not_lost(desk: Desk) -> None:
    """What was written between our reading and our writing is kept: the write is prepared anew."""

    def interfere(asked: Asked) -> None:
        if asked.method == "POST" and len(desk.vault.versions["secret/app/db"]) == 1:
            desk.vault.put("secret/app/db", user="changed", password="old")

    desk.break_at("secret/data", interfere)
    assert await desk.provider.put(REF, b"new") == "3"
    assert desk.vault.versions["secret/app/db"][-1] == {"user": "changed", "password": "new"}


async def test_a_place_that_never_rests_is_a_conflict(desk: Desk) -> None:
    """After four tries."""

    def interfere(asked: Asked) -> None:
        if asked.method == "POST":
            desk.vault.put("secret/app/db", user="changed")

    desk.break_at("secret/data", interfere)
    error = await failure_of(desk.provider.put(REF, CANARY.encode()))
    assert error.kind is K.CONFLICT
    assert CANARY not in everything_said(error)
    assert len(desk.vault.versions["secret/app/db"]) == 5


async def test_a_new_field_beside_others_is_created(desk: Desk) -> None:
    """Create-only looks at the field, not at its neighbours; a removed secret can be made anew."""
    assert await desk.provider.put("vault://secret/app/db#third", b"3", expected="") == "2"
    desk.vault.versions["secret/app/db"][-1] = None
    assert await desk.provider.put(REF, b"again", expected="") == "3"
    assert desk.vault.versions["secret/app/db"][-1] == {"password": "again"}


async def test_version_1_of_the_engine_checks_by_reading_first(desk: Desk) -> None:
    """Create-only works as far as nobody writes in between; a version cannot be expected of it."""
    ref = "vault://old/app#key"
    assert await desk.provider.put(ref, b"1", expected="") is None
    assert (await failure_of(desk.provider.put(ref, b"2", expected=""))).kind is K.CONFLICT
    assert (await failure_of(desk.provider.put(ref, b"2", expected="1"))).kind is K.CONFLICT
    assert await desk.provider.put("vault://old/app#other", b"3") is None
    assert desk.vault.stored["old/app"] == {"key": "1", "other": "3"}


@pytest.mark.parametrize(
    ("ref", "value", "kind"),
    [
        (PASSWORD, b"x", K.READ_ONLY),
        ("vault://secret/app/db#*", b"x", K.BAD_REFERENCE),
        ("vault://secret/app/db?version=1#password", b"x", K.BAD_REFERENCE),
        ("vault://secret/app", b"x", K.BAD_REFERENCE),
        (REF, b"", K.TOO_LARGE),
        (REF, b"x" * (128 * 1024 + 1), K.TOO_LARGE),
        (REF, CANARY.encode() + b"\xff", K.UNKNOWN),
    ],
)
async def test_what_cannot_be_written_is_refused(desk: Desk, ref: str, value: bytes, kind: FailureKind) -> None:
    """Before anything is sent that would change something."""
    error = await failure_of(desk.provider.put(ref, value))
    assert error.kind is kind
    assert CANARY not in everything_said(error)
    assert {asked.method for asked in desk.vault.asked} <= {"GET"}


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("mount", ["secret", "old"])
@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (Said(403, {"errors": [DENIED]}), K.FORBIDDEN),
        (Said(500, {"errors": [CANARY]}), K.UNKNOWN),
        (Said(503, {"errors": ["Vault is sealed"]}), K.UNREACHABLE),
        (Said(200, b"<html>"), K.UNKNOWN),
        (Said(404, b"<html>"), K.UNKNOWN),
    ],
)
async def test_a_write_that_fails_says_why(desk: Desk, method: str, mount: str, said: Said, kind: FailureKind) -> None:
    """While it reads what is there, and while it writes; nothing is written on an answer that is not understood."""
    desk.vault.stored["old/app/db"] = {"password": "1"}
    desk.break_at(f"{mount}/", lambda asked: said if asked.method == method else None)
    error = await failure_of(desk.provider.put(f"vault://{mount}/app/db#password", CANARY.encode()))
    assert error.kind is kind
    assert CANARY not in everything_said(error)
    assert len(desk.vault.versions["secret/app/db"]) == 1
    assert desk.vault.stored["old/app/db"] == {"password": "1"}


# --- failures ------------------------------------------------------------------------------------------------------


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


async def test_a_vault_that_went_away_is_unreachable(vault: FakeVault) -> None:
    """A closed port, in words of our own."""
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


async def test_nothing_of_a_secret_is_shown(desk: Desk) -> None:
    """Neither by the provider, nor by answers, nor by what a failing call leaves behind."""
    await desk.get(USERNAME, PASSWORD, REF)
    things: list[object] = [desk.provider, *vars(desk.provider).values(), *await desk.get(REF, PASSWORD)]
    desk.vault.fault = lambda asked: Said(400, {"errors": [CANARY]})
    things.append(await desk.error())
    said = "\n".join(everything_said(thing) for thing in things)
    assert CANARY not in said
    assert "root-token" not in said


async def test_a_closed_provider_keeps_its_token_alive(desk: Desk) -> None:
    """Credentials that agents hold would end with it; nothing is asked any more."""
    await desk.get(PASSWORD)
    await desk.provider.close()
    assert not [path for path in desk.vault.paths() if "revoke" in path]
    asked = len(desk.vault.asked)
    assert (await failure_of(desk.get(REF))).kind is K.UNREACHABLE
    assert (await failure_of(desk.provider.revoke("database/creds/reader/1"))).kind is K.UNREACHABLE
    assert len(desk.vault.asked) == asked
