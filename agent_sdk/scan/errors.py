"""Why a scan could not be made."""

from agent_sdk.wire.errors import SecretBrokerError


class ScanError(SecretBrokerError):
    """Something that was to be scanned, or to be compared with, cannot be read.

    Args:
        message: what was found and what was expected.
        hint: what to do.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
