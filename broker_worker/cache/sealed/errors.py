"""Why the sealed cache cannot be used, told apart by what is to be done about it."""

from broker_worker.core.errors import SetupError


class KeyUnavailableError(SetupError):
    """What should hold the master key is not there or does not answer: what is on disk stays as it is."""


class RefusedError(SetupError):
    """The file or its key was looked at and is not what this host wrote last: it is not used again."""
