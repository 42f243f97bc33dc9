"""The operator's files as they stand now, for programs that run for long and decide nothing by themselves."""

import contextlib
from pathlib import Path

from broker_worker.core.configuration import Configuration
from broker_worker.core.errors import ConfigError
from broker_worker.files.configuration import load_configuration

_Signature = tuple[tuple[str, int, int, int], ...]


class CurrentRules:
    """Gives the configuration, and reads it again when a file changed. Files that are not valid change nothing.

    Args:
        folder: where the operator's files are.

    Raises:
        ConfigError: if they are not valid now.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._signature = _signature(folder)
        self._configuration = load_configuration(folder)

    def __call__(self) -> Configuration:
        """The configuration in force, as workers take it too."""
        signature = _signature(self._folder)
        if signature != self._signature:
            self._signature = signature
            with contextlib.suppress(ConfigError):  # a worker goes on with the old one as well, and audits that
                self._configuration = load_configuration(self._folder)
        return self._configuration


def _signature(folder: Path) -> _Signature:
    """What tells whether a file is another one or was written."""
    found = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            status = path.stat()
        except OSError:
            continue  # gone meanwhile
        found.append((path.name, status.st_ino, status.st_mtime_ns, status.st_size))
    return tuple(found)
