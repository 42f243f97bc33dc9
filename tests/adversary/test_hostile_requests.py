"""Everything that a compromised agent can write to its own stream, with its own key and any token that it can make.

Each is refused with a record, nothing is released, and the next good request is answered by the same worker.
"""

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Callable
from typing import Any

import nacl.bindings as sodium
import pytest
from broker_home import Home, HostileRun
from desk_workbench import until

from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import Reply, encode_request
from agent_sdk.wire.sealing import run_public_key
from agent_sdk.wire.tokens import key_thumbprint, subject

ATTACKER = bytes([66]) * 32
HOUR = 3600


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def ed25519(seed: bytes) -> Callable[[bytes], bytes]:
    """Signs as an issuer with that seed would."""
    _, secret = sodium.crypto_sign_seed_keypair(seed)
    return lambda message: sodium.crypto_sign(message, secret)[:64]


class Forge:
    """Makes tokens for a run: right in everything but what a test changes."""

    def __init__(self, home: Home, run: HostileRun) -> None:
        self.home, self.run = home, run
        self.anchor = run_public_key(home.issuer_seed)
        self.now = home.clock.now() // 1000

    def token(
        self,
        header: dict[str, Any] | None = None,
        claims: dict[str, Any] | None = None,
        sign: Callable[[bytes], bytes] | None = None,
        without: str = "",
    ) -> str:
        """A compact JWT; `header` and `claims` are laid over the right ones."""
        run_id, agent = self.run.credential.run_id, self.run.agent
        jwk = {"kty": "OKP", "crv": "Ed25519", "x": b64(self.run.credential.run_public_key), "alg": "Ed25519"}
        all_claims: dict[str, Any] = {
            "iss": "local",
            "sub": subject("secret-broker.local", agent, run_id),
            "agent_id": agent,
            "run_id": run_id,
            "iat": self.now,
            "exp": self.now + HOUR,
            "jti": "t-1",
            "cnf": {"jwk": jwk},
            **(claims or {}),
        }
        all_claims.pop(without, None)
        full_header = {"alg": "Ed25519", "typ": "wit+jwt", "kid": key_thumbprint(self.anchor), **(header or {})}
        signed = f"{b64(json.dumps(full_header).encode())}.{b64(json.dumps(all_claims).encode())}"
        return f"{signed}.{b64((sign or ed25519(self.home.issuer_seed))(signed.encode()))}"

    def hs256(self, key: bytes) -> Callable[[bytes], bytes]:
        """The oldest trick: the public key as the secret of a symmetric signature."""
        return lambda message: hmac.new(key, message, hashlib.sha256).digest()


