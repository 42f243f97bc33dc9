"""A copy of a request gets no reply: one that says "replay" could overtake the one that the request is owed."""

from collections.abc import Sequence

import pytest

from agent_sdk.wire import keynames
from agent_sdk.wire.audit import AuditRecord
from agent_sdk.wire.messages import Request, Resolve, encode_request
from agent_sdk.wire.names import NamePattern
from agent_sdk.wire.sealing import Kind, Sealer, derive_key, key_id, run_exchange_public, run_public_key
from agent_sdk.wire.tokens import RunIdentity, TokenVerifier, TrustAnchor, sign_token
from broker_worker.cache.memory import MemoryCache
from broker_worker.core.configuration import CacheSettings, Configuration, SecretEntry
from broker_worker.core.policy import AgentPolicy, Grant, Origin, Policy
from broker_worker.pipeline.desk import Desk
from broker_worker.pipeline.opening import Intake, Opener
from broker_worker.pipeline.peers import PeerCache
from broker_worker.pipeline.session import start_session
from broker_worker.ports import AdmissionAsk, Entry, Fetched, Verdict

NOW = 1_800_000_000_000
RUN, ISSUER, IDENTITY = bytes([1]) * 32, bytes([2]) * 32, bytes([3]) * 32
HERE = Origin("policy.yaml", 3)


class StoppedClock:
    """A clock that stands still."""

    def now(self) -> int:
        return NOW

    def monotonic_us(self) -> int:
        return 0


class Notebook:
    """An audit sink that remembers."""

    def __init__(self) -> None:
        self.records: list[AuditRecord] = []

    def prepare(self, records: Sequence[AuditRecord]) -> None:
        """Nothing is made ahead."""

    def append(self, records: Sequence[AuditRecord]) -> None:
        self.records += records


class Marks:
    """An admission that knows replays, or has lost its marks."""

    def __init__(self, *, forgets: bool) -> None:
        self._forgets = forgets
        self._seen: dict[bytes, bytes] = {}

    async def admit(self, asks: Sequence[AdmissionAsk]) -> list[Verdict]:
        return [self._look(ask) for ask in asks]

    def _look(self, ask: AdmissionAsk) -> Verdict:
        replay = not self._forgets and self._seen.setdefault(ask.request_id, ask.entry_id) != ask.entry_id
        return Verdict(replay=replay, wait_us=0, name_waits_us=() if replay else ((0,) * len(ask.name_limits)))


def _configuration() -> Configuration:
    grant = Grant(NamePattern("openai.api_key"), HERE)
    return Configuration(
        policy=Policy({"claude": AgentPolicy("claude", HERE, grants=(grant,))}),
        registry={"openai.api_key": SecretEntry("openai.api_key", "local://openai", None, HERE)},
        cache=CacheSettings(),
        anchors=(TrustAnchor("orchestrator", run_public_key(ISSUER), frozenset({"claude"}), 3600),),
        providers=(),
        digest="",
    )


def _envelope() -> tuple[Intake, bytes]:
    session = start_session(IDENTITY, "intake", NOW, bytes([4]) * 32)  # any X25519 pair does for an intake key
    intake, run = Intake(session.public, session.secret), run_exchange_public(run_public_key(RUN))
    key = derive_key(Kind.REQUEST, intake.secret, run, intake.public, peer=run)
    identity = RunIdentity("orchestrator", "claude", "run-1", run_public_key(RUN), "t", NOW, NOW + 60_000)
    request = Request(bytes(16), NOW, NOW + 15_000, sign_token(ISSUER, identity), Resolve(("openai.api_key",)))
    sealer = Sealer(Kind.REQUEST, key, key_id(intake.public), run_public_key(RUN), keynames.requests("claude"))
    return intake, sealer.seal(encode_request(request), bytes(24))


@pytest.mark.parametrize("forgets", [False, True])
async def test_a_copy_under_another_entry_id_is_refused_and_not_answered(forgets: bool) -> None:
    """While the first copy waits for its vault, the second one is acknowledged, recorded and gets no reply."""
    intake, envelope = _envelope()
    configuration, notebook, cache = _configuration(), Notebook(), MemoryCache(10)
    desk = Desk(
        configuration=configuration,
        opener=Opener({key_id(intake.public): intake}, TokenVerifier(configuration.anchors), PeerCache(), 0),
        cache=cache,
        sink=notebook,
        clock=StoppedClock(),
        session=start_session(IDENTITY, "worker-1", NOW, bytes([5]) * 32),
        provider_of=lambda ref: "local",
    )
    first, copy = (Entry("claude", entry_id, envelope, 0) for entry_id in (b"1-0", b"2-0"))
    served = await desk.serve([first, copy], Marks(forgets=forgets))
    assert [(answer.entry, answer.envelope) for answer in served.answers] == [(copy, None)]
    assert "replay" in {record.reason for record in notebook.records}
    (waiting,) = served.waiting
    waiting.found["local://openai"] = Fetched(b"made-up value")
    (answer,) = desk.resume([waiting])
    assert answer.entry is first
    assert answer.envelope is not None
