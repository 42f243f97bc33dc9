"""`notifications` in `broker.yaml`: where people are told that an approval waits for them."""

import re
from pathlib import Path

from broker_worker.core.notifications import COMMAND_KIND, HTTP_KINDS, NotificationTarget, check_target_url
from broker_worker.files.approvers import check_person_name
from broker_worker.files.sections import Section, Value
from broker_worker.files.yaml_reader import read_yaml

_KEYS = ("name", "kind", "groups", "url", "url_env", "url_file", "secret_env", "command")
_PLACES = ("url", "url_env", "url_file")
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,63}", re.ASCII)  # an address or a key would hardly pass for one
_MAX_TARGETS, _MAX_ARGUMENTS = 32, 32


def read_notifications(value: Value | None) -> tuple[NotificationTarget, ...]:
    """Read the `notifications` section.

    Args:
        value: a list of targets, read so that errors repeat nothing of it; None if there is none.

    Raises:
        ConfigError: with file and line; it never repeats an address.
    """
    found: dict[str, NotificationTarget] = {}
    for item in value.items() if value is not None else ():
        target = _read_target(item.section(*_KEYS, hint="write `{name: ops, kind: slack, url_env: SLACK_URL}`"))
        if target.name in found:
            raise item.error(f"a second target called `{target.name}`", "give each its own name")
        found[target.name] = target
        if len(found) > _MAX_TARGETS:
            raise item.error(f"more than {_MAX_TARGETS} targets", "let one of them pass the news on")
    return tuple(found.values())


def load_notifications(path: Path) -> tuple[NotificationTarget, ...]:
    """Read the targets alone: all that the process that notifies people knows of the operator's files.

    Args:
        path: the folder of the operator's files, or the single file.

    Raises:
        ConfigError: with file and line.
    """
    file = path / "broker.yaml" if path.is_dir() else path
    document = Section(read_yaml(file), file=str(file), origin=file.name, what="top level")
    return read_notifications(document.get("notifications", private=True))


def _read_target(section: Section) -> NotificationTarget:
    name = _required(section, "name", "what the audit calls it").name(check_person_name)
    kind = _required(section, "kind", "what it understands").choice(*HTTP_KINDS, COMMAND_KIND)
    groups = section.get("groups", private=False)
    addresses = ("command",) if kind == COMMAND_KIND else _PLACES
    for key in section:
        if key in {*_PLACES, "command"} and key not in addresses:
            raise section.error(f"`{key}` does not belong to kind `{kind}`", f"write {_either(addresses)}")
    given = [key for key in addresses if key in section]
    if len(given) != 1:
        raise section.error(f"expected exactly one of {_either(addresses)}, found {len(given)}")
    secret = section.get("secret_env")
    if secret is not None and kind != "webhook":
        raise section.error(f"`secret_env` does not belong to kind `{kind}`", "only a webhook's body is signed")
    return NotificationTarget(
        name=name,
        kind=kind,
        groups=tuple(item.name(check_person_name) for item in groups.items()) if groups is not None else (),
        origin=section.origin,
        url=_address(section.get("url")),
        url_env=_variable(section.get("url_env")),
        url_file=_path(section.get("url_file")),
        secret_env=_variable(secret),
        command=_command(section.get("command")),
    )


def _required(section: Section, key: str, why: str) -> Value:
    return section.require(key, why=why, private=False)


def _either(keys: tuple[str, ...]) -> str:
    return ", ".join(f"`{key}`" for key in keys)


def _address(value: Value | None) -> str | None:
    if value is None:
        return None
    text = value.text("an address such as https://hooks.slack.com/services/…")
    try:
        return check_target_url(text)
    except ValueError as error:
        raise value.error(str(error)) from None


def _variable(value: Value | None) -> str | None:
    if value is None:
        return None
    text = value.text("the name of an environment variable")
    if _VARIABLE.fullmatch(text) is None:
        raise value.error("expected the name of an environment variable", "the variable holds it, not the file")
    return text


def _path(value: Value | None) -> str | None:
    if value is None:
        return None
    text = value.text("an absolute path")
    if not Path(text).is_absolute():
        raise value.error("expected an absolute path")
    return text


def _command(value: Value | None) -> tuple[str, ...]:
    if value is None:
        return ()
    words = tuple(item.text("a program or an argument") for item in value.items("write `[/usr/bin/program, argument]`"))
    if not 0 < len(words) <= _MAX_ARGUMENTS or not Path(words[0]).is_absolute():
        raise value.error(f"expected the absolute path of a program and at most {_MAX_ARGUMENTS - 1} arguments")
    return words