class Trial:
    """One hostile run against a real worker."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.run = home.run()
        self.forge = Forge(home, self.run)

    async def refusal(self, *raws: bytes, stream_of: HostileRun | None = None) -> tuple[Reply | None, str | None]:
        """Write entries; return the answer to them, if any, and the reason on record. Then ask for something good."""
        writer = stream_of or self.run
        async with self.home.working(), self.home.client(writer.agent) as good:
            with writer.connect() as redis:
                writer.write(redis, *raws)
                await until(lambda: self.home.records())
                assert (await good.get("openai.api_key")).reveal() == "value of openai"
                with self.home.redis() as broker:
                    await until(lambda: not broker.xlen(writer.requests))
            with self.run.connect() as redis:
                answers = await self.run.answers(redis)
        granted = [record for record in self.home.records("access") if record.outcome == "granted"]
        assert [record.run_key for record in granted] != [self.run.channel.replies.rpartition(":")[2]]
        assert len(granted) == 1
        refused = [record for record in self.home.records() if record.outcome == "refused"]
        return (answers[0] if answers else None), refused[0].reason


@pytest.fixture
def trial(home: Home) -> Trial:
    return Trial(home)


# --- bytes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda run: b"", "malformed"),
        (lambda run: secrets.token_bytes(500), "malformed"),
        (lambda run: b"\x91" * 200_000, "malformed"),
        (lambda run: b"\xdd\xff\xff\xff\xff", "malformed"),
        (lambda run: bytes(300_000), "too_large"),
        (lambda run: run.seal_bytes(b"\x91" * 200_000), "malformed"),
        (lambda run: run.seal_bytes(b"\xdf\xff\xff\xff\xff"), "malformed"),
        (lambda run: run.seal_bytes(encode_request(run.request(*[f"n{n}" for n in range(65)]))), "malformed"),
        (lambda run: run.seal_bytes(encode_request(run.request("a")).replace(b"\x91\xa1a", b"\x90")), "malformed"),
        (lambda run: run.seal_bytes(encode_request(run.request("OPENAI.api_key"))), "bad_name"),
        (lambda run: run.seal_bytes(encode_request(run.request("openai.ap\u0456_key"))), "bad_name"),
        (lambda run: run.seal_bytes(encode_request(run.request("openai..api_key"))), "bad_name"),
        (lambda run: run.seal_bytes(encode_request(run.request("../openai.api_key"))), "bad_name"),
        (lambda run: run.seal_bytes(encode_request(run.request("openai.api_key\x00"))), "bad_name"),
        (lambda run: run.seal_bytes(encode_request(run.request("openai.api_key", purpose="x" * 257))), "malformed"),
        (lambda run: run.seal_bytes(encode_request(run.request("openai.api_key", token="x" * 4097))), "malformed"),
        (lambda run: run.seal_bytes(encode_request(run.request("openai.api_key", ttl=2**40))), "malformed"),
    ],
)
async def test_bytes_that_do_not_follow_the_contract(
    trial: Trial, make: Callable[[HostileRun], bytes], reason: str
) -> None:
    """Junk, over-long, deeply nested, names that are nearly right: no answer, a record, and on with the next."""
    assert await trial.refusal(make(trial.run)) == (None, reason)


async def test_an_entry_of_several_fields(trial: Trial, home: Home) -> None:
    """However good one of them is, it is not looked at."""
    run = trial.run
    async with home.working(), home.client() as good:
        with run.connect() as redis:
            redis.xadd(run.requests, {b"m": run.sealed("openai.api_key"), b"x": b"y"})
            redis.xadd(run.requests, {b"x": run.sealed("openai.api_key")})
            await good.get("openai.api_key")
            await until(lambda: home.records("unauthenticated"))
            assert await run.answers(redis) == []
    assert {record.reason for record in home.records("unauthenticated")} == {"not_one_field"}


# --- tokens ------------------------------------------------------------------------------------------------------

TOKENS: dict[str, tuple[Callable[[Forge], str], Code, str]] = {
    "alg none": (lambda f: f.token({"alg": "none"}, sign=lambda _: b""), Code.UNAUTHENTICATED, "bad_token"),
    "alg None": (lambda f: f.token({"alg": "None"}, sign=lambda _: b""), Code.UNAUTHENTICATED, "bad_token"),
    "HS256": (lambda f: f.token({"alg": "HS256"}, sign=f.hs256(f.anchor)), Code.UNAUTHENTICATED, "bad_token"),
    "Ed25519 by name, HS256 in truth": (lambda f: f.token(sign=f.hs256(f.anchor)), Code.UNAUTHENTICATED, "bad_token"),
    "signed by the run itself": (
        lambda f: f.token(sign=ed25519(f.run.credential.seed)),
        Code.UNAUTHENTICATED,
        "bad_token",
    ),
    "signed by another issuer": (lambda f: f.token(sign=ed25519(ATTACKER)), Code.UNAUTHENTICATED, "bad_token"),
    "another issuer with its own key id": (
        lambda f: f.token({"kid": key_thumbprint(run_public_key(ATTACKER))}, sign=ed25519(ATTACKER)),
        Code.UNAUTHENTICATED,
        "bad_token",
    ),
    "a key in the header": (
        lambda f: f.token({"jwk": {"kty": "OKP", "crv": "Ed25519", "x": b64(f.anchor)}}, sign=ed25519(ATTACKER)),
        Code.UNAUTHENTICATED,
        "bad_token",
    ),
    "critical header": (lambda f: f.token({"crit": ["exp"]}), Code.UNAUTHENTICATED, "bad_token"),
    "another type": (lambda f: f.token({"typ": "JWT"}), Code.UNAUTHENTICATED, "bad_token"),
    "not signed": (lambda f: f.token(sign=lambda _: b""), Code.UNAUTHENTICATED, "bad_token"),
    "no JWT": (lambda f: "a.b.c", Code.UNAUTHENTICATED, "bad_token"),
    "dots": (lambda f: "." * 50, Code.UNAUTHENTICATED, "bad_token"),
    "another issuer's name": (lambda f: f.token(claims={"iss": "other"}), Code.UNAUTHENTICATED, "bad_token"),
    "expired": (lambda f: f.token(claims={"iat": f.now - HOUR, "exp": f.now - 60}), Code.EXPIRED, "bad_token"),
    "not valid yet": (lambda f: f.token(claims={"iat": f.now + 60}), Code.UNAUTHENTICATED, "bad_token"),
    "valid for ever": (lambda f: f.token(claims={"exp": f.now + 10 * HOUR}), Code.UNAUTHENTICATED, "bad_token"),
    "over before it began": (lambda f: f.token(claims={"exp": f.now - 1}), Code.UNAUTHENTICATED, "bad_token"),
    "a time that is no number": (lambda f: f.token(claims={"exp": str(f.now)}), Code.UNAUTHENTICATED, "bad_token"),
    "a time with a fraction": (lambda f: f.token(claims={"exp": f.now + 0.5}), Code.UNAUTHENTICATED, "bad_token"),
    "a time that is true": (lambda f: f.token(claims={"iat": True}), Code.UNAUTHENTICATED, "bad_token"),
    "a time without end": (lambda f: f.token(claims={"exp": 10**300}), Code.UNAUTHENTICATED, "bad_token"),
    "no end": (lambda f: f.token(without="exp"), Code.UNAUTHENTICATED, "bad_token"),
    "sub of another agent": (
        lambda f: f.token(claims={"sub": subject("secret-broker.local", "codex", f.run.credential.run_id)}),
        Code.UNAUTHENTICATED,
        "bad_token",
    ),
    "sub of another run": (
        lambda f: f.token(claims={"sub": subject("secret-broker.local", "claude", "run-1")}),
        Code.UNAUTHENTICATED,
        "bad_token",
    ),
    "sub of another trust domain": (
        lambda f: f.token(claims={"sub": subject("evil.example", "claude", f.run.credential.run_id)}),
        Code.UNAUTHENTICATED,
        "bad_token",
    ),
    "another agent's": (
        lambda f: f.token(
            claims={"agent_id": "codex", "sub": subject("secret-broker.local", "codex", f.run.credential.run_id)}
        ),
        Code.UNAUTHENTICATED,
        "agent_disagrees",
    ),
    "bound to another key": (
        lambda f: f.home.run().credential.token,
        Code.UNAUTHENTICATED,
        "run_key_disagrees",
    ),
    "bound to no key": (lambda f: f.token(without="cnf"), Code.UNAUTHENTICATED, "bad_token"),
    "bound to two keys": (
        lambda f: f.token(claims={"cnf": {"jwk": {}, "kid": "x"}}),
        Code.UNAUTHENTICATED,
        "bad_token",
    ),
    "an agent id that is not canonical": (
        lambda f: f.token(claims={"agent_id": "Claude"}),
        Code.UNAUTHENTICATED,
        "bad_token",
    ),
    "a claim that nobody knows": (lambda f: f.token(claims={"admin": True}), Code.UNAUTHENTICATED, "bad_token"),
    "a scope that is no list": (lambda f: f.token(claims={"scope": "**"}), Code.UNAUTHENTICATED, "bad_token"),
    "a scope of bad patterns": (lambda f: f.token(claims={"scope": ["***"]}), Code.UNAUTHENTICATED, "bad_token"),
}


@pytest.mark.parametrize("case", TOKENS)
async def test_a_token_that_is_not_right(trial: Trial, case: str) -> None:
    """The run is told that it is not known, the audit that somebody tried, and nothing is released."""
    make, code, reason = TOKENS[case]
    reply, why = await trial.refusal(trial.run.sealed("openai.api_key", token=make(trial.forge)))
    assert reply is not None
    assert (reply.code, reply.results, why) == (code, (), reason)
    assert {record.event for record in trial.home.records() if record.outcome == "refused"} == {"unauthenticated"}


async def test_the_forge_makes_good_tokens(trial: Trial, home: Home) -> None:
    """Otherwise the refusals above would show nothing: unchanged, its token is accepted."""
    run = trial.run
    async with home.working():
        with run.connect() as redis:
            run.write(redis, run.sealed("openai.api_key", token=trial.forge.token()))
            (reply,) = await until(lambda: run.answers(redis))
    assert reply.status == "ok"


# --- messages in the wrong place, or twice -----------------------------------------------------------------------


async def test_a_message_of_one_agent_on_the_stream_of_another(trial: Trial, home: Home) -> None:
    """It does not open there: the stream is part of what was sealed."""
    thief = home.run("codex")
    assert await trial.refusal(trial.run.sealed("anthropic.api_key"), stream_of=thief) == (None, "cannot_open")


async def test_an_agent_with_its_own_key_and_token_on_its_own_stream_is_only_itself(home: Home) -> None:
    """A codex run that seals for claude's stream name cannot write there, and what it writes on its own is codex's."""
    run = home.run("codex")
    async with home.working():
        with run.connect() as redis:
            run.write(redis, run.sealed("anthropic.api_key", "github.read_token"))
            (reply,) = await until(lambda: run.answers(redis))
    assert [result.code for result in reply.results] == [Code.DENIED, None]


async def test_replays_are_refused_and_not_answered(home: Home) -> None:
    """The same bytes in ten entries: one answer, one access, and a count of the rest."""
    run = home.run()
    envelope = run.sealed("openai.api_key")
    async with home.working() as process:
        with run.connect() as redis:
            run.write(redis, *[envelope] * 10)
            await until(lambda: home.records("access"))
            with home.redis() as broker:
                await until(lambda: not broker.xlen(run.requests))
            assert len(await run.answers(redis)) == 1
        process.desk.close()
    assert len(home.records("access")) == 1
    assert sum(record.count or 1 for record in home.records("request_refused")) == 9
    assert {record.reason for record in home.records("request_refused")} == {"replay"}


async def test_one_request_id_with_other_names_is_a_replay_too(home: Home) -> None:
    """Who uses an id twice gets one answer."""
    run, request_id = home.run(), bytes(16)
    async with home.working():
        with run.connect() as redis:
            for name in ("openai.api_key", "anthropic.api_key"):
                run.write(redis, run.sealed(name, request_id=request_id))
            await until(lambda: home.records("request_refused") and home.records("access"))
            with home.redis() as broker:
                await until(lambda: not broker.xlen(run.requests))
            assert len(await run.answers(redis)) == 1
    assert [record.secret_name for record in home.records("access")] == ["openai.api_key"]


@pytest.mark.parametrize(
    ("shift", "times", "code"),
    [
        (0, (-600, -1), Code.EXPIRED),
        (0, (60, 120), Code.INVALID),
        (0, (0, 3600), Code.INVALID),
        (-120, (0, 15), Code.INVALID),
        (120, (0, 15), Code.EXPIRED),
        (-20, (0, 15), None),
        (10, (0, 15), None),
    ],
)
async def test_clocks_that_differ(home: Home, shift: int, times: tuple[int, int], code: Code | None) -> None:
    """Deadlines that passed, or lie too far ahead, and a broker whose clock is behind or ahead of the agent's."""
    run = home.run(run_id="run-1")
    now = home.clock.now()
    issued, deadline = (now + seconds * 1000 for seconds in times)
    token = Forge(home, run).token(claims={"iat": now // 1000 - 600})
    envelope = run.sealed("openai.api_key", issued_at=issued, deadline=deadline, token=token)
    home.clock.shift = shift * 1000
    async with home.working():
        with run.connect() as redis:
            run.write(redis, envelope)
            (reply,) = await until(lambda: run.answers(redis))
    assert reply.code == code
    assert len(home.records()) == 1


# --- floods ------------------------------------------------------------------------------------------------------


async def test_a_flood_of_junk_is_counted_and_costs_others_nothing(home: Home) -> None:
    """Thousands of messages: a few lines, the right number, and the other agent is answered meanwhile."""
    run, bad_token = home.run(), Forge(home, home.run()).token()
    envelopes = [b"junk"] * 1500 + [run.sealed("openai.api_key", token=bad_token) for _ in range(100)]
    async with home.working() as process, home.client("codex") as codex:
        with run.connect() as redis:
            pipeline = redis.pipeline(transaction=False)
            for envelope in envelopes:
                pipeline.xadd(run.requests, {b"m": envelope})
            pipeline.publish("sb:bell:{claude}", b"1")
            pipeline.execute()
        for _ in range(20):
            assert (await codex.get("openai.api_key")).reveal() == "value of openai"
        with home.redis() as broker:
            await until(lambda: not broker.xlen(run.requests))
        process.desk.close()
    counts: dict[str | None, int] = {}
    for record in home.records("unauthenticated"):
        counts[record.reason] = counts.get(record.reason, 0) + (record.count or 1)
    assert counts == {"malformed": 1500, "run_key_disagrees": 100}
    assert len(home.records("unauthenticated")) <= 6
    home.check_audit()
