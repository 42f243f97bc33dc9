"""`approval:` of a policy entry: what it says, what explains and tests it, and what can never be approved."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from broker_worker.cli import main
from broker_worker.core.configuration import Configuration
from broker_worker.core.errors import ConfigError
from broker_worker.core.lint import lint
from broker_worker.core.policy import ApprovalRule
from broker_worker.files.configuration import load_configuration

PUBLIC = "3mxxo4lGY99I-1puMNFUsi8GGxX76FKNUAVLqv3vPP8"
ALICE = f"approvers: [{{name: alice, groups: [ops], keys: [{{kind: ed25519, public_key: {PUBLIC}}}]}}]\n"
FILES = {
    "broker.yaml": "provider: {type: local}\n",
    "secrets.yaml": "secrets: {one: local://one}\n",
    "issuers.yaml": f"issuers:\n  - {{name: a, public_key: {PUBLIC}, all_agents: true}}\n",
    "approvers.yaml": ALICE,
}


def load(folder: Path, approval: str, **changes: str) -> Configuration:
    """A configuration whose one entry has that `approval`, in line 4 of its policy."""
    texts = {**FILES, "policy.yaml": f"agents:\n  codex:\n    allow:\n      - {{secret: one, approval: {approval}}}\n"}
    for name, text in {**texts, **{key.replace("_", "."): text for key, text in changes.items()}}.items():
        (folder / name).write_text(text)
    return load_configuration(folder)


def rule(folder: Path, approval: str) -> ApprovalRule | None:
    """The rule that the text means."""
    return load(folder, approval).policy.agents["codex"].grants[0].approval


def test_only_who_decides_must_be_written(tmp_path: Path) -> None:
    """One of them, within ten minutes, for one use."""
    assert rule(tmp_path, "{approvers: [ops]}") == ApprovalRule(("ops",), 1, 600_000, "once")


@pytest.mark.parametrize(("grant", "meant"), [("once", "once"), ("run", "run"), ("15m", "900s"), ("24h", "86400s")])
def test_all_of_it_written_out(tmp_path: Path, grant: str, meant: str) -> None:
    """Quorum, waiting time and what an approval is good for."""
    text = f"{{approvers: [ops, alice], quorum: 2, ttl: 1h, grant: {grant}}}"
    assert rule(tmp_path, text) == ApprovalRule(("ops", "alice"), 2, 3_600_000, meant)


@pytest.mark.parametrize(
    ("approval", "message"),
    [
        ("yes", "`approval`: found `yes`"),
        ("{}", "`approval`: the key `approvers` is missing"),
        ("{approvers: []}", "`approvers`: the list is empty, so nobody could ever decide"),
        ("{approvers: ops}", "`approvers`: found `ops`, expected a list"),
        ("{approvers: [Ops]}", "entry of `approvers`: name 'Ops' is not in canonical form"),
        ("{approvers: [ops, ops]}", "entry of `approvers`: `ops` stands twice"),
        ("{approvers: [ops], quorum: 0}", "`quorum`: found `0`"),
        ("{approvers: [ops], ttl: 59s}", "`ttl`: found `59s`, expected a duration from 1m to 24h"),
        ("{approvers: [ops], ttl: 25h}", "`ttl`: found `25h`, expected a duration from 1m to 24h"),
        ("{approvers: [ops], grant: always}", "`grant`: found `always`, expected `once`, `run`, or a duration"),
        ("{approvers: [ops], grant: 25h}", "`grant`: found `25h`, expected `once`, `run`, or a duration"),
        ("{approvers: [ops], quorom: 1}", "`approval`: unknown key `quorom`"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, approval: str, message: str) -> None:
    """A rule that could be read as no rule is none that loads."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, approval)
    assert str(caught.value).startswith(f"{tmp_path}/policy.yaml:4: {message}")


