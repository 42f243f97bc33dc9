"""`secret-broker policy`: check the operator's files, explain a decision, test a table of expectations."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from agent_sdk.wire.errors import WireError
from agent_sdk.wire.messages import Delivery
from agent_sdk.wire.names import check_agent_id, check_run_id, check_secret_name
from broker_worker.cli.policy_replay import replay_command
from broker_worker.cli.root import FOUND_WRONG
from broker_worker.core.configuration import Configuration
from broker_worker.core.errors import ConfigError
from broker_worker.core.explanation import Explanation, explain
from broker_worker.core.lint import Finding, lint
from broker_worker.core.policy import DELIVERIES, VERBS, ApprovalRule, Verb
from broker_worker.core.references import scheme_of
from broker_worker.files.configuration import load_configuration
from broker_worker.files.egress import EGRESS_FILE, check_egress
from broker_worker.files.expectations import DEFAULT_RUN, Expectation, read_expectations
from broker_worker.providers.schemes import check_configuration
from broker_worker.settings import Settings

_FILE = click.Path(path_type=Path)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def _now() -> int:
    return time.time_ns() // 1_000_000


@click.group()
def policy() -> None:
    """Check, explain and test who may have what."""


@policy.command()
@click.argument("path", type=_FILE, required=False)
@click.option("--strict", is_flag=True, help="Leave with exit code 1 if there are warnings.")
@_JSON
@click.pass_obj
def check(settings: Settings, path: Path | None, strict: bool, as_json: bool) -> None:
    """Check the files at PATH: a folder, a single file, or a policy by itself.

    Without PATH, the broker's own. An error leaves with exit code 3.
    """
    path = path or settings.config_dir
    try:
        configuration = load_configuration(path)
        check_configuration(configuration)
        if (path / EGRESS_FILE).exists():
            check_egress(path / EGRESS_FILE, configuration)
    except ConfigError as error:
        if as_json:
            _print_json(_refused_result(path, error))
        raise
    warnings = lint(configuration, _now())
    if as_json:
        _print_json(_check_result(path, configuration, warnings))
    else:
        for warning in warnings:
            click.echo(f"warning: {_where(warning)}{warning.message}")
            click.echo(f"  hint: {warning.hint}")
        click.echo(_summary(path, configuration, warnings))
    if warnings and strict:
        raise click.exceptions.Exit(FOUND_WRONG)


def _where(warning: Finding) -> str:
    return "" if warning.origin is None else f"{warning.origin}: "


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _summary(path: Path, configuration: Configuration, warnings: Sequence[Finding]) -> str:
    agents = _count(len(configuration.policy.agents), "agent")
    secrets = "no registry" if configuration.policy_only else _count(len(configuration.registry), "secret")
    found = _count(len(warnings), "warning")
    return f"{path}: valid, {agents}, {secrets}, {found}; policy {configuration.policy.digest[:16]}"


def _check_result(path: Path, configuration: Configuration, warnings: Sequence[Finding]) -> dict[str, Any]:
    return {
        "valid": True,
        "path": str(path),
        "agents": len(configuration.policy.agents),
        "secrets": None if configuration.policy_only else len(configuration.registry),
        "policy_digest": configuration.policy.digest,
        "digest": configuration.digest,
        "errors": [],
        "warnings": [
            {
                "code": warning.code,
                "file": warning.origin.file if warning.origin is not None else None,
                "line": warning.origin.line if warning.origin is not None else None,
                "message": warning.message,
                "hint": warning.hint,
            }
            for warning in warnings
        ],
    }


def _refused_result(path: Path, error: ConfigError) -> dict[str, Any]:
    problem = {"file": error.file, "line": error.line or None, "message": str(error), "hint": error.hint}
    return {"valid": False, "path": str(path), "errors": [problem], "warnings": []}


def _print_json(document: dict[str, Any]) -> None:
    click.echo(json.dumps(document, indent=2))


def _name(check_name: Callable[[str], str]) -> Callable[[click.Context, click.Parameter, str | None], str | None]:
    """A click callback that refuses a name which is not canonical."""

    def callback(_: click.Context, __: click.Parameter, text: str | None) -> str | None:
        try:
            return None if text is None else check_name(text)
        except WireError as error:
            raise click.BadParameter(str(error)) from None

    return callback


@policy.command("explain")
@click.option("--agent", required=True, callback=_name(check_agent_id), help="Who asks.")
@click.option("--secret", required=True, callback=_name(check_secret_name), help="For which name.")
@click.option("--run", default=DEFAULT_RUN, show_default=True, callback=_name(check_run_id), help="In which run.")
@click.option("--purpose", default="", help="What the agent says that it is for.")
@click.option("--action", "verb", type=click.Choice(VERBS), default="resolve", show_default=True, help="To do what.")
@click.option("--overwrite", is_flag=True, help="To replace a version that is there.")
@click.option(
    "--deliver",
    type=click.Choice(DELIVERIES),
    default="value",
    show_default=True,
    help="How a value reaches the work.",
)
@click.option("--file", "path", type=_FILE, help="A folder or file to use instead of the broker's own.")
@_JSON
@click.pass_obj
def explain_command(
    settings: Settings,
    agent: str,
    secret: str,
    run: str,
    purpose: str,
    verb: Verb,
    overwrite: bool,
    deliver: Delivery,
    path: Path | None,
    as_json: bool,
) -> None:
    """Say what would be decided, by which line, and which limits count."""
    configuration = load_configuration(path or settings.config_dir)
    explanation = explain(
        configuration, agent, run, secret, purpose=purpose, now=_now(), verb=verb, replaces=overwrite, way=deliver
    )
    if as_json:
        asked = {"agent": agent, "secret": secret, "run": run, "action": verb, "deliver": deliver}
        _print_json({**asked, **_explained(explanation)})
        return
    way = "" if deliver == "value" else f" as {deliver}"
    click.echo(f"{explanation.verdict}: {agent} {_ASKS[verb]} {secret}{way} in {run}")
    for label, text in _details(explanation, configuration):
        click.echo(f"  {label:<8} {text}")


_ASKS = {"resolve": "asks for", "write": "wants to write", "generate": "wants to have made"}
_REASONS = {
    "granted": "an entry allows it and all its conditions hold",
    "no_grant": "no entry of the agent covers the name",
    "unknown_agent": "the policy does not have the agent",
    "denied_explicitly": "a deny entry covers the name, and a deny always wins",
    "unknown_secret": "an entry allows it, but the registry does not have the name",
    "run_not_covered": "the entry is for other runs",
    "grant_ended": "the entry has ended (`not_after`)",
    "purpose_required": "the entry asks for a purpose",
    "action_not_granted": "the entries for the name do not allow this action",
    "deliver_not_granted": "the entries for the name let the value reach the work in other ways (`deliver`)",
    "overwrite_not_granted": "the entry lets names be created, and not be replaced (`overwrite: true`)",
}


def _details(explanation: Explanation, configuration: Configuration) -> list[tuple[str, str]]:
    decision = explanation.decision
    lines = [("reason", f"{explanation.reason}: {_REASONS.get(explanation.reason, 'refused')}")]
    if decision.origin is not None:
        lines.append(("rule", _rule(explanation)))
    if explanation.entry is not None:
        entry = explanation.entry
        lines.append(("secret", f"{entry.origin}, from {scheme_of(entry.ref)}://…"))
    elif configuration.policy_only:
        lines.append(("secret", "only a policy was read, so the registry is not known"))
    if explanation.approval is not None:
        lines.append(("approval", _approval(explanation.approval, configuration)))
    if explanation.ttl_seconds is not None:
        lines.append(("ttl", f"{explanation.ttl_seconds} s at most"))
    lines.extend(("limit", f"{limit.scope}: {limit.rate}") for limit in explanation.limits)
    return lines


_GRANTS = {"once": "good for one use", "run": "good until the run ends"}


def _approval(rule: ApprovalRule, configuration: Configuration) -> str:
    """Who must allow it, within which time, and what for."""
    good = _GRANTS.get(rule.grant) or f"good for {timedelta(seconds=int(rule.grant[:-1]))}"
    text = f"{rule.quorum} of {', '.join(rule.approvers)} within {timedelta(milliseconds=rule.ttl_ms)}; {good}"
    if configuration.policy_only:
        return text
    people = ", ".join(person.name for person in configuration.approvers.who_may(rule.approvers))
    return f"{text}; now: {people or 'nobody'}"


def _rule(explanation: Explanation) -> str:
    decision = explanation.decision
    role = decision.grant.role if decision.grant is not None else None
    return f"{decision.origin}, role {role}" if role is not None else str(decision.origin)


def _explained(explanation: Explanation) -> dict[str, Any]:
    decision, entry, rule = explanation.decision, explanation.entry, explanation.approval
    return {
        "decision": explanation.verdict,
        "reason": explanation.reason,
        "rule": None if decision.origin is None else str(decision.origin),
        "role": decision.grant.role if decision.grant is not None else None,
        "scheme": None if entry is None else scheme_of(entry.ref),
        "ttl_seconds": explanation.ttl_seconds,
        "approval": None if rule is None else {**asdict(rule), "approvers": list(rule.approvers)},
        "limits": [
            {"scope": limit.scope, "count": rate.count, "period_ms": rate.period, "burst": rate.burst}
            for limit, rate in ((limit, limit.rate) for limit in explanation.limits)
        ],
    }


@policy.command("test")
@click.argument("file", type=_FILE)
@_JSON
@click.pass_obj
def test_command(settings: Settings, file: Path, as_json: bool) -> None:
    """Test the policy against a table of expectations; exit code 1 if one does not hold.

    FILE has a list `cases` of `{agent: A, secret: S, expect: allow|approval|deny}`, each with `action`, `overwrite`,
    `run`, `purpose`, `at`, `rule` and `reason` where wanted, and `policy: PATH` if another than the broker's own is
    meant.
    """
    table = read_expectations(file)
    configuration = load_configuration(table.policy or settings.config_dir)
    now = _now()
    failures = [(case, found) for case in table.cases if (found := _failure(case, configuration, now)) is not None]
    if as_json:
        rows = [{"file": str(file), "line": case.origin.line, "message": message} for case, message in failures]
        _print_json({"passed": not failures, "cases": len(table.cases), "failures": rows})
    else:
        for case, message in failures:
            click.echo(f"FAIL {file}:{case.origin.line}: {message}")
        click.echo(f"{len(table.cases) - len(failures)} of {_count(len(table.cases), 'case')} hold")
    if failures:
        raise click.exceptions.Exit(FOUND_WRONG)


def _failure(case: Expectation, configuration: Configuration, now: int) -> str | None:
    """What is not as the case expects; None if everything is."""
    at = now if case.at is None else case.at
    found = explain(
        configuration,
        case.agent,
        case.run,
        case.secret,
        purpose=case.purpose,
        now=at,
        verb=case.action,
        replaces=case.overwrite,
        way=case.deliver,
    )
    rule = "no line" if found.decision.origin is None else str(found.decision.origin)
    verdict = f"{found.verdict} ({found.reason}, {rule})"
    if case.at is not None:
        verdict += f" at {datetime.fromtimestamp(at / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"
    subject = f"{case.agent} {_ASKS[case.action]} {case.secret}"
    if found.verdict != case.expect:
        return f"{subject}: expected {case.expect}, found {verdict}"
    if case.reason is not None and case.reason != found.reason:
        return f"{subject}: expected the reason {case.reason}, found {verdict}"
    if case.rule is not None and case.rule != rule:
        return f"{subject}: expected the rule {case.rule}, found {verdict}"
    return None


policy.add_command(replay_command)
