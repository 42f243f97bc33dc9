"""Why the sealed cache cannot be used, told apart by what is to be done about it."""

from broker_worker.core.errors import SetupError


class UnavailableError(SetupError):
    """The master key's keeper is away, or a newer program wrote the file: what is on disk stays as it is."""


class RefusedError(SetupError):
    """The file or its key was looked at and is not what this host wrote last: it is not used again."""
