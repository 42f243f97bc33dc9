"""Mint a run with the home's own issuer key, after checking what the broker would check later."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from difflib import get_close_matches

from agent_sdk.credential import RunCredential
from agent_sdk.issuer import RunIssuer
from agent_sdk.wire.sealing import run_public_key
from agent_sdk.wire.tokens import TrustAnchor
from broker_worker.core.configuration import Configuration
from broker_worker.core.errors import SetupError
from broker_worker.files.keys import ISSUER, QUEUE, load_broker_keys, load_seed
from broker_worker.queue.acl import agent_url
from broker_worker.settings import Settings

DEFAULT_TTL = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class RunOrder:
    """The run that is wanted.

    Args:
        agent_id: the agent.
        run_id: the run; None for a new unique one.
        ttl: how long it may ask for secrets; None for an hour, or less if the issuer may not sign for that long.
        task: what it is for, recorded in the audit.
        scope: secret-name patterns that narrow the policy for it; None for no narrowing.
    """

    agent_id: str
    run_id: str | None = None
    ttl: timedelta | None = None
    task: str | None = None
    scope: Sequence[str] | None = None


def mint_run(settings: Settings, configuration: Configuration, order: RunOrder) -> RunCredential:
    """Mint the credential of a run.

    Args:
        settings: whose keys and queue.
        configuration: the operator's files, to check against.
        order: the run that is wanted.

    Raises:
        SetupError: if the broker would not serve the run: an agent that the policy does not know, an issuer key that
            `issuers.yaml` does not trust for it, a time that is too long, or keys that are missing.
        InvalidRequest: if a part of the order is not in its canonical form.
    """
    _check_agent(configuration, order.agent_id)
    seed = load_seed(settings.keys_dir / ISSUER)
    anchor = _anchor(configuration, run_public_key(seed), order.agent_id)
    keys = load_broker_keys(settings.keys_dir)
    queue_key = load_seed(settings.keys_dir / QUEUE)
    return RunIssuer(seed, anchor.issuer, trust_domain=anchor.trust_domain).mint(
        order.agent_id,
        broker=keys.identity_public,
        intake=keys.intake[0].public,
        queue_url=agent_url(settings.queue_address, queue_key, order.agent_id),
        run_id=order.run_id,
        ttl=_ttl(order, anchor),
        task=order.task,
        scope=order.scope,
    )


def _check_agent(configuration: Configuration, agent_id: str) -> None:
    agents = configuration.policy.agents
    if agent_id in agents:
        return
    near = get_close_matches(agent_id, agents, n=1)
    raise SetupError(
        f"the policy does not know the agent {agent_id!r}, so it would get nothing",
        hint=f"did you mean {near[0]!r}?" if near else "write it under `agents:` in policy.yaml, even with `allow: []`",
    )


def _anchor(configuration: Configuration, public_key: bytes, agent_id: str) -> TrustAnchor:
    anchor = next((anchor for anchor in configuration.anchors if anchor.public_key == public_key), None)
    if anchor is None:
        raise SetupError(
            "issuers.yaml does not list the public half of keys/issuer.key, so the broker would not believe the run",
            hint="list it there; `secret-broker init` does so",
        )
    if agent_id not in anchor.agents:
        raise SetupError(
            f"issuers.yaml does not let the issuer {anchor.issuer!r} speak for the agent {agent_id!r}",
            hint="add the agent to its `agents:`, or write `all_agents: true` there",
        )
    return anchor


def _ttl(order: RunOrder, anchor: TrustAnchor) -> timedelta:
    longest = timedelta(seconds=anchor.max_lifetime)
    if order.ttl is None:
        return min(DEFAULT_TTL, longest)
    if order.ttl > longest:
        raise SetupError(
            f"the issuer {anchor.issuer!r} may sign for {anchor.max_lifetime} s at most; asked for "
            f"{int(order.ttl.total_seconds())} s",
            hint="ask for less with --ttl, or raise its `max_lifetime` in issuers.yaml",
        )
    return order.ttl
