"""A draft that changed after its probe is not put in force."""

import os
import signal
from pathlib import Path

import pytest
from test_rotation import NAME, OLD, Bench, _in_a_process, announced

from broker_worker.app import operator_vault, rotating
from broker_worker.core.rotation import RotationState
from broker_worker.people import revoking


def test_a_draft_that_changed_after_its_probe_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when an earlier try's write, given up for lost, comes to the vault late."""
    monkeypatch.setattr(revoking, "announce", announced)
    monkeypatch.setattr(operator_vault, "announce", announced)
    bench = Bench(tmp_path / "home")
    noted = rotating.Rotation._noted

    def die(self: rotating.Rotation, state: RotationState, version: str | None = None) -> RotationState:
        done = noted(self, state, version)
        if done.step == "probed":
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    with monkeypatch.context() as patched:
        patched.setattr(rotating.Rotation, "_noted", die)
        assert _in_a_process(bench.rotate) == -signal.SIGKILL
    assert bench.state is not None
    assert bench.state.step == "probed"
    bench.vault.set(f"{NAME}.draft", b"never tried", 0)  # the probe wants 24 characters
    with pytest.raises(rotating.RotationFailedError):
        bench.rotate()
    assert bench.value == OLD
