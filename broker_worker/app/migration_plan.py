"""What a migration of env files would do, worked out before anything is changed."""

import re
import stat
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agent_sdk.scan.detection import find_secrets
from agent_sdk.scan.finding import findings_of
from agent_sdk.scan.named_values import judge, names_a_secret
from agent_sdk.wire.names import is_secret_name
from broker_worker.core.configuration import NAME_FIELD, Configuration
from broker_worker.core.errors import SetupError
from broker_worker.core.references import UNVERSIONED_SCHEMES, check_for, scheme_of
from broker_worker.files.env_file import EnvFile, Setting
from broker_worker.providers.local_vault import check_value

_SCHEME: Final = "secret://"
"""What a reference begins with, as the SDK reads it (`agent_sdk.references`)."""
_LOCAL: Final = f"local://{NAME_FIELD}"
_USED: Final = re.compile(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)")


@dataclass(frozen=True, slots=True)
class Choice:
    """What the operator chose.

    Args:
        to: the place of each new name, with `{name}` in it; None for what `create_in` says.
        prefix: what every name begins with, such as `app`.
        names: the names of certain variables.
        include: variables that are moved, whatever they look like.
        exclude: variables that stay.
        agents: who may have what is moved.
    """

    to: str | None = None
    prefix: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    include: frozenset[str] = frozenset()
    exclude: frozenset[str] = frozenset()
    agents: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Move:
    """A variable whose value moves into the vault.

    Args:
        variable: its name in the env file.
        line: its line there.
        name: its secret's name.
        ref: its place.
        is_registered: whether the registry, or a rule of it, knows the name already.
        value: its value.
        written: the value as it is written in the file.
    """

    variable: str
    line: int
    name: str
    ref: str
    is_registered: bool
    value: bytes = field(repr=False)
    written: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class EnvPlan:
    """What happens to one env file.

    Args:
        path: the file itself, links followed.
        mode: its permission bits.
        before: its bytes.
        after: its bytes with references.
        moves: the variables that move, in their order.
        doubtful: variables with a secret's name that stay, since their values do not look like one.
        left: lines with plaintext that is no variable's value and stays, such as a comment with an older key.
    """

    path: Path
    mode: int
    before: bytes = field(repr=False)
    after: bytes = field(repr=False)
    moves: tuple[Move, ...]
    doubtful: tuple[str, ...] = ()
    left: tuple[int, ...] = ()


def plan_file(path: Path, configuration: Configuration, choice: Choice) -> EnvPlan:
    """Work out what happens to an env file.

    Args:
        path: the file.
        configuration: the operator's files.
        choice: what the operator chose.

    Raises:
        SetupError: if it cannot be changed safely.
        ConfigError: if it cannot be read without doubt.
    """
    real = Path(path).resolve()
    try:
        status, before = real.stat(), real.read_bytes() if real.is_file() else b""
    except OSError as error:
        raise SetupError(f"{path} cannot be read: {error.strerror}", hint="name an env file") from error
    if not stat.S_ISREG(status.st_mode):
        raise SetupError(f"{path} is not a plain file", hint="name an env file")
    file = EnvFile(before, str(path))
    chosen = [each for each in file.settings if _is_chosen(each, choice)]
    if chosen:
        _refuse_unsafe(path, status.st_mode, status.st_nlink)
    names = {each.name for each in chosen}
    _refuse_doubles(file, names, str(path))
    _refuse_used(file, names, str(path))
    moves = tuple(_move_of(each, configuration, choice, str(path)) for each in chosen)
    after = file.with_values({move.variable: f"{_SCHEME}{move.name}" for move in moves})
    doubtful = tuple(each.name for each in file.settings if each not in chosen and _is_doubtful(each, choice))
    settings = {each.line for each in file.settings if each.name in choice.exclude}
    found = {each.line for each in findings_of(find_secrets(after, ".env"), after, "", b"")}
    left = tuple(sorted(found - settings))
    return EnvPlan(real, stat.S_IMODE(status.st_mode), before, after, moves, doubtful, left)


def refuse_clashes(plans: Sequence[EnvPlan]) -> None:
    """Refuse two values for one name.

    Raises:
        SetupError: that says which.
    """
    seen: dict[str, Move] = {}
    for move in (move for plan in plans for move in plan.moves):
        other = seen.setdefault(move.name, move)
        if other.value != move.value:
            raise SetupError(
                f"{other.variable} (line {other.line}) and {move.variable} (line {move.line}) have two values and "
                f"would both be called {move.name}",
                hint="migrate the files one by one with --prefix, or give one a name with --name VARIABLE=NAME",
            )


