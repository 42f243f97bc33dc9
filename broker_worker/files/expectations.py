"""Tables of expectations for `secret-broker policy test`: who must get what, and who must not."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent_sdk.wire.messages import Delivery
from agent_sdk.wire.names import check_agent_id, check_run_id, check_secret_name
from broker_worker.core.policy import DELIVERIES, VERBS, Origin, Verb
from broker_worker.files.quantities import parse_moment
from broker_worker.files.sections import Section
from broker_worker.files.yaml_reader import read_yaml

DEFAULT_RUN = "run-0"
"""The run of a case that names none."""
_VERDICTS: Final = ("allow", "approval", "deny")
_KEYS = ("agent", "secret", "action", "overwrite", "deliver", "run", "purpose", "at", "expect", "rule", "reason")


@dataclass(frozen=True, slots=True)
class Expectation:
    """One case of a table.

    Args:
        origin: where it stands.
        agent: who asks.
        secret: for which name.
        run: in which run.
        purpose: what it would say that it is for.
        at: when, ms since the epoch; None for now.
        expect: `allow`, `approval` (allowed once people allow it) or `deny`.
        action: what it would do with the name: `resolve`, `write` or `generate`.
        overwrite: whether it would replace a version that is there.
        rule: the line that must decide, such as `policy.yaml:12`; None for any.
        reason: the reason that must be given, such as `no_grant`; None for any.
        deliver: how a value that it reads would reach the work.
    """

    origin: Origin
    agent: str
    secret: str
    run: str
    purpose: str
    at: int | None
    expect: str
    rule: str | None
    reason: str | None
    action: Verb = "resolve"
    overwrite: bool = False
    deliver: Delivery = "value"


@dataclass(frozen=True, slots=True)
class ExpectationTable:
    """A file of cases; `policy` is the configuration that it names, None for the broker's own."""

    policy: Path | None
    cases: tuple[Expectation, ...]


def read_expectations(path: Path) -> ExpectationTable:
    """Read a table.

    Args:
        path: a YAML file with `cases` and, if wanted, `policy`: a file or folder beside it.

    Raises:
        ConfigError: with file and line; also for a table without cases, which would pass and show nothing.
    """
    document = Section(read_yaml(path), file=str(path), origin=path.name, what="top level")
    document.refuse_unknown(("policy", "cases"))
    policy = document.get("policy")
    cases = document.require("cases", why="write `cases:` and a list of `{agent: A, secret: S, expect: allow}`")
    table = tuple(_read_case(item.section(*_KEYS)) for item in cases.items())
    if not table:
        raise cases.error("there are no cases, so nothing would be tested", "write at least one")
    return ExpectationTable(path.parent / policy.text("a path") if policy is not None else None, table)


def _read_case(section: Section) -> Expectation:
    run, purpose, at = section.get("run"), section.get("purpose"), section.get("at")
    rule, reason = section.get("rule"), section.get("reason")
    action, overwrite = section.get("action"), section.get("overwrite")
    word = "resolve" if action is None else action.choice(*VERBS)
    deliver = section.get("deliver")
    asked = "value" if deliver is None else deliver.choice(*DELIVERIES)
    return Expectation(
        origin=section.origin,
        agent=section.require("agent").name(check_agent_id),
        secret=section.require("secret").name(check_secret_name),
        run=DEFAULT_RUN if run is None else run.name(check_run_id),
        purpose="" if purpose is None else purpose.text(),
        at=None if at is None else at.parsed(parse_moment),
        expect=section.require("expect", why="write `expect: allow`, `expect: approval` or `expect: deny`").choice(
            *_VERDICTS
        ),
        rule=None if rule is None else rule.text("a line such as policy.yaml:12"),
        reason=None if reason is None else reason.text("a reason such as no_grant"),
        action=next(verb for verb in VERBS if verb == word),
        overwrite=overwrite is not None and overwrite.boolean(),
        deliver=next(way for way in DELIVERIES if way == asked),
    )
