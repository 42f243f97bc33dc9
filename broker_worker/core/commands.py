"""Commands of the operator's that print a secret, or store one: fixed arguments, of which a reference fills in one.

A reference is `exec://command` or `exec://command/name`. No shell ever sees it, but programs have rules of their own
for what an argument may mean; so a name is a whole argument or none, and is refused unless it is plain.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

PLACEHOLDER = "{name}"
"""The argument that a reference's name takes the place of."""
GIVEN = ("PATH", "HOME", "LANG")
"""The environment variables that every command gets."""
MAX_ARGUMENTS = 64
MAX_SECONDS = 10
"""Longest that a command may take: a worker waits little longer for a vault as a whole."""
NAME_FORM = "letters, digits and _ . @ : + - in parts joined by /, each beginning with a letter, a digit or _"

_COMMAND = re.compile(r"[a-z][a-z0-9-]{0,31}", re.ASCII)
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.@:+-]*"
# No part begins with '-' (an option), '.' (a hidden file, the folder above), '@' (a file's content, to some programs).
# A scheme may lead, as in op://vault/item/field; any other name with an empty part is refused, absolute paths included.
_NAME = re.compile(rf"(?:[a-z][a-z0-9+-]*://)?{_PART}(?:/{_PART})*", re.ASCII)
_SHELL = re.compile(
    r"(?:(?:ba|da|a|z|k|mk|pdk|lk|c|tc|r|rba|ya)?sh|fish|nu|elvish|xonsh|pwsh|powershell|busybox|toybox)(?:-?[0-9][0-9.]*)?",
    re.ASCII,
)
_STARTERS = frozenset(
    {"env", "nice", "ionice", "nohup", "setsid", "stdbuf", "timeout", "chroot", "flock", "unshare", "xargs", "script"}
    | {"sudo", "doas", "su", "runuser", "setpriv", "systemd-run"}
)
"""Programs that start another one, which stands among their arguments."""
_INTERPRETER = re.compile(
    r"(?:python|pypy|perl|ruby|node|nodejs|deno|bun|php|lua|luajit|tclsh|awk|gawk|mawk|osascript|Rscript)[0-9.]*",
    re.ASCII,
)
_SPLITS = re.compile(r"-[a-zA-Z0]*S.*|--split-string(?:=.*)?", re.ASCII | re.DOTALL)
"""Options of `env` that make several words of one, as a shell would."""
_TAKE_A_WORD = frozenset({"-u", "--unset", "-C", "--chdir"})


@dataclass(frozen=True, slots=True)
class Command:
    """A command of a section of type `exec`.

    Args:
        argv: what is run to read a value: the program, by its absolute path or its name, and its arguments.
        put_argv: what is run to store a value, which comes on its standard input; empty if nothing is stored.
        create_argv: the same for a value that must be new; empty if that cannot be told.
        timeout_seconds: how long it may take, waiting for its turn included.
        env: the environment variables of the broker that it gets, beside those of `GIVEN`.
        not_found_exit: the exit code by which `argv` says that there is no such secret; None if none says only that.
        exists_exit: the exit code by which `create_argv` says that there is one already; None likewise.
        keep_newline: whether a line feed at the end of the output belongs to the value.
    """

    argv: tuple[str, ...]
    put_argv: tuple[str, ...] = ()
    create_argv: tuple[str, ...] = ()
    timeout_seconds: int = MAX_SECONDS
    env: tuple[str, ...] = ()
    not_found_exit: int | None = None
    exists_exit: int | None = None
    keep_newline: bool = False

    @property
    def takes_name(self) -> bool:
        """Whether a reference has to give a name."""
        return PLACEHOLDER in self.argv


def check_command_name(text: str) -> str:
    """Check what an operator calls a command.

    Returns:
        The name, unchanged.

    Raises:
        ValueError: with what was expected.
    """
    if _COMMAND.fullmatch(text) is None:
        raise ValueError("expected a name of lower-case letters, digits and '-', at most 32")
    return text


def check_arguments(words: Sequence[str]) -> tuple[str, ...]:
    """Check the program and the arguments of a command.

    Returns:
        The words, unchanged.

    Raises:
        ValueError: with what was expected; no word is repeated.
    """
    if not 0 < len(words) <= MAX_ARGUMENTS:
        raise ValueError(f"expected a program and at most {MAX_ARGUMENTS - 1} arguments")
    program = words[0]
    if ("/" in program and not program.startswith("/")) or PLACEHOLDER in program:
        raise ValueError("expected the program's name or its absolute path first")
    called = program.rpartition("/")[2]
    if _is_shell(program) or (called in _STARTERS and any(_is_shell(word) for word in words[1:])):
        raise ValueError("expected the program itself, not a shell: put a pipeline into a script and name that")
    if called == "env" and any(_SPLITS.fullmatch(word) for word in _options_of_env(words[1:])):
        raise ValueError("expected each argument as a word of its own: `env -S` splits one as a shell would")
    if _INTERPRETER.fullmatch(called) and any(
        word == PLACEHOLDER and (place == 1 or words[place - 1].startswith("-")) for place, word in enumerate(words)
    ):
        raise ValueError(f"expected {PLACEHOLDER} as an argument of a script, not as what {called} is to run")
    if any(PLACEHOLDER in word and word != PLACEHOLDER for word in words) or words.count(PLACEHOLDER) > 1:
        raise ValueError(f"expected {PLACEHOLDER} as one whole argument, or not at all")
    return tuple(words)


def _options_of_env(words: Sequence[str]) -> Iterator[str]:
    """The words before the program that `env` starts, without what its options take."""
    rest = iter(words)
    for word in rest:
        if word.startswith("-"):
            yield word
            if word in _TAKE_A_WORD:
                next(rest, None)
        elif "=" not in word:
            return


def _is_shell(word: str) -> bool:
    return _SHELL.fullmatch(word.rpartition("/")[2]) is not None


def is_command_path(path: str) -> bool:
    """Whether what stands behind `exec://` can be meant: a command, perhaps with a name."""
    command, separator, name = path.partition("/")
    return _COMMAND.fullmatch(command) is not None and (not separator or _NAME.fullmatch(name) is not None)


def command_and_name(path: str) -> tuple[str, str | None]:
    """The command and the name behind `exec://`, once `is_command_path` holds; None for no name."""
    command, separator, name = path.partition("/")
    return command, name if separator else None


def filled(argv: Sequence[str], name: str | None) -> list[str]:
    """The arguments with a name in the placeholder's place; as many as before."""
    return [name if word == PLACEHOLDER and name is not None else word for word in argv]
