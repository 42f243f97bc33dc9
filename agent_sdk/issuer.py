"""How an orchestrator mints runs: a fresh key pair and a signed identity token for each.

Whoever holds an issuer's seed can speak for every agent that the broker's config/issuers.yaml lists for it. Keep it
where no agent runs; `secret-broker launch` does so.
"""

import secrets
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import NoReturn

from agent_sdk.credential import RunCredential
from agent_sdk.errors import InvalidRequest
from agent_sdk.secret import wall_clock
from agent_sdk.wire.errors import WireError
from agent_sdk.wire.messages import MAX_TOKEN
from agent_sdk.wire.names import NamePattern
from agent_sdk.wire.sealing import KEY_BYTES, run_public_key
from agent_sdk.wire.tokens import MAX_SCOPE, MAX_TASK, RunIdentity, sign_token

_SHORTEST = timedelta(seconds=1)


class RunIssuer:
    """Mints run credentials in the name of one issuer.

    Args:
        seed: the issuer's Ed25519 seed, 32 bytes.
        issuer: the issuer's name, exactly as in `config/issuers.yaml`.
        trust_domain: the SPIFFE trust domain of its tokens.
        clock: the time in ms since the epoch.

    Raises:
        InvalidRequest: if the seed is not 32 bytes long, or a name is no printable text.
    """

    __slots__ = ("_clock", "_issuer", "_seed", "_trust_domain")

    def __init__(
        self,
        seed: bytes,
        issuer: str,
        *,
        trust_domain: str = "secret-broker.local",
        clock: Callable[[], int] = wall_clock,
    ) -> None:
        if not isinstance(seed, bytes):
            raise InvalidRequest(f"an issuer's seed has {KEY_BYTES} bytes; got {type(seed).__name__}")
        if len(seed) != KEY_BYTES:
            raise InvalidRequest(f"an issuer's seed has {KEY_BYTES} bytes; this one has {len(seed)}")
        _check_printable(issuer, "an issuer's name")
        _check_printable(trust_domain, "a trust domain")
        self._seed = seed
        self._issuer = issuer
        self._trust_domain = trust_domain
        self._clock = clock

    def __repr__(self) -> str:
        return f"RunIssuer({self._issuer!r})"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a run issuer cannot be pickled or copied: it holds the key that speaks for its agents")

    @property
    def public_key(self) -> bytes:
        """The Ed25519 public key, 32 bytes: its hexadecimal digits are what `config/issuers.yaml` lists."""
        return run_public_key(self._seed)

    def mint(
        self,
        agent_id: str,
        *,
        broker: bytes,
        intake: bytes,
        queue_url: str,
        run_id: str | None = None,
        ttl: timedelta = timedelta(hours=1),
        task: str | None = None,
        scope: Sequence[str] | None = None,
    ) -> RunCredential:
        """Mint the credential of a new run, with a key pair of its own.

        Args:
            agent_id: the agent.
            broker: the broker's Ed25519 identity key, which the run will pin.
            intake: the broker's X25519 intake key.
            queue_url: the queue's URL with the agent's own user and password.
            run_id: the run; a new unique one if not given. None may begin with `static-`, as static tokens' do.
            ttl: how long the token is valid; at least a second, and at most what the broker allows this issuer.
            task: what the run is for, printable, at most 128 characters; recorded in the audit.
            scope: secret-name patterns that narrow, for this run, what the policy allows; None for no narrowing.

        Raises:
            InvalidRequest: if an argument is not in its canonical form, or task and scope are too long for a token.
            CredentialInvalid: if the broker's keys or the queue's URL cannot be used.
        """
        _check_printable(agent_id, "an agent id")
        if run_id is not None and not isinstance(run_id, str):
            raise InvalidRequest(f"a run id is a text; got {type(run_id).__name__}")
        if not isinstance(ttl, timedelta):
            raise InvalidRequest(f"a run's ttl is a timedelta; got {type(ttl).__name__}")
        if ttl < _SHORTEST:
            raise InvalidRequest(f"a run's ttl is at least a second; got {ttl}")
        if task is not None:
            _check_printable(task, "a task", MAX_TASK)
        seed = secrets.token_bytes(KEY_BYTES)
        issued_at = self._clock() // 1000 * 1000
        try:
            identity = RunIdentity(
                issuer=self._issuer,
                agent_id=agent_id,
                run_id=new_run_id() if run_id is None else run_id,
                run_public_key=run_public_key(seed),
                token_id=str(uuid.uuid4()),
                issued_at=issued_at,
                expires_at=issued_at + int(ttl.total_seconds()) * 1000,
                task=task,
                scope=_patterns(scope),
            )
            token = sign_token(self._seed, identity, self._trust_domain)
        except WireError as error:
            raise InvalidRequest(str(error)) from None
        if len(token) > MAX_TOKEN:
            raise InvalidRequest(f"scope and task make a token of {len(token)} characters; at most {MAX_TOKEN} fit")
        return RunCredential(
            agent_id=agent_id,
            run_id=identity.run_id,
            token=token,
            seed=seed,
            broker=broker,
            intake=intake,
            queue_url=queue_url,
            expires_at=identity.expires_at,
        )


def _patterns(scope: Sequence[str] | None) -> tuple[NamePattern, ...] | None:
    if scope is None:
        return None
    if isinstance(scope, str) or not isinstance(scope, Iterable):
        raise InvalidRequest(f"a scope is a list of patterns; got {type(scope).__name__}")
    patterns = tuple(scope)
    if len(patterns) > MAX_SCOPE:
        raise InvalidRequest(f"a scope has at most {MAX_SCOPE} patterns; got {len(patterns)}")
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise InvalidRequest(f"a scope is a list of patterns; got {type(pattern).__name__} in it")
    return tuple(map(NamePattern, patterns))


def _check_printable(text: str, what: str, limit: int = MAX_TOKEN) -> None:
    if not isinstance(text, str):
        raise InvalidRequest(f"{what} is a text; got {type(text).__name__}")
    if not (1 <= len(text) <= limit and text.isprintable()):
        raise InvalidRequest(f"{what} is a printable text of 1 to {limit} characters")


def new_run_id() -> str:
    """A canonical run id that no other run has."""
    return f"run-{secrets.token_hex(8)}"
