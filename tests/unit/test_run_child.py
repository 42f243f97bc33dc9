"""A command is found as a shell finds it, and what cannot be started says why."""

import errno
import os
from pathlib import Path

import pytest

from agent_sdk.run.child import CannotStartError, attempts, failure, locate


def test_a_program_is_looked_for_where_the_command_will_look(tmp_path: Path) -> None:
    """On the PATH of its own environment: the first that can be executed; a slash means that very file."""
    for folder, mode in (("a", 0o644), ("b", 0o755), ("c", 0o755)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "tool").touch(mode)
    path = os.pathsep.join(str(tmp_path / folder) for folder in ("none", "a", "b", "c"))
    assert locate("tool", {b"PATH": path.encode()}) == str(tmp_path / "b" / "tool")
    assert locate("./tool", {b"PATH": path.encode()}) == "./tool"
    with pytest.raises(CannotStartError, match=r"^tool: Permission denied$") as caught:
        locate("tool", {b"PATH": str(tmp_path / "a").encode()})
    assert caught.value.exit_code == 126
    with pytest.raises(CannotStartError, match=r"^no-tool: command not found$") as caught:
        locate("no-tool", {b"PATH": path.encode()})
    assert caught.value.exit_code == 127


def test_what_is_no_program_is_given_to_the_shell() -> None:
    """With its arguments, after it was tried by itself."""
    assert list(attempts(["./x", "y"], {})) == [("./x", ["./x", "y"]), ("/bin/sh", ["/bin/sh", "./x", "y"])]


def test_a_missing_interpreter_is_not_a_missing_command(tmp_path: Path) -> None:
    """The file is there, so it is 126."""
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    assert failure("script", str(script), errno.ENOENT).exit_code == 126
    assert failure("script", str(tmp_path / "none"), errno.ENOENT).exit_code == 127


def test_an_environment_that_is_too_long_says_what_to_do() -> None:
    """A value of many kilobytes is better a file."""
    error = failure("tool", "/bin/tool", errno.E2BIG)
    assert (error.exit_code, error.hint.split(": ")[1]) == (126, "hand large values over with --file")
