"""`broker.yaml`: how the broker itself runs: its cache, its vaults, and where gateway and dashboard listen."""

from ipaddress import ip_address

from broker_worker.core.budget import DEFAULT_BUDGETS, MAX_READS, MAX_RESERVE, RESERVE_PERCENT, Budget
from broker_worker.core.configuration import CacheSettings, Dashboard, ProviderSettings, ServerSettings
from broker_worker.core.references import SCHEMES, can_be_installed, nearest_type
from broker_worker.files import sealed_cache
from broker_worker.files.approvers import read_origin
from broker_worker.files.commands import read_commands
from broker_worker.files.quantities import LONGEST_SECONDS
from broker_worker.files.sections import Section, Value

KEYS = ("server", "dashboard", "notifications", "provider", "providers", "cache")
_MAX_ENTRIES = 1_000_000


def read_cache(value: Value | None, *, without_maximum: int | None) -> CacheSettings:
    """Read the `cache` section.

    Args:
        value: the section; None for the defaults.
        without_maximum: what `max_ttl_seconds` is where the section leaves it out, None for no maximum.

    Raises:
        ConfigError: with file and line.
    """
    default = CacheSettings()
    if value is None:
        return default
    section = value.section("default_ttl_seconds", "max_ttl_seconds", "max_entries", *sealed_cache.KEYS)
    ttl, entries = section.get("default_ttl_seconds"), section.get("max_entries")
    most = _maximum(section.get("max_ttl_seconds"), without_maximum)
    if ttl is not None:
        default_ttl = ttl.integer(1, LONGEST_SECONDS)
        if most is not None and default_ttl > most:
            hint = "raise `max_ttl_seconds`, or write `max_ttl_seconds: none`"
            raise ttl.error(f"{default_ttl} is more than the maximum of {most}", hint)
    else:
        default_ttl = default.default_ttl_seconds if most is None else min(default.default_ttl_seconds, most)
    max_entries = default.max_entries if entries is None else entries.integer(1, _MAX_ENTRIES)
    return CacheSettings(default_ttl, most, max_entries, sealed_cache.read_sealed(section))


def _maximum(value: Value | None, otherwise: int | None) -> int | None:
    if value is None:
        return otherwise
    return None if value.raw == "none" else value.integer(1, LONGEST_SECONDS)


def read_server(value: Value | None) -> ServerSettings | None:
    """Read the `server` section.

    Raises:
        ConfigError: with file and line; also for any address that other hosts could reach.
    """
    if value is None:
        return None
    section = value.section("host", "port")
    host, port = section.get("host"), section.get("port")
    default = ServerSettings()
    return ServerSettings(
        host=default.host if host is None else _loopback(host),
        port=default.port if port is None else port.integer(1, 65_535),
    )


def read_dashboard(value: Value | None) -> Dashboard:
    """Read the `dashboard` section.

    Raises:
        ConfigError: with file and line.
    """
    if value is None:
        return Dashboard()
    section = value.section("port", "origin")
    written, origin = section.get("port"), section.get("origin")
    port = Dashboard().port if written is None else written.integer(1024, 65_535)
    return Dashboard(port, f"http://localhost:{port}" if origin is None else read_origin(origin))


def _loopback(value: Value) -> str:
    text = value.text("a loopback address such as 127.0.0.1")
    try:
        local = text == "localhost" or ip_address(text).is_loopback
    except ValueError:
        local = False
    if not local:
        raise value.expected("a loopback address: 127.0.0.1, ::1 or localhost", "the broker never listens to a network")
    return text


def read_providers(document: Section) -> tuple[ProviderSettings, ...]:
    """Read `provider` (one) or `providers` (a list).

    Raises:
        ConfigError: with file and line; it never repeats an option's value.
    """
    document.refuse_both("provider", "providers")
    one, several = document.get("provider", private=True), document.get("providers", private=True)
    if one is not None:
        return (_read_provider(one),)
    found: list[ProviderSettings] = []
    for item in several.items() if several is not None else ():
        provider = _read_provider(item)
        if any(provider.type == other.type for other in found):
            raise item.error(f"a second provider of type `{provider.type}`", "keep one: a scheme has one provider")
        found.append(provider)
    return tuple(found)


def _read_provider(value: Value) -> ProviderSettings:
    section = value.section(hint="write `type: onepassword`, `local` or `env` below it")
    kind = _type(section.require("type", why="write `type: onepassword`, `local` or `env`", private=False))
    taken = {"type", "budget", "commands"} if kind == SCHEMES["exec"] else {"type", "budget"}
    return ProviderSettings(
        type=kind,
        options={key: _option(section.require(key)) for key in section if key not in taken},
        origin=section.origin,
        budget=_read_budget(section.get("budget", private=False), DEFAULT_BUDGETS.get(kind)),
        commands=read_commands(section) if "commands" in taken else {},
    )


def _read_budget(value: Value | None, default: Budget | None) -> Budget | None:
    """Read `budget` of a provider; `none` for no budget."""
    if value is None or value.raw == "none":
        return default if value is None else None
    section = value.section("reads_per_hour", "reads_per_day", "reserve_percent", hint="or write `none`")
    hour, day, reserve = (section.get(key) for key in ("reads_per_hour", "reads_per_day", "reserve_percent"))
    if hour is None and day is None:
        raise section.error("a budget without a limit", "write `reads_per_hour`, `reads_per_day` or both")
    return Budget(
        None if hour is None else hour.integer(1, MAX_READS),
        None if day is None else day.integer(1, MAX_READS),
        RESERVE_PERCENT if reserve is None else reserve.integer(0, MAX_RESERVE),
    )


def _type(value: Value) -> str:
    """A built-in type, or what may be one of an installed package: whether it is, is found out when it is made."""
    built_in, text = tuple(SCHEMES.values()), value.raw or ""
    if can_be_installed(text):
        return text
    near = nearest_type(text)
    return value.choice(*built_in, hint=f"did you mean `{near}`?" if near else "")


def _option(value: Value) -> str | int | bool:
    """An option as it stands; which ones there are is the provider's to say."""
    if value.is_number:
        return value.integer(0, 2**31)
    return value.boolean() if value.is_boolean else value.text("a text, a whole number, true or false")
