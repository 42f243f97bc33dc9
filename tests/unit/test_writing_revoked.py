"""What an order, other files or an old announcement mean for values that are written."""

from pathlib import Path

import pytest
from desk_workbench import IDENTITY, NOW, DeskBench
from writing_workbench import POLICY, SECRETS, ask, bench_in

from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import Generate
from agent_sdk.wire.sealing import run_public_key
from broker_worker.core.announcements import Announcement, sign_announcement
from broker_worker.core.control import write_message
from broker_worker.core.redaction import NOTE
from broker_worker.core.revocations import Kind, Revocation
from broker_worker.pipeline.superseding import ANNOUNCED_FOR_MS
from broker_worker.ports import Fetched


@pytest.fixture
def bench(tmp_path: Path) -> DeskBench:
    """A desk at which claude may write."""
    return bench_in(tmp_path)


@pytest.mark.parametrize("kind", ["run", "agent", "token", "secret"])
async def test_a_revocation_during_a_write_holds(bench: DeskBench, kind: Kind) -> None:
    """The vault has stored it; who asked gets no value and no lease."""
    run, real = bench.run(), bench.vault.put
    credential = run.credential
    token_id = bench.desk.opener.verifier.verify(credential.token, NOW).token_id
    subjects = {"run": f"claude/{credential.run_id}", "agent": "claude", "token": token_id, "secret": "made.mine"}

    async def put(ref: str, value: bytes, *, expected: str | None = None) -> str | None:
        bench.affairs.revocations.apply(Revocation(
            revocation_id="0" * 16, order="revoke", kind=kind, subject=subjects[kind], at=NOW, reason="", by="olivia"
        ))  # fmt: skip
        return await real(ref, value, expected=expected)

    bench.vault.put = put  # type: ignore[method-assign]  # an order comes meanwhile
    result = await ask(bench, run, Generate("made.mine", "alnum:24", reveal=True))
    assert (result.outcome, result.version, result.value, result.lease) == ("granted", "1", None, None)


async def test_a_run_that_may_not_read_any_more_is_not_shown_what_it_had_made(bench: DeskBench) -> None:
    """The policy changed while the vault stored it."""
    run, real = bench.run(), bench.vault.put

    async def put(ref: str, value: bytes, *, expected: str | None = None) -> str | None:
        bench.load(policy=POLICY.replace("- {secret: made.mine, actions: [resolve]}", ""), registry=SECRETS)
        return await real(ref, value, expected=expected)

    bench.vault.put = put  # type: ignore[method-assign]  # the files change meanwhile
    result = await ask(bench, run, Generate("made.mine", "alnum:24", reveal=True))
    assert (result.outcome, result.version, result.value, result.lease) == ("granted", "1", None, None)


async def test_a_refused_name_that_nobody_wrote_down_is_recorded_without_a_value_in_it(bench: DeskBench) -> None:
    """Any name under a pattern of created ones has a place, so an agent chooses what stands in the audit."""
    bench.desk.keep("local://openai", Fetched(b"hunter-2-hunter", "7"), 600_000)
    assert (await bench.ask_one(bench.run("codex"), "made.hunter-2-hunter")).code == Code.DENIED
    assert bench.sink.records[-1].secret_name == NOTE


async def test_an_announcement_of_a_day_ago_changes_nothing(bench: DeskBench) -> None:
    """Whoever owns the queue can keep it and show it for ever."""
    desk, affairs = bench.desk, bench.affairs
    desk.keep("local://openai", Fetched(b"value", "9"), 600_000)
    for age, dropped in ((ANNOUNCED_FOR_MS + 1, False), (ANNOUNCED_FOR_MS, True)):
        told = Announcement(f"{age:032x}", "openai.api_key", NOW - age, "8")
        signed = sign_announcement(told, IDENTITY + run_public_key(IDENTITY))
        affairs.take_control(write_message(signed), desk.configuration, NOW)
        assert (bench.cache.get("local://openai", 600_000, NOW) is None) == dropped
