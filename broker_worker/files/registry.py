"""`secrets.yaml`: the names that agents use, and where the vault keeps each value."""

from collections.abc import Callable

from agent_sdk.wire.names import check_secret_name
from broker_worker.core.configuration import SecretEntry
from broker_worker.core.references import check_reference
from broker_worker.files.quantities import LONGEST_SECONDS, parse_duration
from broker_worker.files.sections import Section, Value

_PASTED = (
    "the registry holds references, never values: if a value stood here, replace it in the vault; the scheme of an "
    "installed provider needs its section in broker.yaml"
)


def read_registry(secrets: Value, check: Callable[[str], str] = check_reference) -> dict[str, SecretEntry]:
    """Read the `secrets` section.

    Args:
        secrets: a mapping of names to references, or to mappings with `ref`, `ttl_seconds`, `max_stale` and `critical`.
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
    ref = value
    if value.is_mapping:
        entry = value.section("ref", "ttl_seconds", "max_stale", "critical")
        ref = entry.require("ref", why='write `ref: "op://vault/item/field"` or another reference')
        ttl, max_stale, critical = (entry.get(key, private=False) for key in ("ttl_seconds", "max_stale", "critical"))
    return SecretEntry(
        name=name,
        ref=_reference(ref, check),
        ttl_seconds=None if ttl is None else ttl.integer(1, LONGEST_SECONDS),
        origin=section.origin_of(key),
        max_stale_seconds=0 if max_stale is None or max_stale.raw == "0" else max_stale.parsed(parse_duration),
        critical=False if critical is None else critical.boolean(),
    )


def _reference(value: Value, check: Callable[[str], str]) -> str:
    text = value.text("a reference such as op://vault/item/field")
    try:
        return check(text)
    except ValueError as error:
        raise value.error(str(error), _PASTED) from None