def refuse_unknown(plans: Sequence[EnvPlan], names: Collection[str]) -> None:
    """Refuse variables that the operator names and no file has with a value.

    Raises:
        SetupError: that says which.
    """
    missing = sorted(set(names) - {move.variable for plan in plans for move in plan.moves})
    if missing:
        raise SetupError(f"no file has a value to move for {', '.join(missing)}", hint="check the spelling")


def _is_chosen(setting: Setting, choice: Choice) -> bool:
    if setting.name in choice.exclude or setting.value.startswith(_SCHEME):
        return False
    value = setting.value.encode()
    return (
        setting.name in choice.include
        or judge(setting.name.encode(), value, is_setting=True) is not None
        or bool(find_secrets(value, ".env"))
    )


def _is_doubtful(setting: Setting, choice: Choice) -> bool:
    """Whether people should look: a reference or a template is none, a weak password may be one."""
    if setting.name in choice.exclude or any(mark in setting.value for mark in ("://", "${", "{{", "<")):
        return False
    return names_a_secret(setting.name.encode())


def _refuse_unsafe(path: Path, mode: int, links: int) -> None:
    if not mode & stat.S_IWUSR:
        raise SetupError(f"{path} is read-only", hint=f"chmod u+w '{path}' if it is meant to be changed")
    if links > 1:
        raise SetupError(
            f"{path} has {links} names (hard links), and the others would keep the plaintext",
            hint="remove the other names first",
        )


def _refuse_doubles(file: EnvFile, moved: Collection[str], path: str) -> None:
    """Every line of a variable that moves gets the reference, also one whose value looks like no secret."""
    first: dict[str, Setting] = {}
    for each in file.settings:
        other = first.setdefault(each.name, each)
        if each.name in moved and other.value != each.value:
            raise SetupError(
                f"{path}: {each.name} stands in line {other.line} and in line {each.line} with two values",
                hint="keep the one that is in use",
            )


def _refuse_used(file: EnvFile, moved: Collection[str], path: str) -> None:
    """A value that is made of another one would be made of a reference."""
    for each in file.settings:
        used = set(_USED.findall(each.written)) & set(moved)
        if used:
            raise SetupError(
                f"{path}:{each.line}: {each.name} is made of {', '.join(sorted(used))}, which would become a reference",
                hint="write its value out, or leave the other one where it is with --exclude",
            )


def _move_of(setting: Setting, configuration: Configuration, choice: Choice, file: str) -> Move:
    name = choice.names.get(setting.name) or name_of(setting.name, choice.prefix)
    if name is None or not is_secret_name(name):
        raise SetupError(
            f"{file}:{setting.line}: {setting.name} makes no secret name", hint=f"give one: --name {setting.name}=NAME"
        )
    entry = configuration.entry_of(name)
    ref = _place_of(name, configuration, choice) if entry is None else entry.ref
    value = setting.value.encode()
    check_value(value)
    return Move(setting.name, setting.line, name, ref, entry is not None, value, setting.written.encode())


def name_of(variable: str, prefix: str | None = None) -> str | None:
    """The secret's name for a variable: `OPENAI_API_KEY` is `openai.api_key`.

    Args:
        variable: the variable's name.
        prefix: what the name begins with besides.

    Returns:
        A canonical name; None if the variable makes none.
    """
    words = [word for word in re.split(r"[^a-z0-9]+", variable.lower()) if word]
    name = ".".join(["_".join(words[:1]), *(["_".join(words[1:])] if words[1:] else [])])
    name = f"{prefix}.{name}" if prefix else name
    return name if is_secret_name(name) else None


def _place_of(name: str, configuration: Configuration, choice: Choice) -> str:
    template = choice.to
    if template is None and [each.type for each in configuration.providers] == ["local"]:
        template = _LOCAL
    if template is None:
        raise SetupError(
            f"{name} has no place: neither the registry nor `create_in` of secrets.yaml covers it",
            hint=f"say where with --to, such as --to 'op://Agents/{NAME_FIELD}/credential'",
        )
    return template.replace(NAME_FIELD, name)


def check_template(template: str, configuration: Configuration) -> str:
    """Check `--to`.

    Raises:
        ValueError: with what was expected.
    """
    if template.count(NAME_FIELD) != 1 or set(template.replace(NAME_FIELD, "")) & set('{}"'):
        raise ValueError(f"expected {NAME_FIELD} exactly once, and no other braces and no quotes")
    check_for(configuration.providers)(template.replace(NAME_FIELD, "a"))
    if scheme_of(template) in UNVERSIONED_SCHEMES:
        raise ValueError(f"{scheme_of(template)}:// cannot take new values")
    return template
