"""A run that is revoked while its value is being stored is not shown it."""

from pathlib import Path

import pytest
from desk_workbench import NOW, DeskBench
from writing_workbench import ask, bench_in

from agent_sdk.wire.messages import Generate
from broker_worker.core.revocations import Kind, Revocation


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
