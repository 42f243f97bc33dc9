"""The example of a whole agent works as its README says: a ticket is answered, and nobody but the proxy has a key."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "deploy" / "examples" / "operations_bot" / "run.py"


@pytest.mark.skipif(sys.platform == "win32", reason="needs the embedded server")
def test_the_operations_bot_answers_its_ticket_without_a_key() -> None:
    """It used five keys, a person approved one of them, and none is in its transcript, a log or the audit."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--yes"],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("--- alice approves ") == 1
    assert "assistant: Ticket 4711 is answered." in done.stdout
    assert "after a reboot it has 41%" in done.stdout
    assert done.stdout.count("  call  hypervisor.admin  granted  POST ") == 1
    assert done.stdout.rstrip().endswith("files in which a key was found: none")
    assert "EXAMPLE-" not in done.stdout + done.stderr
