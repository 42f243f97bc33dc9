"""1Password over the SDK's own Python layer: sign-ins, batches, failures, and what never leaks."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import cast

import pytest
from onepassword_fakes import FakeNativeCore, NativeError, install, make_token, native_error
from provider_conformance import CANARY, everything_said, failure_of
from vault_workbench import StateNotebook, hardened

from broker_worker.core.errors import FailureKind, ProviderError, SetupError
from broker_worker.core.vault_state import FAILURES_TO_OPEN
from broker_worker.ports import Fetched
from broker_worker.providers.onepassword import OnePasswordProvider
from broker_worker.providers.onepassword_sdk import SdkClient
from broker_worker.providers.onepassword_session import OnePasswordSession
from broker_worker.providers.resilient import ATTEMPTS, BATCH, ResilientProvider
from broker_worker.providers.vault_calls import CALLS_AT_ONCE

REFS = [f"op://vault/item-{i}/field" for i in range(3 * BATCH)]
UNAUTHENTICATED = native_error("you are not authenticated")
RATE_LIMITED = native_error("rate limit exceeded", name="RateLimitExceeded")


@dataclass
class Desk:
    """A provider as the broker wraps it, the core that it talks to, its clock and its token."""

    core: FakeNativeCore
    token: str = field(default_factory=make_token)
    timeout: float = 5.0
    states: StateNotebook = field(default_factory=StateNotebook)
    provider: ResilientProvider = field(init=False)

    def __post_init__(self) -> None:
        session = OnePasswordSession(
            lambda: self.token, SdkClient.sign_in, timeout_seconds=self.timeout, monotonic=lambda: self.clock
        )
        self.provider = hardened(OnePasswordProvider(session, self.timeout), self.states)

    @property
    def clock(self) -> float:
        """Seconds; a test turns it."""
        return self.states.now / 1000

    @clock.setter
    def clock(self, seconds: float) -> None:
        self.states.now = int(seconds * 1000)

    async def get(self, *refs: str) -> list[Fetched | ProviderError]:
        return list((await self.provider.get_many(refs)).values())

    async def refused(self) -> ProviderError:
        return await failure_of(self.get(REFS[0]))


@pytest.fixture
async def desk(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    """A desk whose account has a field for each of `REFS`."""
    core = FakeNativeCore({ref: f"{CANARY} {ref}" for ref in REFS})
    install(monkeypatch, core)
    desk = Desk(core)
    yield desk
    await desk.provider.close()


async def test_one_sign_in_serves_everybody(desk: Desk) -> None:
    """However many ask at once and again, there is one sign-in, with the token and under our name."""
    await asyncio.gather(*(desk.get(ref) for ref in REFS[:20]))
    await desk.get(REFS[0])
    assert desk.core.sign_ins == 1
    config = desk.core.configs[0]
    assert config["serviceAccountToken"] == desk.token
    assert config["integrationName"] == "secret-broker"


async def test_nothing_is_sent_before_something_is_asked(desk: Desk) -> None:
    """Malformed references and an empty call cause no sign-in."""
    await desk.provider.get_many([])
    await desk.provider.get_many(["op://incomplete"])
    assert desk.core.sign_ins == 0


async def test_references_go_in_batches(desk: Desk) -> None:
    """A hundred and fifty references are three requests of fifty."""
    await desk.provider.get_many(REFS)
    assert sorted(len(batch) for batch in desk.core.batches) == [BATCH] * 3


async def test_requests_under_way_are_bounded(desk: Desk) -> None:
    """Of twelve calls at once only four requests are under way at a time."""
    await desk.get(REFS[0])
    desk.core.gate = asyncio.Event()
    calls = [asyncio.create_task(desk.get(ref)) for ref in REFS[:12]]
    for _ in range(20):
        await asyncio.sleep(0)
    desk.core.gate.set()
    await asyncio.gather(*calls)
    assert desk.core.most_under_way == CALLS_AT_ONCE


async def test_failed_batch_costs_the_others_nothing(desk: Desk) -> None:
    """When one of three requests fails, the hundred references of the others still get their values."""
    desk.core.resolve_failure = lambda refs: native_error("internal server error") if REFS[0] in refs else None
    answers = await desk.provider.get_many(REFS)
    failed = [ref for ref, answer in answers.items() if isinstance(answer, ProviderError)]
    assert failed == REFS[:BATCH]
    assert {cast("ProviderError", answers[ref]).kind for ref in failed} == {FailureKind.UNREACHABLE}


async def test_versions_are_none(desk: Desk) -> None:
    """1Password tells no version with a value, so none is made up."""
    assert await desk.get(REFS[0]) == [Fetched(f"{CANARY} {REFS[0]}".encode(), None)]


async def test_empty_field_is_not_found(desk: Desk) -> None:
    """A field without content is not a value of no bytes."""
    desk.core.values["op://vault/empty/field"] = ""
    (answer,) = await desk.get("op://vault/empty/field")
    assert isinstance(answer, ProviderError)
    assert answer.kind is FailureKind.NOT_FOUND


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (RATE_LIMITED, FailureKind.RATE_LIMITED),
        (native_error("unexpected status code in response: 429 Too Many Requests"), FailureKind.RATE_LIMITED),
        (UNAUTHENTICATED, FailureKind.UNAUTHENTICATED),
        (native_error("you don't have the right permissions to access this resource"), FailureKind.FORBIDDEN),
        (native_error("request timeout"), FailureKind.TIMEOUT),
        (native_error("reqwest library: error sending request for url (<redacted URL>)"), FailureKind.UNREACHABLE),
        (native_error("something new"), FailureKind.UNKNOWN),
        (NativeError("not JSON"), FailureKind.UNKNOWN),
        (NativeError("[]"), FailureKind.UNKNOWN),
        (NativeError("{}"), FailureKind.UNKNOWN),
        (RuntimeError("the library panicked"), FailureKind.UNKNOWN),
    ],
    ids=lambda value: value.value if isinstance(value, FailureKind) else None,
)
async def test_failures_are_told_apart(desk: Desk, failure: Exception, kind: FailureKind) -> None:
    """What the core raises goes through the SDK's own error code and comes out as one typed error."""
    desk.core.resolve_failure = lambda refs: failure
    assert (await desk.refused()).kind is kind


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "null",
        "[]",
        "not JSON",
        json.dumps({"individualResponses": None}),
        json.dumps({"individualResponses": {REFS[0]: {"content": {"secret": f"{CANARY}\n"}}}}),
        json.dumps({"individualResponses": {REFS[0]: {"content": {"secret": [CANARY], "itemId": 1, "vaultId": 1}}}}),
        json.dumps({"individualResponses": {REFS[0]: {"error": {"type": CANARY}}}}),
        '{"individualResponses": {"' + REFS[0] + '": {"content": {"secret": "' + CANARY,
    ],
)
async def test_garbage_is_refused_and_not_repeated(desk: Desk, raw: str) -> None:
    """An answer that the SDK cannot parse is `UNKNOWN`, and the parser's message, which holds values, is dropped."""
    desk.core.raw_answer = lambda refs: raw
    error = await desk.refused()
    assert error.kind is FailureKind.UNKNOWN
    assert CANARY not in everything_said(error)
    assert error.__context__ is None


