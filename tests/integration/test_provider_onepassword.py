"""1Password over the SDK's own Python layer: batches, failures, what calls cost, and what never leaks."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import cast

import pytest
from onepassword_fakes import FakeNativeCore, NativeError, install, make_token, native_error
from onepassword_workbench import REFS, UNAUTHENTICATED, Desk, open_desk
from provider_conformance import CANARY, everything_said, failure_of

from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.ports import Fetched
from broker_worker.providers.onepassword import OnePasswordProvider
from broker_worker.providers.onepassword_sdk import SdkClient
from broker_worker.providers.onepassword_session import OnePasswordSession
from broker_worker.providers.resilient import BATCH
from broker_worker.providers.vault_calls import CALLS_AT_ONCE

RATE_LIMITED = native_error("rate limit exceeded", name="RateLimitExceeded")


@pytest.fixture
async def desk(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    """A desk whose account has a field for each of `REFS`."""
    async with open_desk(monkeypatch) as desk:
        yield desk


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


async def test_forbidden_request_holds_up_nobody(desk: Desk) -> None:
    """A request that the account may not make does not keep the next from being asked."""
    desk.core.resolve_failure = lambda refs: native_error(
        "you don't have the right permissions to access this resource"
    )
    await desk.refused()
    desk.core.resolve_failure = lambda refs: None
    assert isinstance((await desk.get(REFS[1]))[0], Fetched)


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


async def test_health_asks_nothing_when_signed_in(desk: Desk) -> None:
    """Health checks of a working provider cost no requests."""
    await desk.get(REFS[0])
    for _ in range(5):
        assert (await desk.provider.health()).ok
    assert (desk.core.sign_ins, len(desk.core.batches)) == (1, 1)


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
