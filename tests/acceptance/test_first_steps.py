"""The first five minutes: every command that `init` suggests, in its order, as a new user would type it."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

VALUE = "sk-canary-first-steps"
DEADLINE_SECONDS = 90.0


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    """An environment with a new home, short enough for a socket, and our scripts and Python first on the PATH."""
    folder = Path(tempfile.mkdtemp(prefix="sb-"))
    environ = {name: text for name, text in os.environ.items() if name not in {"REDIS_URL", "SECRET_BROKER_HOME"}}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    yield environ | {"SECRET_BROKER_HOME": str(folder / "home"), "PATH": path}
    shutil.rmtree(folder)


def run(environment: dict[str, str], command: str, *, given: str = "") -> str:
    """Run a command line without a shell and return what it printed; it must succeed."""
    result = subprocess.run(
        shlex.split(command), env=environment, input=given, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"
    return result.stdout


def wait_for(path: Path, text: str) -> None:
    """Poll a file until it holds a text, or fail at the deadline."""
    end = time.monotonic() + DEADLINE_SECONDS
    while text not in path.read_text():
        assert time.monotonic() < end, path.read_text()
        time.sleep(0.05)


def test_first_steps_work_as_they_are_printed(environment: dict[str, str], tmp_path: Path) -> None:
    """init, vault set, policy check, doctor, up and launch lead to a secret that the agent has and nobody prints."""
    lines = [line.split("#")[0].strip() for line in run(environment, "secret-broker init").splitlines()]
    steps = [line for line in lines if line.startswith("secret-broker ")]
    names = [shlex.split(step)[1] for step in steps]
    assert names == ["vault", "policy", "doctor", "up", "launch"]
    run(environment, steps[0], given=VALUE)
    run(environment, steps[1])
    assert "failed: 0" in run(environment, steps[2])
    log = tmp_path / "up.log"
    with log.open("w") as stream:
        up = subprocess.Popen(shlex.split(steps[3]), env=environment, stdout=stream, stderr=subprocess.STDOUT)
    try:
        wait_for(log, "worker_ready")
        assert run(environment, steps[4]) == "[secret openai.api_key]\n"
        assert re.search(r"openai\.api_key.*granted", run(environment, "secret-broker audit tail"))
    finally:
        up.terminate()
        assert up.wait(90) == 0
    home = Path(environment["SECRET_BROKER_HOME"])
    holders = [path for path in home.rglob("*") if path.is_file() and VALUE.encode() in path.read_bytes()]
    assert holders == []
    assert VALUE not in log.read_text()