@pytest.mark.parametrize("response", [{}, {"content": None, "error": None}])
async def test_answer_without_content_is_refused(desk: Desk, response: dict[str, None]) -> None:
    """A response that holds neither a value nor an error is `UNKNOWN`."""
    desk.core.raw_answer = lambda refs: json.dumps({"individualResponses": dict.fromkeys(refs, response)})
    (answer,) = await desk.get(REFS[0])
    assert isinstance(answer, ProviderError)
    assert answer.kind is FailureKind.UNKNOWN


async def test_answer_for_something_else_is_refused(desk: Desk) -> None:
    """A value for a reference that was not asked is not taken for the one that was."""
    content = {"secret": CANARY, "itemId": "i", "vaultId": "v"}
    desk.core.raw_answer = lambda refs: json.dumps({"individualResponses": {REFS[1]: {"content": content}}})
    answers = await desk.provider.get_many([REFS[0]])
    assert set(answers) == {REFS[0]}
    assert isinstance(answers[REFS[0]], ProviderError)


async def test_error_beside_a_value_wins(desk: Desk) -> None:
    """A response with both a value and an error is an error."""
    both = {"content": {"secret": CANARY, "itemId": "i", "vaultId": "v"}, "error": {"type": "tooManyItems"}}
    desk.core.raw_answer = lambda refs: json.dumps({"individualResponses": {REFS[0]: both}})
    (answer,) = await desk.get(REFS[0])
    assert isinstance(answer, ProviderError)
    assert answer.kind is FailureKind.AMBIGUOUS


