"""What wraps the master key: the parts of a host that can keep a key, behind one protocol."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from broker_worker.cache.sealed.counter import Counter
from broker_worker.cache.sealed.errors import UnavailableError
from broker_worker.core.configuration import MASTER_KEYS, SealedSettings

AUTO: Final = MASTER_KEYS[0]
ORDER: Final[Sequence[str]] = MASTER_KEYS[1:]
"""What `auto` tries, the strongest first."""
_TRACELESS: Final = frozenset({"systemd", "passphrase"})
"""Kinds that keep nothing on the host for a key that they make."""
MAX_PARAMETERS: Final = 4096
"""Most bytes that a wrapping may store beside the wrapped key."""


class Wrapped(NamedTuple):
    """A new wrapping key.

    Args:
        parameters: what is stored, to find the key again; no secret by itself.
        key: 32 bytes.
    """

    parameters: bytes
    key: bytes

    def __repr__(self) -> str:
        return f"Wrapped({len(self.parameters)} bytes of parameters)"


class Wrapping(Protocol):
    """One way to keep a key that wraps the master key."""

    def make(self) -> Wrapped:
        """Make a new wrapping key.

        Raises:
            UnavailableError: if this host cannot keep one in this way; says what is missing.
        """
        ...

    def open(self, parameters: bytes) -> bytes:
        """Find a wrapping key again.

        Args:
            parameters: what `make` returned. They come from a file and may be anything.

        Raises:
            UnavailableError: if what keeps it is not there or does not answer.
            RefusedError: if it answers, and does not know this key or does not give it out.
        """
        ...

    def counter(self, parameters: bytes, key: bytes) -> Counter | None:
        """The counter that this host keeps for the key; None if it has no better place than a file."""
        ...

    def forget(self, parameters: bytes) -> None:
        """Remove what the host keeps for a key, as far as possible; never raises.

        Args:
            parameters: what `make` returned.
        """
        ...


@dataclass(frozen=True, slots=True)
class Wrappings:
    """The ways of wrapping that this program knows.

    Args:
        settings: the operator's section.
        makers: per kind what makes its `Wrapping`; called when it is needed, and not before.
    """

    settings: SealedSettings
    makers: Mapping[str, Callable[[], Wrapping]] = field(repr=False)

    def of(self, kind: str) -> Wrapping:
        """The wrapping of a kind.

        Raises:
            UnavailableError: if a package that it needs is not installed.
        """
        return self.makers[kind]()

    def is_meant(self, kind: str) -> bool:
        """Whether the operator's section agrees with a key that is wrapped like that."""
        return self.settings.master_key in {AUTO, kind}

    def rehearse(self) -> None:
        """Find out whether a new key could be kept, where that can be tried without leaving something on the host.

        Raises:
            UnavailableError: if not; says what is missing.
        """
        if self.settings.master_key in _TRACELESS:
            self.make()

    def make(self) -> tuple[str, Wrapped]:
        """A new wrapping key, of the kind that the section names, or the first that this host can keep.

        Raises:
            UnavailableError: if there is none; says for each kind why.
        """
        if self.settings.master_key != AUTO:
            return self.settings.master_key, self.of(self.settings.master_key).make()
        why: list[str] = []
        for kind in ORDER:
            try:
                return kind, self.of(kind).make()
            except UnavailableError as error:
                why.append(f"{kind}: {error}")
        raise UnavailableError(
            f"this host has nothing that could keep the sealed cache's master key ({'; '.join(why)})",
            hint="set up one of them; the simplest is a passphrase (docs/sealed-cache.md)",
        )
