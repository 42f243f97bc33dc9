"""Environment variables that hold the broker's own credentials: no agent is handed one, under whatever name."""

from collections.abc import Iterator
from typing import Final

from broker_worker.core.configuration import ProviderSettings

OWN: Final = (
    "SECRET_BROKER_",
    "OP_SERVICE_ACCOUNT_TOKEN",
    "OP_CONNECT_TOKEN",
    "VAULT_TOKEN",
    "VAULT_SECRET_ID",
    "REDIS_URL",
)
"""How the names of variables begin that are the broker's own, whatever its files say."""
_AWS: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_VAULT: Final = ("VAULT_TOKEN", "VAULT_SECRET_ID")


def credential_variables(provider: ProviderSettings) -> Iterator[str]:
    """The variables from which a section's provider takes its credentials."""
    yield from (str(value) for key, value in provider.options.items() if key.endswith("_env"))
    if provider.type.startswith("aws-"):
        yield from _AWS
    if provider.type == "vault":
        yield from _VAULT