async def test_words_of_the_sdk_are_not_passed_on(desk: Desk) -> None:
    """Neither a call's error nor a reference's repeats what the core said."""
    desk.core.reference_errors[REFS[0]] = {"type": "parsing", "message": CANARY}
    (answer,) = await desk.get(REFS[0])
    desk.core.resolve_failure = lambda refs: native_error(f"rate limit exceeded {CANARY}")
    assert CANARY not in everything_said(answer) + everything_said(await desk.refused())


async def test_bad_token_is_not_tried_again_for_a_minute_then_two(desk: Desk) -> None:
    """A refused token is refused here for 60 s, then 120 s, and so on: a hundred calls cost one sign-in."""
    desk.core.sign_in_failure = UNAUTHENTICATED
    for attempt, wait in enumerate((60, 120, 240, 480), start=1):
        errors = [await desk.refused() for _ in range(25)]
        assert desk.core.sign_ins == attempt
        assert {error.kind for error in errors} == {FailureKind.UNAUTHENTICATED}
        assert errors[1].retry_after == wait * 1000
        desk.clock += wait


async def test_the_wait_grows_to_an_hour_at_most(desk: Desk) -> None:
    """After many refusals the wait is an hour, so that a mended account is noticed within one."""
    desk.core.sign_in_failure = UNAUTHENTICATED
    for _ in range(20):
        await desk.refused()
        desk.clock += 3600
    assert desk.core.sign_ins == 20


async def test_replaced_token_counts_at_once(desk: Desk) -> None:
    """Another token ends the wait that the refused one caused."""
    desk.core.sign_in_failure = UNAUTHENTICATED
    await desk.refused()
    desk.core.sign_in_failure = None
    desk.token = make_token(email="nopqrstuvwxyz@1passwordserviceaccounts.com")
    (answer,) = await desk.get(REFS[0])
    assert isinstance(answer, Fetched)


async def test_outage_at_sign_in_is_tried_again_soon(desk: Desk) -> None:
    """When 1Password cannot be reached, it is left alone for a second in the end, and success ends the wait."""
    desk.core.sign_in_failure = native_error("authentication error: error sending request for url (<redacted URL>)")
    assert (await desk.refused()).kind is FailureKind.UNREACHABLE
    await desk.refused()
    assert (await desk.refused()).retry_after == 1000
    assert desk.core.sign_ins == FAILURES_TO_OPEN
    desk.core.sign_in_failure = None
    desk.clock += 1
    assert isinstance((await desk.get(REFS[0]))[0], Fetched)
    assert desk.core.sign_ins == FAILURES_TO_OPEN + 1


async def test_unknown_failure_at_sign_in_is_not_repeated_for_ever(desk: Desk) -> None:
    """A sign-in that fails in a way nobody knows is tried once a call, and in the end once a minute."""
    desk.core.sign_in_failure = native_error("something new")
    for _ in range(25):
        await desk.refused()
    assert desk.core.sign_ins == FAILURES_TO_OPEN
    for _ in range(10):
        desk.clock += 60
        await desk.refused()
        await desk.refused()
    assert desk.core.sign_ins == FAILURES_TO_OPEN + 10


async def test_ended_session_is_made_anew(desk: Desk) -> None:
    """A session that ends of old age is replaced at once, without the caller noticing, and the old one released."""
    await desk.get(REFS[0])
    desk.clock += 3600
    desk.core.resolve_failure = lambda refs: UNAUTHENTICATED if desk.core.sign_ins == 1 else None
    assert isinstance((await desk.get(REFS[0]))[0], Fetched)
    assert desk.core.sign_ins == 2
    assert desk.core.released == [1]


async def test_session_that_is_refused_at_once_is_not_made_anew(desk: Desk) -> None:
    """If requests are refused right after the sign-in, there is no loop of sign-ins."""
    desk.core.resolve_failure = lambda refs: UNAUTHENTICATED
    for _ in range(10):
        assert (await desk.refused()).kind is FailureKind.UNAUTHENTICATED
    assert desk.core.sign_ins == 1
    assert len(desk.core.batches) == 1


