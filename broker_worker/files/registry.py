"""`secrets.yaml`: the names that agents use, and where the vault keeps each value."""

from collections.abc import Callable, Mapping

from agent_sdk.wire.errors import WireError
from agent_sdk.wire.names import NamePattern, check_secret_name, is_secret_name
from broker_worker.core.configuration import NAME_FIELD, CreationRule, SecretEntry
from broker_worker.core.places import versioned_part
from broker_worker.core.references import UNVERSIONED_SCHEMES, check_reference, scheme_of
from broker_worker.files.quantities import LONGEST_SECONDS, parse_duration
from broker_worker.files.rotation_rule import read_rotation_rule
from broker_worker.files.sections import Section, Value

KEYS = ("secrets", "create_in")
"""The keys of `secrets.yaml`."""
_PASTED = (
    "the registry holds references, never values: if a value stood here, replace it in the vault; the scheme of an "
    "installed provider needs its section in broker.yaml"
)


def read_registry(secrets: Value, check: Callable[[str], str] = check_reference) -> dict[str, SecretEntry]:
    """Read the `secrets` section.

    Args:
        secrets: a mapping of names to references, or to mappings with `ref`, `ttl_seconds`, `max_stale`, `critical` and
            `rotation`.
        check: checks a reference, and raises ValueError with what was expected.

    Raises:
        ConfigError: with file and line; it never repeats what stands in a reference's place.
    """
    section = secrets.section(hint="write `{}` for a registry without secrets")
    return {name: _read_entry(section, name, check) for name in section}


def _read_entry(section: Section, key: str, check: Callable[[str], str]) -> SecretEntry:
    name = section.key(key, check_secret_name)
    value = section.get(key, what=f"secret `{name}`", private=True)
    assert value is not None
    ttl: Value | None = None
    max_stale: Value | None = None
    critical: Value | None = None
    rotation: Value | None = None
    ref = value
    if value.is_mapping:
        entry = value.section("ref", "ttl_seconds", "max_stale", "critical", "rotation")
        ref = entry.require("ref", why='write `ref: "op://vault/item/field"` or another reference')
        ttl, max_stale, critical = (entry.get(key, private=False) for key in ("ttl_seconds", "max_stale", "critical"))
        rotation = entry.get("rotation", private=False)
    reference = _reference(ref, check)
    return SecretEntry(
        name=name,
        ref=reference,
        ttl_seconds=None if ttl is None else ttl.integer(1, LONGEST_SECONDS),
        origin=section.origin_of(key),
        max_stale_seconds=0 if max_stale is None or max_stale.raw == "0" else max_stale.parsed(parse_duration),
        critical=False if critical is None else critical.boolean(),
        rotation=None if rotation is None else read_rotation_rule(rotation, reference, check),
    )


def _reference(value: Value, check: Callable[[str], str]) -> str:
    text = value.text("a reference such as op://vault/item/field")
    try:
        return check(text)
    except ValueError as error:
        raise value.error(str(error), _PASTED) from None


def read_creation_rules(
    value: Value | None, registry: Mapping[str, SecretEntry], check: Callable[[str], str] = check_reference
) -> tuple[CreationRule, ...]:
    """Read `create_in`: where names are kept that agents create.

    Args:
        value: a list of mappings with `pattern`, `ref` and perhaps `ttl_seconds`; None for no such names.
        registry: the names that have places of their own, which no created name may reach.
        check: checks a reference, and raises ValueError with what was expected.

    Raises:
        ConfigError: with file and line.
    """
    rules: list[CreationRule] = []
    for item in value.items(hint="write `- {pattern: NAMES, ref: TEMPLATE}` below it") if value is not None else ():
        section = item.section("pattern", "ref", "ttl_seconds", hint="write `{pattern: NAMES, ref: TEMPLATE}`")
        rule = _read_rule(section, item, check)
        for other in rules:
            if not _is_apart(rule.template, other.template):
                message = f"a name could have the same place by this rule and by {other.origin}"
                raise item.error(message, "let the references begin differently, or be the same")
        for entry in registry.values():
            reached = rule.name_at(entry.ref)
            if reached is not None and is_secret_name(reached) and rule.pattern.matches(reached):
                if reached == entry.name:
                    continue
                message = f"whoever may write `{reached}` would reach the place of `{entry.name}` ({entry.origin})"
                raise item.error(message, "let the references of created names begin differently")
        rules.append(rule)
    return tuple(rules)


def _read_rule(section: Section, item: Value, check: Callable[[str], str]) -> CreationRule:
    pattern = section.require("pattern", why="such as `pattern: agents.claude.*`")
    ref = section.require("ref", why=f'such as `ref: "local://made.{NAME_FIELD}"`', private=True)
    ttl = section.get("ttl_seconds")
    template = ref.text(f"a reference with {NAME_FIELD} in it")
    if template.count(NAME_FIELD) != 1 or set(template.replace(NAME_FIELD, "")) & set("{}"):
        hint = f"write {NAME_FIELD} where the whole name belongs, and no other braces"
        raise ref.error(f"the reference does not have {NAME_FIELD} exactly once", hint)
    try:
        covered = NamePattern(pattern.text("a pattern such as agents.claude.*"))
    except WireError as error:
        raise pattern.error(str(error)) from None
    try:
        check(template.replace(NAME_FIELD, "a"))  # providers refuse a name that is too long for its place
    except ValueError as error:
        raise ref.error(str(error), _PASTED) from None
    if scheme_of(template) in UNVERSIONED_SCHEMES:
        raise ref.error(f"{scheme_of(template)}:// takes no names that agents create", "name a place in another vault")
    if NAME_FIELD not in versioned_part(template):
        raise ref.error("the name would choose a part of one secret", f"let {NAME_FIELD} name a secret of its own")
    if "?" in template:
        raise ref.error("a place to write to takes no query", "leave out `?` and what follows")
    return CreationRule(
        pattern=covered,
        template=template,
        ttl_seconds=None if ttl is None else ttl.integer(1, LONGEST_SECONDS),
        origin=item.origin,
    )


def _is_apart(one: str, other: str) -> bool:
    """Whether two templates never make one reference of two names; vaults may compare without regard to case."""
    one, other = one.casefold(), other.casefold()
    begins = [template.partition(NAME_FIELD)[0] for template in (one, other)]
    return one == other or not (begins[0].startswith(begins[1]) or begins[1].startswith(begins[0]))
