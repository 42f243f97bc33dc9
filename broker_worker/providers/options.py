"""What a provider is made from: the options of its section in `broker.yaml`, and what it may use of this host."""

import difflib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from broker_worker.core.commands import Command
from broker_worker.core.configuration import ProviderSettings
from broker_worker.core.errors import ConfigError

_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,63}", re.ASCII)  # a token or a passphrase would hardly pass for one


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What providers may use of this host.

    Args:
        vault_file: the local vault, unless the section says `path`.
        vault_key_file: its key file, unless the section says `key_file`.
        load_vault_key: reads a key file's 32 bytes; raises `SetupError` if that cannot be done.
        environ: the environment; taken now, so a later change has no effect.
        now: the time, ms since the epoch.
        monotonic: a clock in seconds that never goes back.
    """

    vault_file: Path
    vault_key_file: Path
    load_vault_key: Callable[[Path], bytes] = field(repr=False)
    environ: Mapping[str, str] = field(repr=False)
    now: Callable[[], int]
    monotonic: Callable[[], float] = time.monotonic


class Options:
    """Typed access to a section's options, with the section's place in every error. No option's value is repeated.

    Args:
        settings: the section.
    """

    def __init__(self, settings: ProviderSettings) -> None:
        self._settings = settings

    @property
    def commands(self) -> Mapping[str, Command]:
        """The commands of a section of type `exec`."""
        return self._settings.commands

    def refuse(self, message: str, hint: str) -> ConfigError:
        """An error about this section, to be raised.

        Args:
            message: what was found and what was expected; never an option's value.
            hint: what to do about it.
        """
        origin = self._settings.origin
        return ConfigError(f"provider {self._settings.type}: {message}", file=origin.file, line=origin.line, hint=hint)

    def check_keys(self, known: Sequence[str]) -> None:
        """Refuse options that are not in `known`."""
        for key in self._settings.options:
            if key not in known:
                near = difflib.get_close_matches(key, known, 1)
                listed = f"it takes {', '.join(known)}" if known else "it takes no options"
                raise self.refuse(f"unknown option {key!r}", f"did you mean {near[0]!r}?" if near else listed)

    def has(self, key: str) -> bool:
        """Whether an option is given."""
        return key in self._settings.options

    def matching(self, key: str, fits: Callable[[str], object], what: str, hint: str) -> str | None:
        """A text of a certain form; None if it is not given.

        Args:
            key: the option.
            fits: whether a text has the form; the result counts as true or false.
            what: the form, for the error.
            hint: what to write.
        """
        value = self._settings.options.get(key)
        if value is None or (isinstance(value, str) and fits(value)):
            return value
        raise self.refuse(f"{key} is not {what}", hint)

    def path(self, key: str, default: Path) -> Path:
        """An absolute path; `~` is the home of the broker's user."""
        value = self._settings.options.get(key)
        if value is None:
            return default
        if not isinstance(value, str) or not value or "\x00" in value or not Path(value).expanduser().is_absolute():
            raise self.refuse(f"{key} is not an absolute path", "write it from / on, or from ~/ on")
        return Path(value).expanduser()

    def variable(self, key: str, default: str) -> str:
        """The name of an environment variable, in upper case."""
        value = self._settings.options.get(key, default)
        if not isinstance(value, str) or _VARIABLE.fullmatch(value) is None:
            raise self.refuse(  # the value is not repeated: somebody may have put the secret itself there
                f"{key} is not the name of an environment variable",
                f"write the name in upper case, such as {default}, not the value",
            )
        return value

    def seconds(self, key: str, default: int, most: int) -> int:
        """A whole number of seconds from 1 to `most`."""
        value = self._settings.options.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise self.refuse(f"{key} is not a whole number from 1 to {most}", f"leave it out for {default}")
        return value

    def text(self, key: str, what: str, hint: str) -> str:
        """A text that must be there.

        Args:
            key: the option.
            what: what it is, for the error.
            hint: how to write it.
        """
        value = self._settings.options.get(key)
        if not isinstance(value, str) or not value:
            raise self.refuse(f"{key}, {what}, {'is missing' if value is None else 'is no text'}", hint)
        return value

    def flag(self, key: str) -> bool:
        """`true` or `false`; `false` if it is not given."""
        value = self._settings.options.get(key, False)
        if not isinstance(value, bool):
            raise self.refuse(f"{key} is neither true nor false", "leave it out for false")
        return value
