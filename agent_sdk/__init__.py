"""The agent's side of the Secret Broker: ask for a secret by name, get exactly what the policy allows.

    from agent_sdk import SecretBroker

    with SecretBroker() as broker:
        key = broker.get("openai.api_key", purpose="summarise the ticket")
        call_openai(api_key=key.reveal())

Names are imported when they are first used, so that `agent_sdk.wire`, the contract that the broker shares, loads
nothing else of this package.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent_sdk.blocking import SecretBroker
    from agent_sdk.client import AsyncSecretBroker
    from agent_sdk.credential import RunCredential
    from agent_sdk.errors import (
        ApprovalDenied,
        ApprovalExpired,
        ApprovalPending,
        BrokerNotTrusted,
        ClientClosed,
        Conflict,
        CredentialInvalid,
        CredentialMissing,
        Denied,
        Expired,
        InvalidRequest,
        LeaseExpired,
        LeaseRevoked,
        NotGranted,
        NotText,
        RateLimited,
        Refusal,
        Revoked,
        SeveralRefused,
        Unauthenticated,
        Unavailable,
    )
    from agent_sdk.issuer import RunIssuer
    from agent_sdk.outcome import Resolution, Stored
    from agent_sdk.secret import Secret
    from agent_sdk.wire.errors import Code, SecretBrokerError
    from agent_sdk.wire.messages import Call, Notice, Subject

__all__ = [
    "ApprovalDenied",
    "ApprovalExpired",
    "ApprovalPending",
    "AsyncSecretBroker",
    "BrokerNotTrusted",
    "Call",
    "ClientClosed",
    "Code",
    "Conflict",
    "CredentialInvalid",
    "CredentialMissing",
    "Denied",
    "Expired",
    "InvalidRequest",
    "LeaseExpired",
    "LeaseRevoked",
    "NotGranted",
    "NotText",
    "Notice",
    "RateLimited",
    "Refusal",
    "Resolution",
    "Revoked",
    "RunCredential",
    "RunIssuer",
    "Secret",
    "SecretBroker",
    "SecretBrokerError",
    "SeveralRefused",
    "Stored",
    "Subject",
    "Unauthenticated",
    "Unavailable",
]

_HOMES = {
    "AsyncSecretBroker": "client",
    "Call": "wire.messages",
    "Code": "wire.errors",
    "Notice": "wire.messages",
    "Resolution": "outcome",
    "RunCredential": "credential",
    "RunIssuer": "issuer",
    "Secret": "secret",
    "SecretBroker": "blocking",
    "SecretBrokerError": "wire.errors",
    "Stored": "outcome",
    "Subject": "wire.messages",
}
"""Where a name lives, unless it is one of the exceptions."""


def __getattr__(name: str) -> object:
    """Import a public name when it is first used (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names and those of any module, each once."""
    return sorted({*globals(), *__all__})
