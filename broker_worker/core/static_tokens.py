"""Static tokens that the operator issued: whose each is, and until when it is good."""

from dataclasses import dataclass, field

from broker_worker.core.policy import Origin

RUN_PREFIX = "static-"


@dataclass(frozen=True, slots=True)
class StaticToken:
    """One entry of `tokens.yaml`. Times are in ms since the epoch.

    Args:
        token_id: the public id of its text.
        agent_id: who it speaks for.
        digest: the SHA-256 of its text, 32 bytes.
        created_at: when it was issued.
        expires_at: from when on it is good for nothing.
        origin: where the entry stands.
    """

    token_id: str
    agent_id: str
    digest: bytes = field(repr=False)
    created_at: int
    expires_at: int
    origin: Origin

    @property
    def run_id(self) -> str:
        """The run that its requests count for, in limits, leases, revocations and the audit."""
        return RUN_PREFIX + self.token_id
