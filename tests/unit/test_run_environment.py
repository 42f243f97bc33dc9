"""The environment of a command: which place wins, and what refers to a secret."""

import os
from pathlib import Path

import pytest

from agent_sdk.errors import InvalidRequest
from agent_sdk.run.environment import read_environment


def test_options_win_over_env_files_and_those_over_the_environment(tmp_path: Path) -> None:
    """Of files and options the later one."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("B=secret://of.first\nC=secret://of.first\nD=secret://of.first\n")
    second.write_text("C=plain\nD=secret://of.second\n")
    own = {"A": "secret://of.own", "B": "plain", "C": "secret://of.own", "E": "kept"}
    environment = read_environment(own, [first, second], ["D=secret://x", "D=secret://of.option"], [])
    assert environment.in_variables == {"A": "of.own", "B": "of.first", "D": "of.option"}
    assert environment.plain == {"C": "plain", "E": "kept"}


def test_a_variable_that_names_a_file_is_no_variable_with_a_value() -> None:
    """--file replaces what the variable was before, also a reference."""
    environment = read_environment({"KEY": "secret://a", "B": "x"}, [], [], ["KEY=secret://a", "B=secret://b"])
    assert (environment.plain, environment.in_variables) == ({}, {})
    assert environment.in_files == {"KEY": "a", "B": "b"}
    assert environment.filled({}, {"KEY": "/dev/fd/10"}) == {b"KEY": b"/dev/fd/10"}


def test_each_secret_is_wanted_once_however_many_variables_it_goes_into() -> None:
    """In the way, or in both ways, that they take."""
    options, files = ["A=secret://one", "B=secret://one", "C=secret://two"], ["D=secret://two", "E=secret://three"]
    wanted = read_environment({}, [], options, files).wanted
    assert list(wanted.items()) == [("one", "env"), ("two", "env,file"), ("three", "file")]


def test_the_credential_of_the_run_is_not_handed_on() -> None:
    """However it came."""
    own = {f"SECRET_BROKER_CREDENTIAL{end}": "3" for end in ("", "_FD", "_FILE")}
    assert read_environment({**own, "A": "1"}, [], [], []).plain == {"A": "1"}


def test_values_are_bytes_and_go_into_the_environment_only() -> None:
    """What is not text is possible; what is no reference stays as it was, whatever its encoding."""
    environment = read_environment({"PLAIN": os.fsdecode(b"\xff")}, [], ["A=secret://a"], [])
    assert environment.filled({"a": b"\xfe"}, {}) == {b"PLAIN": b"\xff", b"A": b"\xfe"}


@pytest.mark.parametrize(
    ("own", "options", "files", "expected"),
    [
        ({"A": "secret://Sk-Canary"}, [], [], r"^the environment: A: secret:// is followed by something"),
        ({}, ["A=sk-canary"], [], r"^--env A takes a reference, secret://…: others can read a command line"),
        ({}, [], ["A=sk-canary"], r"^--file A takes a reference"),
        ({}, ["A=secret://Sk-Canary"], [], r"^--env A: secret:// is followed by something"),
        ({}, ["sk-canary"], [], r"^--env takes NAME=secret://…, with a NAME of letters, digits and underscores$"),
        ({}, ["sk-canary=secret://a"], [], r"^--env takes NAME=secret://…"),
        ({}, ["A=secret://a"], ["A=secret://a"], r"^A is given by --env and by --file: one of them is enough$"),
    ],
)
def test_what_is_no_reference_is_refused_and_not_repeated(
    own: dict[str, str], options: list[str], files: list[str], expected: str
) -> None:
    """It may be a value that somebody put in the wrong place."""
    with pytest.raises(InvalidRequest, match=expected) as caught:
        read_environment(own, [], options, files)
    assert "canary" not in str(caught.value).lower()


def test_a_wrong_reference_in_an_env_file_is_named_with_its_file(tmp_path: Path) -> None:
    """And with its variable."""
    (tmp_path / ".env").write_text("A=1\nB=secret://\n")
    with pytest.raises(InvalidRequest, match=r"/\.env: B: secret:// is followed by something that is no secret name"):
        read_environment({}, [tmp_path / ".env"], [], [])


def test_a_value_that_no_environment_can_hold_is_an_error_that_says_what_to_do() -> None:
    """The value is not in it."""
    environment = read_environment({}, [], ["A=secret://a"], [])
    with pytest.raises(InvalidRequest, match=r"^a: its value has a NUL byte.*: use --file A=secret://a$") as caught:
        environment.filled({"a": b"sk-canary\0"}, {})
    assert "canary" not in str(caught.value)
