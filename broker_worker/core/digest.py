"""Digests of meaning: two sets of files that decide alike have the same digest.

What counts is what decides: agents and secrets in alphabetical order, each agent's grants in the order in which they
are tried, denials as a set. Comments, quoting, line numbers, file names, the order of agents, and whether a grant
stands in a role or beside the agent do not count.
"""

import hashlib
from dataclasses import astuple, replace
from typing import Any

import msgspec

from broker_worker.core.approvers import Approver, Ed25519Key, Key
from broker_worker.core.budget import Budget
from broker_worker.core.configuration import Configuration, ProviderSettings, SealedSettings
from broker_worker.core.limits import Rate
from broker_worker.core.policy import AgentPolicy, Grant

_ENCODE = msgspec.json.Encoder(order="deterministic").encode


def _sha256(tag: str, *parts: object) -> str:
    return hashlib.sha256(_ENCODE([tag, *parts])).hexdigest()


def _rate(rate: Rate | None) -> tuple[int, int, int] | None:
    return None if rate is None else (rate.count, rate.period, rate.burst)


def _grant(grant: Grant) -> tuple[Any, ...]:
    rule = grant.approval
    return (
        grant.pattern.text,
        grant.max_ttl,
        _rate(grant.rate),
        grant.purpose_required,
        grant.runs,
        grant.not_after,
        None if rule is None else (sorted(rule.approvers), rule.quorum, rule.ttl_ms, rule.grant),
        (sorted(grant.actions), grant.overwrite),
        sorted(grant.deliver),
    )


def _agent(agent: AgentPolicy) -> tuple[Any, ...]:
    denied = sorted({denial.pattern.text for denial in agent.denials})
    acts = agent.acts_for
    return (
        [_grant(grant) for grant in agent.grants],
        denied,
        _rate(agent.limit),
        _rate(agent.run_limit),
        None if acts is None else (acts.agents and sorted(acts.agents), sorted(acts.deliver), acts.audience),
        agent.proof_required,
    )


def _key(key: Key) -> tuple[str, ...]:
    if isinstance(key, Ed25519Key):
        return "ed25519", key.public.hex()
    return "webauthn", key.credential_id.hex(), key.public.hex(), key.rp_id


def _person(person: Approver) -> tuple[Any, ...]:
    return sorted(person.groups), sorted(_key(key) for key in person.keys)


def _budget(budget: Budget | None) -> tuple[int, ...]:
    if budget is None:
        return ()
    return budget.reads_per_hour or 0, budget.reads_per_day or 0, budget.reserve_percent


def _provider(provider: ProviderSettings) -> tuple[Any, ...]:
    options, commands = _ENCODE(provider.options).decode(), _ENCODE(provider.commands).decode()
    return provider.type, options, _budget(provider.budget), *([commands] if provider.commands else [])


def policy_digest(configuration: Configuration) -> str:
    """The digest that audit events carry: who may have what, within which limits, and what each name refers to.

    Returns:
        SHA-256, hexadecimal.
    """
    policy = configuration.policy
    return _sha256(
        "secret-broker policy v1",
        {agent_id: _agent(agent) for agent_id, agent in policy.agents.items()},
        {name: _rate(rate) for name, rate in policy.secret_limits.items()},
        _rate(policy.secret_limit),
        {name: entry.ref for name, entry in configuration.registry.items()},
        [(rule.pattern.text, rule.template) for rule in configuration.create_in],
    )


def _sealed(sealed: SealedSettings | None) -> tuple[Any, ...] | None:
    return None if sealed is None else astuple(sealed)


def providers_digest(configuration: Configuration) -> bytes:
    """What the providers' sections say of values: those that were fetched under others are not used.

    Returns:
        SHA-256, 32 bytes.
    """
    sections = sorted(_provider(replace(provider, budget=None)) for provider in configuration.providers)
    return bytes.fromhex(_sha256("secret-broker providers v1", sections))


def configuration_digest(configuration: Configuration) -> str:
    """The digest over everything that the files say.

    Who may approve belongs here and not into the policy's digest: a new approver voids nothing that waits.

    Args:
        configuration: its policy must have its own digest already; its own digest is not looked at.

    Returns:
        SHA-256, hexadecimal.
    """
    cache, server, approvers = configuration.cache, configuration.server, configuration.approvers
    anchors = [
        (anchor.issuer, anchor.public_key.hex(), sorted(anchor.agents), anchor.max_lifetime, anchor.trust_domain)
        for anchor in configuration.anchors
    ]
    return _sha256(
        "secret-broker configuration v1",
        configuration.policy.digest,
        {
            name: (entry.ttl_seconds, entry.max_stale_seconds, entry.critical)
            for name, entry in configuration.registry.items()
        },
        [rule.ttl_seconds for rule in configuration.create_in],
        {name: repr(entry.rotation) for name, entry in configuration.registry.items() if entry.rotation is not None},
        (cache.default_ttl_seconds, cache.max_ttl_seconds, cache.max_entries, _sealed(cache.sealed)),
        sorted(anchors),
        sorted(_provider(provider) for provider in configuration.providers),
        None if server is None else (server.host, server.port),
        {name: _person(person) for name, person in approvers.people.items()},
        (sorted(approvers.origins), approvers.max_open_per_run),
        (configuration.dashboard.port, configuration.dashboard.origin),
        sorted((target.name, target.kind, sorted(target.groups)) for target in configuration.notifications),
        sorted(
            (token.token_id, token.agent, token.sha256.hex(), token.created_at, token.expires_at)
            for token in configuration.static_tokens.values()
        ),
    )
