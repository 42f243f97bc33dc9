"""`rotation:` of an entry: what it says, what is refused, and when the schedule finds it due."""

from pathlib import Path

import pytest

from broker_worker.core.errors import ConfigError
from broker_worker.core.rotation import AGAIN_MS, CommandProbe, HttpProbe, RotationRule, RotationState, due_at
from broker_worker.files.configuration import load_configuration

HOUR = 3600_000
ISSUERS = "issuers:\n  - {name: a, public_key: 3mxxo4lGY99I-1puMNFUsi8GGxX76FKNUAVLqv3vPP8, all_agents: true}\n"


def rule_of(folder: Path, rotation: str, ref: str = "local://db.password", more: str = "") -> RotationRule:
    """The rule of `db.password` as it stands in a file."""
    text = f'secrets:\n  db.password:\n    ref: "{ref}"\n    rotation: {rotation}\n{more}'
    files = {"broker": "provider: {type: local}\n", "policy": "agents: {}\n", "secrets": text, "issuers": ISSUERS}
    for file, content in files.items():
        (folder / f"{file}.yaml").write_text(content)
    entry = load_configuration(folder).registry["db.password"]
    assert entry.rotation is not None
    return entry.rotation


def test_a_command_tries_by_standard_input_unless_a_variable_is_named(tmp_path: Path) -> None:
    """The draft of a local secret has a place beside it."""
    rule = rule_of(tmp_path, "{recipe: 'password:24', every: 30d, probe: {command: [/bin/check, --now], timeout: 5s}}")
    assert rule == RotationRule(
        "password:24", CommandProbe(("/bin/check", "--now"), None, 5), "local://db.password.draft", 30 * 24 * 3600
    )
    rule = rule_of(tmp_path, "{recipe: uuid4, old_leases: revoke, probe: {command: [/bin/check], env: NEW_PASSWORD}}")
    assert (rule.probe, rule.old_leases) == (CommandProbe(("/bin/check",), "NEW_PASSWORD"), "revoke")


def test_a_request_tries_with_a_header(tmp_path: Path) -> None:
    """Over https, or on this host."""
    rule = rule_of(tmp_path, "{recipe: uuid4, probe: {url: 'https://api.example.com/me'}}")
    assert rule.probe == HttpProbe("https://api.example.com/me")
    rule = rule_of(
        tmp_path, "{recipe: uuid4, probe: {url: 'http://127.0.0.1:8/', header: X-Key, prefix: '', status: 204}}"
    )
    assert rule.probe == HttpProbe("http://127.0.0.1:8/", "X-Key", "", 204)


PROBE = "probe: {command: [/bin/true]}"


@pytest.mark.parametrize(
    ("rotation", "message"),
    [
        ("{recipe: uuid4}", "`probe`"),
        (f"{{{PROBE}}}", "`recipe`"),
        (f"{{recipe: pin, {PROBE}}}", "expected a recipe such as"),
        ("{recipe: uuid4, probe: {}}", "`url`"),
        ("{recipe: uuid4, probe: {command: []}}", "not named by its absolute path"),
        ("{recipe: uuid4, probe: {command: [check]}}", "not named by its absolute path"),
        ("{recipe: uuid4, probe: {command: [/bin/true], env: lower}}", "name of an environment variable"),
        ("{recipe: uuid4, probe: {command: [/bin/true], status: 200}}", "this probe is a command"),
        ("{recipe: uuid4, probe: {url: 'https://a.example/', env: A}}", "this probe is a URL"),
        ("{recipe: uuid4, probe: {url: 'http://api.example.com/'}}", "would not be safe there"),
        ("{recipe: uuid4, probe: {url: 'https://api.example.com:99999/'}}", "expected an address such as https"),
        ("{recipe: uuid4, probe: {url: 'https://me:pw@api.example.com/'}}", "would not be safe there"),
        ("{recipe: uuid4, probe: {url: 'ftp://api.example.com/'}}", "would not be safe there"),
        ("{recipe: uuid4, probe: {command: [/bin/true], timeout: 2m}}", "expected a duration of 1s to 60s"),
        (f"{{recipe: uuid4, every: 5m, {PROBE}}}", "expected a duration of an hour or more"),
        (f"{{recipe: uuid4, old_leases: keep, {PROBE}}}", "`wait` or `revoke`"),
        (f"{{recipe: uuid4, draft: 'local://db.password', {PROBE}}}", "a draft cannot be kept there"),
        (f"{{recipe: uuid4, draft: 'env://DRAFT', {PROBE}}}", "a draft cannot be kept there"),
        (f"{{recipe: uuid4, draft: sk-canary, {PROBE}}}", "expected a reference"),
        (f"{{recipe: uuid4, draft: 'op://a/b/c', {PROBE}}}", "which the draft of `db.password` needs"),
        (f"{{recipe: uuid4, draft: 'local://other', {PROBE}}}", "would be kept in the place of `other.key`"),
        (f"{{recipe: uuid4, draft: 'local://made.x', {PROBE}}}", "would be kept in the place of `x`"),
        (f"{{recipe: uuid4, promote: now, {PROBE}}}", "unknown key `promote`"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, rotation: str, message: str) -> None:
    """With file and line; a value that stands in a reference's place is not repeated."""
    more = '  other.key: "local://other"\ncreate_in:\n  - {pattern: "agents.*", ref: "local://made.{name}"}\n'
    with pytest.raises(ConfigError) as caught:
        rule_of(tmp_path, rotation, more=more)
    assert message in str(caught.value)
    assert "canary" not in f"{caught.value}{caught.value.hint}"


def test_a_place_of_another_vault_needs_a_draft_of_its_own(tmp_path: Path) -> None:
    """Only for the local vault is it known what lies beside a place."""
    with pytest.raises(ConfigError, match="the draft has no place"):
        rule_of(tmp_path, f"{{recipe: uuid4, {PROBE}}}", ref="op://vault/item/field")
    with pytest.raises(ConfigError, match="nothing there can be rotated"):
        rule_of(tmp_path, f"{{recipe: uuid4, {PROBE}}}", ref="env://PASSWORD")


def test_a_draft_changes_nobodys_version(tmp_path: Path) -> None:
    """A field of the same secret, or of the same item, is no place for it: writing there makes a new version of all."""
    for ref, draft in (("aws-sm://db#password", "aws-sm://db#draft"), ("op://a/db/password", "op://a/db/draft")):
        rotation = f"{{recipe: uuid4, draft: '{draft}', {PROBE}}}"
        with pytest.raises(ConfigError, match=r"would be kept in the place of `db\.password`"):
            rule_of(tmp_path, rotation, ref=ref)


def test_a_secret_is_due_after_its_period() -> None:
    """Counted from when it was last rotated, from when it was first seen, or, if that failed, soon again."""
    rule = RotationRule("uuid4", CommandProbe(("/bin/true",)), "local://x.draft", every_seconds=30 * 24 * 3600)
    month = 30 * 24 * HOUR
    assert due_at(rule, None, 1000) == 1000 + month
    over = RotationState(name="x", step="retired", started_at=5, replaces="1", ended_at=7)
    assert due_at(rule, over, 0) == 7 + month
    failed = RotationState(name="x", step="drafted", started_at=5, replaces="1", ended_at=7, fault="probe_exit_1")
    assert due_at(rule, failed, 0) == 7 + AGAIN_MS
    begun = RotationState(name="x", step="promoted", started_at=5, replaces="1")
    assert due_at(rule, begun, 0) == 5
    asked_only = RotationRule("uuid4", CommandProbe(("/bin/true",)), "local://x.draft")
    assert due_at(asked_only, begun, 0) is None
