"""Rotations whose world changes under them: a lifetime that is lowered, and a promotion that lands late."""

from pathlib import Path

import pytest
from test_rotation import NAME, Bench, announced

from broker_worker.app import operator_vault
from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.people import revoking
from broker_worker.providers.local import LocalProvider


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A fresh one, whose queue takes orders."""
    monkeypatch.setattr(revoking, "announce", announced)
    monkeypatch.setattr(operator_vault, "announce", announced)
    return Bench(tmp_path / "home")


def test_a_lifetime_that_is_lowered_meanwhile_ends_no_lease(bench: Bench) -> None:
    """Old leases are waited for by the longest lifetime since the rotation began."""
    secrets = bench.settings.config_dir / "secrets.yaml"
    bench.write(leases="wait")
    secrets.write_text(secrets.read_text().replace("ttl_seconds: 1\n", "ttl_seconds: 600\n"))
    before = bench.rotate()
    bench.write(leases="wait")
    after = bench.rotate()
    assert before.wait_until is not None
    assert (after.state.step, after.wait_until) == ("promoted", before.wait_until)


def test_a_promotion_that_lands_late_is_found_in_force(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer was lost, and it comes through just before the next try, which clashes with it: no failure."""
    real = LocalProvider.put
    late: list[bytes] = []

    async def put(self: LocalProvider, ref: str, value: bytes, *, expected: str | None = None) -> str | None:
        if ref != f"local://{NAME}":
            return await real(self, ref, value, expected=expected)
        if not late:
            late.append(value)
            raise ProviderError(FailureKind.TIMEOUT, "no answer")
        if len(late) == 1:
            late.append(value)
            await real(self, ref, late[0], expected=expected)
        return await real(self, ref, value, expected=expected)

    monkeypatch.setattr(LocalProvider, "put", put)
    with pytest.raises(ProviderError):
        bench.rotate()
    progress = bench.rotate()
    assert (progress.state.step, progress.state.version, progress.state.fault) == ("retired", "2", "")
    assert bench.value == late[0]
