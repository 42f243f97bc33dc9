"""`commands` of a section of type `exec`: which programs print a secret, and which arguments they get."""

import re
from collections.abc import Mapping

from broker_worker.core.commands import GIVEN, MAX_SECONDS, PLACEHOLDER, Command, check_arguments, check_command_name
from broker_worker.files.sections import Section, Value

_KEYS = (
    "argv",
    "put_argv",
    "create_argv",
    "timeout_seconds",
    "env",
    "not_found_exit",
    "exists_exit",
    "keep_newline",
)
_EXAMPLE = "write `commands: {pass: {argv: [pass, show, '{name}']}}`"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}", re.ASCII)
_OWN = ("SECRET_BROKER_", "REDIS_URL")
_MAX_COMMANDS, _MAX_VARIABLES = 64, 32


def read_commands(section: Section) -> Mapping[str, Command]:
    """Read the commands of a section of type `exec`.

    Args:
        section: the provider's section, read so that errors repeat nothing of it.

    Raises:
        ConfigError: with file and line; no argument is repeated.
    """
    commands = section.require("commands", why=_EXAMPLE).section(hint=_EXAMPLE)
    found: dict[str, Command] = {}
    for name in commands:
        try:
            check_command_name(name)
        except ValueError as error:
            raise commands.error(str(error), line=commands.origin_of(name).line) from None
        found[name] = _read_command(commands.require(name))
    if not 0 < len(found) <= _MAX_COMMANDS:
        raise commands.error(f"expected 1 to {_MAX_COMMANDS} commands, found {len(found)}", _EXAMPLE)
    return found


def _read_command(value: Value) -> Command:
    section = value.section(*_KEYS, hint="write `{argv: [program, argument]}`")
    argv = _arguments(section, "argv")
    if not argv:
        raise section.error("the key `argv` is missing", "write `argv: [program, argument]`")
    command = Command(
        argv=argv,
        put_argv=_arguments(section, "put_argv"),
        create_argv=_arguments(section, "create_argv"),
        timeout_seconds=_number(section, "timeout_seconds", MAX_SECONDS) or MAX_SECONDS,
        env=_variables(section.get("env")),
        not_found_exit=_number(section, "not_found_exit", 255),
        exists_exit=_number(section, "exists_exit", 255),
        keep_newline=(keep := section.get("keep_newline")) is not None and keep.boolean(),
    )
    for key, words in (("put_argv", command.put_argv), ("create_argv", command.create_argv)):
        if words and (PLACEHOLDER in words) != command.takes_name:
            raise section.require(key).error(f"expected {PLACEHOLDER} here if, and only if, `argv` has it")
    if command.exists_exit is not None and not command.create_argv:
        raise section.require("exists_exit").error("`create_argv` is missing, whose exit code this is")
    return command


def _arguments(section: Section, key: str) -> tuple[str, ...]:
    value = section.get(key)
    if value is None:
        return ()
    words = []
    for item in value.items("write `[program, argument]`"):
        if item.is_mapping:  # what YAML makes of {name} in a list that is written in brackets
            raise item.error("found a mapping, expected a program or an argument", f'write "{PLACEHOLDER}", in quotes')
        words.append(item.text("a program or an argument"))
    try:
        return check_arguments(words)
    except ValueError as error:
        raise value.error(str(error)) from None


def _number(section: Section, key: str, most: int) -> int | None:
    value = section.get(key)
    return None if value is None else value.integer(1, most)


def _variables(value: Value | None) -> tuple[str, ...]:
    found: list[str] = []
    for item in value.items("write `[GNUPGHOME]`") if value is not None else ():
        name = item.text("the name of an environment variable")
        if _VARIABLE.fullmatch(name) is None:  # it is not repeated: somebody may have put the secret itself there
            raise item.error("expected the name of an environment variable", "the name, not the value")
        if name.startswith(_OWN):
            raise item.error("this variable belongs to the broker itself and is never handed out")
        if name in GIVEN:
            raise item.error(f"{', '.join(GIVEN)} are given to every command", "leave it out")
        found.append(name)
    if value is not None and len(found) > _MAX_VARIABLES:
        raise value.error(f"expected at most {_MAX_VARIABLES} variables")
    return tuple(found)
