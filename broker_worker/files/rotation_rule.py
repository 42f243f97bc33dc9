"""`rotation:` of an entry in `secrets.yaml`: how its next version is made, tried and put in force."""

import re
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import urlsplit

from broker_worker.core.recipes import parse_recipe
from broker_worker.core.references import UNVERSIONED_SCHEMES, scheme_of
from broker_worker.core.rotation import CommandProbe, HttpProbe, RotationRule
from broker_worker.files.quantities import parse_duration
from broker_worker.files.sections import Section, Value

_LONGEST_PROBE = 60
_SHORTEST_PERIOD = 3600
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,63}", re.ASCII)
_HEADER = re.compile(r"[A-Za-z0-9-]{1,64}", re.ASCII)
_HERE: Final = frozenset({"127.0.0.1", "::1", "localhost"})


def read_rotation_rule(value: Value, ref: str, check: Callable[[str], str]) -> RotationRule:
    """Read the `rotation` of an entry.

    Args:
        value: a mapping.
        ref: the entry's reference.
        check: checks a reference, and raises ValueError with what was expected.

    Raises:
        ConfigError: with file and line.
    """
    section = value.section(
        "recipe", "probe", "draft", "every", "old_leases", hint="write `rotation: {recipe: RECIPE, probe: PROBE}`"
    )
    if scheme_of(ref) in UNVERSIONED_SCHEMES:
        raise value.error(f"{scheme_of(ref)}:// tells no versions, so nothing there can be rotated", "remove it")
    every, old_leases = section.get("every"), section.get("old_leases")
    recipe = section.require("recipe", why="such as `recipe: password:24`")
    recipe.parsed(parse_recipe)
    return RotationRule(
        recipe=recipe.text(),
        probe=_probe(section.require("probe", why="name a command or a URL that tries the new value")),
        draft=_draft(section, ref, check),
        every_seconds=None if every is None else every.parsed(_period),
        old_leases="revoke" if old_leases is not None and old_leases.choice("wait", "revoke") == "revoke" else "wait",
    )


def _draft(section: Section, ref: str, check: Callable[[str], str]) -> str:
    value = section.get("draft", private=True)
    if value is None:
        if scheme_of(ref) != "local":
            raise section.error(
                "the draft has no place", f"write `draft:` and a {scheme_of(ref)}:// reference of its own"
            )
        text = f"{ref}.draft"
        try:
            return check(text)
        except ValueError:
            raise section.error("the name is too long for a draft beside it", "write `draft: local://NAME`") from None
    text = value.text("a reference for the new value until it is in force")
    try:
        check(text)
    except ValueError as error:
        raise value.error(str(error)) from None
    if scheme_of(text) in UNVERSIONED_SCHEMES or text == ref:
        raise value.error("a draft cannot be kept there", "name a place of its own that can be written")
    return text


def _probe(value: Value) -> CommandProbe | HttpProbe:
    section = value.section("command", "env", "url", "header", "prefix", "status", "timeout")
    section.refuse_both("command", "url")
    timeout = section.get("timeout")
    seconds = 30 if timeout is None else timeout.parsed(_patience)
    if "command" not in section:
        return _http(section, seconds)
    for key in ("header", "prefix", "status"):
        if key in section:
            raise section.require(key).error("it is for `url`, and this probe is a command", "remove it")
    variable = section.get("env")
    return CommandProbe(_arguments(section.require("command")), None if variable is None else _name(variable), seconds)


def _http(section: Section, seconds: int) -> HttpProbe:
    url, default = section.require("url", why="or `command: [/path/to/program]`"), HttpProbe("")
    if "env" in section:
        raise section.require("env").error("it is for `command`, and this probe is a URL", "remove it")
    header, prefix, status = section.get("header"), section.get("prefix"), section.get("status")
    if header is not None and _HEADER.fullmatch(header.text()) is None:
        raise header.expected("the name of a header")
    if prefix is not None and not (prefix.raw or "").isprintable():
        raise prefix.expected("a text without line breaks")
    return HttpProbe(
        url=_address(url),
        header=default.header if header is None else header.text(),
        prefix=default.prefix if prefix is None else prefix.raw or "",
        status=default.status if status is None else status.integer(200, 299),
        timeout_seconds=seconds,
    )


def _address(value: Value) -> str:
    text = value.text("an address such as https://api.example.com/me")
    try:
        parts = urlsplit(text)
        host, has_login = parts.hostname or "", bool(parts.username or parts.password)
        _ = parts.port  # raises if there can be no such port
    except ValueError:
        raise value.expected("an address such as https://api.example.com/me") from None
    if not host or has_login or not (parts.scheme == "https" or (parts.scheme == "http" and host in _HERE)):
        raise value.error("the value would not be safe there", "use https, or http on this host, and no login in it")
    return text


def _arguments(value: Value) -> tuple[str, ...]:
    arguments = tuple(item.text("an argument") for item in value.items(hint="write `command: [/path/to/program]`"))
    if not arguments or not PurePosixPath(arguments[0]).is_absolute():
        raise value.error(
            "the program is not named by its absolute path", "write `command: [/path/to/program, ARGUMENT]`"
        )
    return arguments


def _name(value: Value) -> str:
    text = value.text("the name of an environment variable")
    if _VARIABLE.fullmatch(text) is None:
        raise value.expected("the name of an environment variable, in upper case")
    return text


def _period(text: str) -> int:
    seconds = parse_duration(text)
    if seconds < _SHORTEST_PERIOD:
        raise ValueError("expected a duration of an hour or more, such as 30d")
    return seconds


def _patience(text: str) -> int:
    seconds = parse_duration(text)
    if not 1 <= seconds <= _LONGEST_PROBE:
        raise ValueError(f"expected a duration of 1s to {_LONGEST_PROBE}s")
    return seconds