async def test_rate_limit_is_respected(desk: Desk) -> None:
    """After a rate limit nothing is asked for a minute, and callers are told how long to wait."""
    desk.core.resolve_failure = lambda refs: RATE_LIMITED
    await desk.refused()
    error = await desk.refused()
    assert len(desk.core.batches) == 1
    assert error.kind is FailureKind.RATE_LIMITED
    assert error.retry_after == 60_000


async def test_success_ends_the_growth_of_waits(desk: Desk) -> None:
    """After an answer the next outage waits one second again, not two."""
    for _ in range(3):
        desk.core.resolve_failure = lambda refs: native_error("internal server error")
        await desk.refused()
        await desk.refused()
        assert (await desk.refused()).retry_after == 1000
        desk.clock += 1
        desk.core.resolve_failure = lambda refs: None
        await desk.get(REFS[0])


async def test_sessions_that_keep_ending_are_given_up(desk: Desk) -> None:
    """If every session is an old one by the time it is refused, a call ends after three."""
    await desk.get(REFS[0])

    def age_and_refuse(refs: list[str]) -> Exception:
        desk.clock += 3600
        return UNAUTHENTICATED

    desk.core.resolve_failure = age_and_refuse
    assert (await desk.refused()).kind is FailureKind.UNAUTHENTICATED
    assert desk.core.sign_ins == 3


async def test_forbidden_request_holds_up_nobody(desk: Desk) -> None:
    """A request that the account may not make does not keep the next from being asked."""
    desk.core.resolve_failure = lambda refs: native_error(
        "you don't have the right permissions to access this resource"
    )
    await desk.refused()
    desk.core.resolve_failure = lambda refs: None
    assert isinstance((await desk.get(REFS[1]))[0], Fetched)


async def test_calls_that_fail_together_wait_once(desk: Desk) -> None:
    """Ten calls that are refused at once count as one refusal, and all end with a typed error."""
    await desk.get(REFS[0])
    desk.core.gate = asyncio.Event()
    desk.core.resolve_failure = lambda refs: UNAUTHENTICATED
    calls = [asyncio.create_task(desk.refused()) for _ in range(10)]
    await asyncio.sleep(0)
    desk.core.gate.set()
    assert {error.kind for error in await asyncio.gather(*calls)} == {FailureKind.UNAUTHENTICATED}
    assert (await desk.refused()).retry_after == 60_000


async def test_hanging_request_ends_at_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A core that never answers costs a typed TIMEOUT, and the provider works once it answers again."""
    core = FakeNativeCore({REFS[0]: CANARY})
    install(monkeypatch, core)
    desk = Desk(core, timeout=0.4)
    await desk.get(REFS[0])
    core.gate = asyncio.Event()
    assert (await desk.refused()).kind is FailureKind.TIMEOUT
    core.gate = None
    desk.clock += 1
    assert isinstance((await desk.get(REFS[0]))[0], Fetched)
    await desk.provider.close()


async def test_hanging_sign_in_ends_at_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sign-in that never ends is a TIMEOUT for all who wait for it."""
    core = FakeNativeCore({})
    install(monkeypatch, core)
    core.gate = asyncio.Event()
    desk = Desk(core, timeout=0.4)
    errors = await asyncio.gather(desk.refused(), desk.refused())
    assert [error.kind for error in errors] == [FailureKind.TIMEOUT] * 2
    assert core.sign_ins == ATTEMPTS


async def test_cancelled_caller_does_not_cancel_the_sign_in(desk: Desk) -> None:
    """Who gives up leaves the sign-in to those who still wait for it."""
    desk.core.gate = asyncio.Event()
    first, second = asyncio.create_task(desk.get(REFS[0])), asyncio.create_task(desk.get(REFS[1]))
    await asyncio.wait_for(desk.core.signing_in.wait(), 5)
    first.cancel()
    desk.core.gate.set()
    assert isinstance((await second)[0], Fetched)
    assert desk.core.sign_ins == 1


async def test_closing_ends_a_sign_in_under_way(desk: Desk) -> None:
    """Who waits for a sign-in when the provider is closed gets a typed error, not a cancellation."""
    desk.core.gate = asyncio.Event()
    waiting = asyncio.create_task(desk.refused())
    await asyncio.wait_for(desk.core.signing_in.wait(), 5)
    await desk.provider.close()
    assert (await waiting).kind is FailureKind.UNREACHABLE


