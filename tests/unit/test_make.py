"""The Makefile and what continuous integration runs."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(shutil.which("make") is None, reason="this machine has no make")
def test_make_lists_its_targets_and_knows_them() -> None:
    """`make` alone says what there is, and every target that it lists can be made."""
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = re.findall(r"(?m)^  make (\S+)", listed)
    assert {"demo", "test", "check", "bench", "lock", "clean"} <= set(targets)
    subprocess.run(
        ["make", "--dry-run", f"PYTHON={sys.executable}", *targets], cwd=ROOT, capture_output=True, check=True
    )


@pytest.mark.skipif(shutil.which("make") is None, reason="this machine has no make")
def test_make_without_a_suitable_python_says_so(tmp_path: Path) -> None:
    """On a machine with an old Python only, the error names what is needed and how to point to it."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("requirements.lock", "pyproject.toml"):
        (tmp_path / name).touch()
    result = subprocess.run(["make", "venv", "PYTHON="], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "no Python 3.11 or newer" in result.stderr
    assert "hint: " in result.stderr


def test_continuous_integration_runs_what_a_person_runs() -> None:
    """.ci/run is executable and does what `make check test` does."""
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert "make check test" in script.read_text()
