"""A version that was put back in force before the rotation went on is not revoked."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_rotation import NAME, OLD, Bench, announced

from broker_worker.app import operator_vault
from broker_worker.app.rotating import RotationFailedError
from broker_worker.cli import main
from broker_worker.core.rotation import RotationState
from broker_worker.people import revoking
from broker_worker.state.rotation_file import RotationFile


def test_the_version_in_force_is_not_revoked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a vault that moves a label: version 2 was promoted, the process died, and version 1 was put back."""
    monkeypatch.setattr(revoking, "announce", announced)
    monkeypatch.setattr(operator_vault, "announce", announced)
    bench = Bench(tmp_path / "home")
    file = RotationFile(bench.settings.rotations_dir, NAME)
    with file.held():
        file.store(RotationState(name=NAME, step="promoted", started_at=1, replaces="1", version="2", promoted_at=1))
    with pytest.raises(RotationFailedError) as caught:
        bench.rotate()
    assert caught.value.fault == "put_back"
    orders = CliRunner().invoke(main, ["--home", str(bench.settings.home), "revocations", "--json"])
    assert (json.loads(orders.stdout), bench.value) == ([], OLD)
