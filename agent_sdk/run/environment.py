"""From the places where variables come from to one environment, and the secrets that it refers to.

The later place wins: this process's own environment, env files in the order given, then options.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent_sdk.credential import DESCRIPTOR_VARIABLE, FILE_VARIABLE, TEXT_VARIABLE
from agent_sdk.errors import InvalidRequest
from agent_sdk.references import SCHEME, referenced_name
from agent_sdk.run.env_file import read_env_file
from agent_sdk.wire.messages import Delivery

CREDENTIAL_VARIABLES: Final = frozenset({DESCRIPTOR_VARIABLE, FILE_VARIABLE, TEXT_VARIABLE})


@dataclass(frozen=True, slots=True)
class Environment:
    """What a command is to find in its environment.

    Args:
        plain: variables that hold what they hold.
        in_variables: for each variable that a value goes into, the secret's name.
        in_files: for each variable that names a file with a value, the secret's name.
    """

    plain: Mapping[str, str]
    in_variables: Mapping[str, str]
    in_files: Mapping[str, str]

    @property
    def wanted(self) -> Mapping[str, Delivery]:
        """For each secret that it refers to, how its value is wanted."""
        variables, files = dict.fromkeys(self.in_variables.values()), dict.fromkeys(self.in_files.values())
        wanted: dict[str, Delivery] = {name: "env,file" if name in files else "env" for name in variables}
        return wanted | {name: "file" for name in files if name not in variables}

    def filled(self, values: Mapping[str, bytes], paths: Mapping[str, str]) -> dict[bytes, bytes]:
        """The environment with its values in place.

        Args:
            values: for each name of `in_variables`, the secret's value.
            paths: for each variable of `in_files`, the file's path.

        Raises:
            InvalidRequest: if a value cannot be in an environment.
        """
        filled = {os.fsencode(name): os.fsencode(text) for name, text in self.plain.items()}
        for variable, name in self.in_variables.items():
            if b"\0" in values[name]:
                raise InvalidRequest(
                    f"{name}: its value has a NUL byte, which no environment can hold: "
                    f"use --file {variable}={SCHEME}{name}"
                )
            filled[os.fsencode(variable)] = values[name]
        filled.update({os.fsencode(variable): os.fsencode(path) for variable, path in paths.items()})
        return filled


def read_environment(
    own: Mapping[str, str], env_files: Iterable[Path], options: Iterable[str], file_options: Iterable[str]
) -> Environment:
    """Put an environment together.

    Args:
        own: the environment of this process.
        env_files: env files; a later one wins.
        options: `NAME=secret://…`; a later one wins.
        file_options: the same, for values that are wanted as files.

    Raises:
        InvalidRequest: says where a reference, a file or an option is wrong, without what stands there.
        OSError: if an env file cannot be read.
    """
    plain = {name: text for name, text in own.items() if name not in CREDENTIAL_VARIABLES}
    in_variables: dict[str, str] = {}
    _add(plain, in_variables, plain.copy(), "the environment")
    for path in env_files:
        _add(plain, in_variables, read_env_file(path), str(path))
    given = dict(_option(text, "--env") for text in options)
    in_files = dict(_option(text, "--file") for text in file_options)
    if twice := sorted(given.keys() & in_files.keys()):
        raise InvalidRequest(f"{twice[0]} is given by --env and by --file: one of them is enough")
    in_variables.update(given)
    for variable in in_files:
        in_variables.pop(variable, None)
    for variable in (*in_variables, *in_files):
        plain.pop(variable, None)
    return Environment(plain, in_variables, in_files)


def _add(plain: dict[str, str], in_variables: dict[str, str], found: Mapping[str, str], place: str) -> None:
    """Take the variables of one place over those of earlier ones."""
    for variable, text in found.items():
        try:
            name = referenced_name(text)
        except InvalidRequest as error:
            raise InvalidRequest(f"{place}: {variable}: {error}") from None
        if name is None:
            plain[variable] = text
            in_variables.pop(variable, None)
        else:
            plain.pop(variable, None)
            in_variables[variable] = name


def _option(text: str, option: str) -> tuple[str, str]:
    """Variable and secret of one option. What is no reference may be a value, so no message repeats it."""
    variable, separator, reference = text.partition("=")
    if not separator or not variable.isidentifier() or not variable.isascii():
        raise InvalidRequest(f"{option} takes NAME={SCHEME}…, with a NAME of letters, digits and underscores")
    try:
        name = referenced_name(reference)
    except InvalidRequest as error:
        raise InvalidRequest(f"{option} {variable}: {error}") from None
    if name is None:
        raise InvalidRequest(
            f"{option} {variable} takes a reference, {SCHEME}…: others can read a command line, so no value goes "
            "there. Plain variables are set as usual, before `secret-agent`, or in an env file"
        )
    return variable, name
