"""Why the sealed cache cannot be used, told apart by what is to be done about it."""

from typing import Final

from broker_worker.core.errors import SetupError

_CHOOSE: Final = "choose another master_key in broker.yaml (docs/sealed-cache.md); until then values are in memory only"
_BEGIN_ANEW: Final = (
    "nothing is lost but time: a worker begins with an empty one when it starts, or run `secret-broker cache clear`"
)


class UnavailableError(SetupError):
    """The master key's keeper is away, or a newer program wrote the file: what is on disk stays as it is."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint or _CHOOSE)


class RefusedError(SetupError):
    """The file or its key was looked at and is not what this host wrote last: it is not used again."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint or _BEGIN_ANEW)
