"""Provider types of other packages, found through the entry point group `secret_broker.providers`.

Looking for them reads the metadata of what is installed and imports nothing; a type is imported when it is asked for
by name. What others wrote may fail in any way: each way is a `ConfigError` that names the distribution.

Source: Python Packaging User Guide, "Entry points specification".
"""

import os
import sys
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from inspect import iscoroutinefunction
from typing import Final

from broker_worker.core.configuration import SecretEntry
from broker_worker.core.errors import BrokerError, ConfigError
from broker_worker.core.references import can_be_installed, type_of
from broker_worker.ports import Provider
from broker_worker.providers.options import Options, Surroundings
from broker_worker.providers.plugin import ProviderKind

GROUP: Final = "secret_broker.providers"
_ASYNC: Final = ("get_many", "put", "health", "close")


class InstalledTypes:
    """What the installed distributions offer, as of the moment at which it is made; nothing of it is imported."""

    def __init__(self) -> None:
        self._offers: dict[str, list[EntryPoint]] = {}
        for offer in _offers(tuple((path, _changed(path)) for path in sys.path)):
            self._offers.setdefault(offer.name, []).append(offer)

    @property
    def names(self) -> tuple[str, ...]:
        """The types that can be configured."""
        return tuple(sorted(name for name in self._offers if can_be_installed(name)))

    def refuse_collision(self, kind: str, options: Options) -> None:
        """Refuse a built-in type that a distribution offers as well.

        Raises:
            ConfigError: that names the distribution.
        """
        if kind in self._offers:
            raise options.refuse(f"{_named(self._offers[kind])} offers this built-in type as well", _UNINSTALL)

    def load(self, kind: str, options: Options) -> "InstalledKind":
        """Import a type that is among `names`.

        Raises:
            ConfigError: that names the distribution, if it cannot be used.
        """
        offers = self._offers[kind]
        whose = _named(offers)
        if len(offers) > 1:
            raise options.refuse(f"{whose} offer this type, expected one of them", _UNINSTALL)
        problem = ""
        try:
            found = offers[0].load()
        except (Exception, SystemExit) as error:  # noqa: BLE001  # foreign code; its text may hold anything
            missing = error.name if isinstance(error, ModuleNotFoundError) else None
            problem = f"the module {missing} is missing" if missing else type(error).__name__
        if problem:  # raised out here, so that no context shows what foreign code said
            hint = "import it with the broker's Python to see why, or install another version"
            raise options.refuse(f"{whose} cannot be loaded: {problem}", hint)
        if not isinstance(found, ProviderKind):
            raise options.refuse(f"{whose} gives a {type(found).__name__}, expected a ProviderKind", _ITS_AUTHOR)
        return InstalledKind(kind, found, whose)


class InstalledKind:
    """A provider type of others that was imported.

    Args:
        scheme: its type, which is its scheme too.
        kind: what the distribution gave.
        whose: the distribution, for errors.
    """

    def __init__(self, scheme: str, kind: ProviderKind, whose: str) -> None:
        self.scheme = scheme
        self.options = kind.options
        self._kind = kind
        self._whose = whose

    def make(self, options: Options, around: Surroundings) -> Provider:
        """Make its provider.

        Raises:
            ConfigError: if an option cannot be used, or if that is no provider of this type.
        """
        problem = ""
        try:
            provider = self._kind.make(options, around)
            does = [iscoroutinefunction(getattr(provider, name, None)) for name in _ASYNC]
            if provider.name != self.scheme or not all(does):
                problem = "it is no provider of this name"
        except ConfigError:
            raise
        except BrokerError as error:
            problem = str(error)
        except Exception as error:  # noqa: BLE001  # foreign code; its text may hold anything
            problem = type(error).__name__
        if problem:
            raise options.refuse(f"{self._whose} made no provider: {problem}", _ITS_AUTHOR)
        return provider

    def check(self, registry: Iterable[SecretEntry]) -> None:
        """Check the references of this scheme.

        Raises:
            ConfigError: with the place of the first that cannot be meant; it is not repeated.
        """
        for entry in registry:
            if type_of(entry.ref) == self.scheme and not self._fits(entry):
                message = f"secret `{entry.name}`: the reference is not of the form {self._kind.form}"
                place = entry.origin
                raise ConfigError(message, file=place.file, line=place.line, hint=f"so says {self._whose}")

    def _fits(self, entry: SecretEntry) -> bool:
        problem = ""
        try:
            return self._kind.check(entry.ref.partition("://")[2]) is True
        except Exception as error:  # noqa: BLE001  # foreign code; its text may hold the reference
            problem = f"secret `{entry.name}`: {self._whose} could not check the reference: {type(error).__name__}"
        raise ConfigError(problem, file=entry.origin.file, line=entry.origin.line, hint=_ITS_AUTHOR)


_UNINSTALL: Final = "uninstall what is not meant"
_ITS_AUTHOR: Final = "this is for its author to mend: see `broker_worker.providers.plugin`"


@lru_cache(maxsize=1)
def _offers(_folders: tuple[tuple[str, int | None], ...]) -> tuple[EntryPoint, ...]:
    """What is offered in these folders; to read it again takes ten milliseconds, and all that is loaded asks for it."""
    return tuple(entry_points(group=GROUP))


def _changed(folder: str) -> int | None:
    """When something was installed into a folder of the path, or removed from it; None if there is no such folder."""
    try:
        return os.stat(folder or ".").st_mtime_ns  # noqa: PTH116  # asked for each entry of the path, always
    except OSError:
        return None


def _named(offers: Iterable[EntryPoint]) -> str:
    """The distributions of offers, with their versions."""
    found: Mapping[str, None] = {
        f"{offer.dist.name} {offer.dist.version}" if offer.dist is not None else "an unknown distribution": None
        for offer in offers
    }
    return " and ".join(found)
