"""The subcommands by name, each imported when it is run: a command loads no more than it needs.

That is what keeps vault providers out of the process that sends notifications, and a start-up short.
"""

import gc
from collections.abc import Iterator, Mapping, MutableMapping
from importlib import import_module

import click


class CommandTable(MutableMapping[str, click.Command]):
    """Commands that are imported when they are asked for.

    Args:
        places: for each name the module that holds the command, and its name there, as `module:attribute`.
    """

    def __init__(self, places: Mapping[str, str]) -> None:
        self._places = dict(places)
        self._loaded: dict[str, click.Command] = {}

    def __getitem__(self, name: str) -> click.Command:
        if name not in self._loaded:
            self._loaded[name] = _load(self._places[name])
        return self._loaded[name]

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._loaded[name] = command
        self._places.setdefault(name, "")

    def __delitem__(self, name: str) -> None:
        del self._places[name]
        self._loaded.pop(name, None)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _load(place: str) -> click.Command:
    """Import a command without looking for garbage meanwhile, nor among it later: what was imported stays.

    To look for it takes up to a third of a start. A process that has frozen objects itself, as those of the tests, is
    left to it.
    """
    module, _, attribute = place.partition(":")
    looks = gc.isenabled()
    gc.disable()
    try:
        command: click.Command = getattr(import_module(module), attribute)
    finally:
        if looks:
            gc.enable()
    if looks and not gc.get_freeze_count():
        gc.freeze()
    return command
