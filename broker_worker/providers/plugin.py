"""What a package imports that adds a provider of its own; nothing else in `broker_worker` is meant for others.

Such a package names a `ProviderKind` in the entry point group `secret_broker.providers`:

    [project.entry-points."secret_broker.providers"]
    keepass = "broker_keepass:KIND"

The entry point's name is the provider's type in `broker.yaml` and the scheme of its references: `type: keepass`
serves `keepass://…`. The package is imported by the processes that use vaults, and only where `broker.yaml` names the
type. It runs inside the broker and can do whatever the broker can (docs/providers.md, "Your own provider").
"""

from collections.abc import Callable
from dataclasses import dataclass

from agent_sdk.wire.messages import MAX_VALUE
from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.ports import DynamicProvider, Fetched, Health, Provider
from broker_worker.providers.options import Options, Surroundings

__all__ = [
    "MAX_VALUE",
    "DynamicProvider",
    "FailureKind",
    "Fetched",
    "Health",
    "Options",
    "Provider",
    "ProviderError",
    "ProviderKind",
    "Surroundings",
]


@dataclass(frozen=True, slots=True)
class ProviderKind:
    """A provider type of others.

    Args:
        form: what a reference looks like, for error messages, such as `keepass://group/entry`.
        check: whether the part of a reference behind `://` can be meant; contacts nothing, and is asked when the
            operator's files are loaded.
        options: the options that its section takes; any other is refused.
        make: makes the provider of a section; contacts nothing yet. It raises what `Options` gives it to raise. The
            provider's `name` must be its type.

    Raises:
        TypeError: if one of them is of another kind.
    """

    form: str
    check: Callable[[str], bool]
    options: tuple[str, ...]
    make: Callable[[Options, Surroundings], Provider]

    def __post_init__(self) -> None:
        options: object = self.options
        if not isinstance(options, tuple) or not all(isinstance(text, str) for text in (self.form, *options)):
            raise TypeError("expected a text as form and a tuple of names as options")
        if not all(map(callable, (self.check, self.make))):
            raise TypeError("expected functions as check and make")
