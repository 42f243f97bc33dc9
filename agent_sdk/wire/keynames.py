"""Names of the keys and channels on the queue (docs/protocol.md, "Names on the queue").

The agent is the cluster hash tag of every key that concerns it, so one agent's traffic, limits and replay marks
lie in one slot and a cluster spreads agents over nodes.
"""

import base64
import hashlib

from agent_sdk.wire.errors import WireError
from agent_sdk.wire.names import MAX_AGENT_ID, is_agent_id

PREFIX = "sb"
AUDIT = "sb:audit"
APPROVALS = "sb:approvals"
"""The stream of signed approval requests."""
CONTROL = "sb:control"
"""The stream of signed decisions and revocations."""
REPORTS = "sb:reports"
"""The stream of what the job process tells: what it delivered, and which jobs it refused."""
GROUP = "workers"
MESSAGE_FIELD = b"m"
"""The one field of an entry on a request or reply stream; its value is an envelope."""

FINGERPRINT_LENGTH = 26


def requests(agent_id: str) -> str:
    """The stream that only `agent_id` may write requests to."""
    return f"sb:req:{{{agent_id}}}"


def agent_of_requests(key: str) -> str:
    """The agent whose request stream `key` is.

    Raises:
        WireError: if `key` is not the name of a request stream.
    """
    if key.startswith("sb:req:{") and key.endswith("}") and is_agent_id(agent_id := key[8:-1]):
        return agent_id
    raise WireError(f"{key[: MAX_AGENT_ID + 16]!r} is not the name of a request stream", reason="bad_key_name")


def replies(agent_id: str, fingerprint: str) -> str:
    """The stream on which the run with that key fingerprint receives replies and notices."""
    return f"sb:rep:{{{agent_id}}}:{fingerprint}"


def doorbell(agent_id: str) -> str:
    """The channel that wakes workers which do not watch the agent's stream at the moment."""
    return f"sb:bell:{{{agent_id}}}"


def agent_of_doorbell(channel: str) -> str:
    """The agent whose doorbell a channel is; the empty text if it is none."""
    return channel[9:-1] if channel.startswith("sb:bell:{") and channel.endswith("}") else ""


EVERY_DOORBELL = "sb:bell:{*}"
"""The pattern of all doorbells."""


def seen(agent_id: str, bucket: int) -> str:
    """The hash of an agent's replay marks, request id to entry id, of requests whose deadlines lie together."""
    return f"sb:seen:{{{agent_id}}}:{bucket}"


def used(agent_id: str, approval_id: str) -> str:
    """The hash that marks a single-use approval of an agent as used."""
    return f"sb:used:{{{agent_id}}}:{approval_id}"


def open_approvals(agent_id: str, run_id: str) -> str:
    """The sorted set of the approvals that a run has waiting, each with the time until which it counts."""
    return f"sb:open:{{{agent_id}}}:{run_id}"


def agent_limit(agent_id: str) -> str:
    """The rate limit state of an agent."""
    return f"sb:lim:{{{agent_id}}}:agent"


def run_limit(agent_id: str, run_id: str) -> str:
    """The rate limit state of one run of an agent."""
    return f"sb:lim:{{{agent_id}}}:run:{run_id}"


def grant_limit(agent_id: str, secret_name: str) -> str:
    """The rate limit state of one agent's use of one secret (a policy entry's own `rate`)."""
    return f"sb:lim:{{{agent_id}}}:grant:{secret_name}"


def secret_limit(secret_name: str) -> str:
    """The rate limit state of a secret, all agents together."""
    return f"sb:lim:{{secret:{secret_name}}}"


LIMITS_SET_BACK = "sb:lim:set-back"
"""How far the server's clock was set back in all, microseconds: what limits count by goes on."""
LIMITS_LATEST = "sb:lim:latest"
"""The latest time that limits counted by, microseconds."""


def fingerprint(run_public_key: bytes) -> str:
    """The fingerprint of a run's Ed25519 public key: 26 base32 characters of its BLAKE2b-256.

    It is derived from the key that the reply is sealed to, so nobody can point a reply at another's channel.
    """
    digest = hashlib.blake2b(run_public_key, digest_size=32).digest()
    return base64.b32encode(digest).decode("ascii").lower()[:FINGERPRINT_LENGTH]