@pytest.mark.parametrize(
    "approval",
    [
        "{approvers: [leads]}",
        "{approvers: [ops], quorum: 2}",
        "{approvers: [ops], ttl: 11m}",
        "{approvers: [ops], grant: run}",
    ],
)
def test_every_part_of_the_rule_counts_in_the_policy_s_digest(tmp_path: Path, approval: str) -> None:
    """A changed rule voids what waits."""
    plain = load(tmp_path, "{approvers: [ops]}").policy.digest
    assert load(tmp_path, approval).policy.digest != plain


@pytest.mark.parametrize(
    ("approval", "expected"),
    [
        ("{approvers: [ops]}", []),
        ("{approvers: [alice]}", []),
        (
            "{approvers: [leads]}",
            [("quorum_out_of_reach", "policy.yaml:4"), ("unknown_approver", "policy.yaml:4")],
        ),
        ("{approvers: [ops, leads]}", [("unknown_approver", "policy.yaml:4")]),
        ("{approvers: [ops], quorum: 2}", [("quorum_out_of_reach", "policy.yaml:4")]),
    ],
)
def test_lint_finds_what_nobody_can_approve(tmp_path: Path, approval: str, expected: list[tuple[str, str]]) -> None:
    """With the entry's line; a group that exists and a quorum that is met are fine."""
    findings = lint(load(tmp_path, approval), 0)
    assert sorted((finding.code, str(finding.origin)) for finding in findings) == expected


def test_lint_says_that_a_browser_s_signature_would_not_count(tmp_path: Path) -> None:
    """If the list of origins leaves out the dashboard, or a key was made for another host."""
    key = "{kind: webauthn, credential_id: AAEC, public_key: AAEC, rp_id: broker.example}"
    people = f"approvers: [{{name: alice, groups: [ops], keys: [{key}]}}]\norigins: [https://broker.example]\n"
    findings = lint(load(tmp_path, "{approvers: [ops]}", approvers_yaml=people), 0)
    assert {finding.code for finding in findings} == {"dashboard_not_an_origin", "key_of_another_host"}


def command(folder: Path, *arguments: str) -> tuple[int, str]:
    """Run `secret-broker policy` and return its exit code and what it printed."""
    result = CliRunner().invoke(main, ["--home", str(folder.parent), "policy", *arguments])
    return result.exit_code, result.output


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A home's config folder."""
    (tmp_path / "config").mkdir()
    return tmp_path / "config"


def test_explain_shows_who_must_allow_it(config: Path) -> None:
    """Groups, number, time, what an approval is good for, and who that is today."""
    load(config, "{approvers: [ops], grant: 15m}")
    code, output = command(config, "explain", "--agent", "codex", "--secret", "one")
    assert (code, output.splitlines()[0]) == (0, "approval: codex asks for one in run-0")
    assert "  approval 1 of ops within 0:10:00; good for 0:15:00; now: alice\n" in output


def test_explain_as_json_holds_the_rule(config: Path) -> None:
    """For a script."""
    load(config, "{approvers: [ops]}")
    shown = json.loads(command(config, "explain", "--agent", "codex", "--secret", "one", "--json")[1])
    assert shown["decision"] == "approval"
    assert shown["approval"] == {"approvers": ["ops"], "quorum": 1, "ttl_ms": 600_000, "grant": "once"}


@pytest.mark.parametrize(("expect", "exit_code"), [("approval", 0), ("allow", 1), ("deny", 1)])
def test_a_table_of_expectations_can_ask_for_an_approval(config: Path, expect: str, exit_code: int) -> None:
    """Something that needs a person is neither simply allowed nor denied."""
    load(config, "{approvers: [ops]}")
    file = config / "cases.yaml"
    file.write_text(f"cases: [{{agent: codex, secret: one, expect: {expect}}}]\n")
    code, output = command(config, "test", str(file))
    assert code == exit_code
    assert exit_code == 0 or f"expected {expect}, found approval (granted, policy.yaml:4)" in output
