"""Sign-ins to 1Password over the SDK's own Python layer: how few, waits after refusals, sessions that end."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from onepassword_fakes import FakeNativeCore, install, make_token, native_error
from onepassword_workbench import REFS, UNAUTHENTICATED, Desk, open_desk
from provider_conformance import everything_said

from broker_worker.core.errors import FailureKind, SetupError
from broker_worker.core.vault_state import FAILURES_TO_OPEN
from broker_worker.ports import Fetched
from broker_worker.providers.onepassword import OnePasswordProvider
from broker_worker.providers.onepassword_sdk import SdkClient
from broker_worker.providers.onepassword_session import OnePasswordSession
from broker_worker.providers.resilient import ATTEMPTS


@pytest.fixture
async def desk(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    """A desk whose account has a field for each of `REFS`."""
    async with open_desk(monkeypatch) as desk:
        yield desk


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


async def test_sessions_that_keep_ending_are_given_up(desk: Desk) -> None:
    """If every session is an old one by the time it is refused, a call ends after three."""
    await desk.get(REFS[0])

    def age_and_refuse(refs: list[str]) -> Exception:
        desk.clock += 3600
        return UNAUTHENTICATED

    desk.core.resolve_failure = age_and_refuse
    assert (await desk.refused()).kind is FailureKind.UNAUTHENTICATED
    assert desk.core.sign_ins == 3


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


def test_no_token_in_what_can_be_printed(desk: Desk) -> None:
    """Neither provider nor session show the token."""
    assert desk.token not in everything_said(desk.provider)
