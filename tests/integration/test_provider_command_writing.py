"""Values that are stored by a program: handed over by standard input, and its exit code decides."""

import os
from pathlib import Path

import pytest
from command_workbench import MakeScript, answer_of, provider_of
from provider_conformance import CANARY, MAX_VALUE, everything_said, failure_of

from broker_worker.core.errors import FailureKind
from broker_worker.ports import Fetched


async def test_a_value_is_stored_by_standard_input(script: MakeScript, tmp_path: Path) -> None:
    """Never as an argument; of any size; and the program says whether that worked."""
    read, put = script(f"exec cat {tmp_path}/$1"), script(f"exec cat >{tmp_path}/$1")
    provider = provider_of(read, "{name}", put_argv=(put, "{name}"))
    value = os.urandom(MAX_VALUE - len(CANARY)) + CANARY.encode()
    assert await provider.put("exec://it/new", value) is None
    assert await answer_of(provider, "exec://it/new") == Fetched(value)


@pytest.mark.parametrize(
    ("text", "stored"), [("exit 0", True), ("exec <&-; sleep 0.05", True), ("cat >&2; exit 1", False)]
)
async def test_a_program_that_does_not_read_the_value_decides_by_its_exit_code(
    script: MakeScript, caplog: pytest.LogCaptureFixture, text: str, stored: bool
) -> None:
    """A pipe that nobody reads is no failure of ours; what a failing program says of the value is not repeated."""
    provider = provider_of("true", put_argv=(script(text),))
    value = CANARY.encode() * 10_000
    if stored:
        assert await provider.put("exec://it", value) is None
    else:
        error = await failure_of(provider.put("exec://it", value))
        assert error.kind is FailureKind.UNKNOWN
        assert CANARY not in everything_said(error)
    assert caplog.text == ""


async def test_a_command_that_only_creates_says_so_by_its_exit_code(script: MakeScript, tmp_path: Path) -> None:
    """Create-only needs a command of its own: the first of two wins, and an expected version is never there."""
    create = script(f"set -C; cat >{tmp_path}/$1 || exit 17")
    provider = provider_of("cat", "{name}", create_argv=(create, "{name}"), exists_exit=17)
    assert await provider.put("exec://it/new", b"first", expected="") is None
    for expected in ("", "1"):
        error = await failure_of(provider.put("exec://it/new", b"second", expected=expected))
        assert error.kind is FailureKind.CONFLICT
    assert (tmp_path / "new").read_bytes() == b"first"
    assert (await failure_of(provider.put("exec://it/new", b"third"))).kind is FailureKind.READ_ONLY