async def test_closing_releases_the_session(desk: Desk) -> None:
    """After `close` the core has forgotten the session and its keys."""
    await desk.get(REFS[0])
    await desk.provider.close()
    assert desk.core.released == [1]


@pytest.mark.parametrize(
    "address", ["https://evil1password.com", "http://127.0.0.1:1", "https://my.1password.com.evil.org"]
)
async def test_token_of_another_server_never_reaches_the_sdk(desk: Desk, address: str) -> None:
    """A token that names a server other than 1Password's is refused before any use."""
    desk.token = make_token(address)
    error = await desk.refused()
    assert error.kind is FailureKind.UNAUTHENTICATED
    assert address not in everything_said(error)
    assert desk.core.sign_ins == 0


async def test_unreadable_token_file_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong with the token's file reaches the operator, as a typed error."""

    def read() -> str:
        raise SetupError("1Password token file /x has mode 0644", hint="chmod 600 '/x'")

    install(monkeypatch, FakeNativeCore({}))
    provider = OnePasswordProvider(OnePasswordSession(read, SdkClient.sign_in, timeout_seconds=5), 5)
    health = await provider.health()
    assert not health.ok
    assert "0644" in health.detail
    assert health.hint == "chmod 600 '/x'"


async def test_health_asks_nothing_when_signed_in(desk: Desk) -> None:
    """Health checks of a working provider cost no requests."""
    await desk.get(REFS[0])
    for _ in range(5):
        assert (await desk.provider.health()).ok
    assert (desk.core.sign_ins, len(desk.core.batches)) == (1, 1)


async def test_refused_token_is_known_again_after_a_restart(desk: Desk) -> None:
    """Another worker, or the next one of a crash loop, does not try it either, whatever it is spelled like."""
    desk.core.sign_in_failure = UNAUTHENTICATED
    await desk.refused()
    for token in (desk.token, f"  {desk.token}\n"):
        again = Desk(desk.core, token=token, states=desk.states)
        assert (await again.refused()).kind is FailureKind.UNAUTHENTICATED
        assert not (await again.provider.health()).ok
        await again.provider.close()
    assert desk.core.sign_ins == 1
    assert desk.token not in repr(desk.states.kept)


async def test_token_that_is_put_there_at_last_counts_at_once(desk: Desk) -> None:
    """Who forgot it need not wait a minute."""
    token, desk.token = desk.token, ""
    assert (await desk.refused()).kind is FailureKind.UNAUTHENTICATED
    assert (await desk.refused()).retry_after == 60_000
    desk.token = token
    assert isinstance((await desk.get(REFS[0]))[0], Fetched)


async def test_what_a_call_costs_is_what_1password_counts_at_most(desk: Desk) -> None:
    """The vaults once, the items of each vault, and each item: three for one reference by names."""
    provider = OnePasswordProvider(OnePasswordSession(make_token, SdkClient.sign_in, timeout_seconds=5), 5)
    assert provider.reads_of(["op://v/a/f"]) == 3
    assert provider.reads_of(["op://v/a/f", "op://v/a/s/g", "op://v/b/f", "op://w/a/f?attribute=otp"]) == 6


async def test_vaults_that_nobody_needs_are_told(desk: Desk) -> None:
    """By title; one that the registry names by its id or in another case is needed."""
    desk.core.vaults = {"v" * 26: "Agents", "w" * 26: "Private", "x" * 26: "Team"}
    scope = await desk.provider.visible(["op://agents/a/f", f"op://{'x' * 26}/a/f"], ())
    assert scope is not None
    assert (scope.noun, scope.beyond) == ("vaults", ("Private",))
    assert scope.untold == ("1Password's SDK does not tell whether it may write",)
    desk.core.resolve_failure = lambda refs: native_error(f"you are not authenticated {CANARY}")
    error = await failure_of(desk.provider.visible([], ()))
    assert error.kind is FailureKind.UNAUTHENTICATED
    assert CANARY not in everything_said(error)


def test_no_token_in_what_can_be_printed(desk: Desk) -> None:
    """Neither provider nor session show the token."""
    assert desk.token not in everything_said(desk.provider)
