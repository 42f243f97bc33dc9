"""Tables of expectations: what a case says, and that an empty table is no success."""

from pathlib import Path

import pytest

from broker_worker.core.errors import ConfigError
from broker_worker.core.policy import Origin
from broker_worker.files.expectations import Expectation, ExpectationTable, read_expectations


def read(tmp_path: Path, text: str) -> ExpectationTable:
    """The table that a file with that text states."""
    (tmp_path / "t.yaml").write_text(text)
    return read_expectations(tmp_path / "t.yaml")


def test_a_case_with_everything_written_out(tmp_path: Path) -> None:
    """All keys of a case, and a policy beside the table."""
    table = read(
        tmp_path,
        "policy: ../config\ncases:\n  - {agent: codex, secret: one, run: run-1, purpose: why, "
        "at: 1970-01-02T00:00:00Z, expect: deny, rule: 'policy.yaml:3', reason: no_grant}\n",
    )
    case = Expectation(
        Origin("t.yaml", 3), "codex", "one", "run-1", "why", 86_400_000, "deny", "policy.yaml:3", "no_grant"
    )
    assert table == ExpectationTable(tmp_path / "../config", (case,))


def test_a_short_case_asks_now_in_some_run_without_a_purpose(tmp_path: Path) -> None:
    """What is not written is not checked."""
    (case,) = read(tmp_path, "cases: [{agent: codex, secret: one, expect: allow}]").cases
    assert case == Expectation(Origin("t.yaml", 1), "codex", "one", "run-0", "", None, "allow", None, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cases: []", "1: `cases`: there are no cases, so nothing would be tested"),
        ("policy: x", "1: top level: the key `cases` is missing"),
        ("cases:\n  - {agent: codex, secret: one}", "2: entry of `cases`: the key `expect` is missing"),
        (
            "cases: [{agent: codex, secret: one, expect: no}]",
            "1: `expect`: found `no`, which YAML takes for a boolean, expected `allow` or `approval` or `deny`",
        ),
        (
            "cases: [{agent: codex, secret: One, expect: deny}]",
            "1: `secret`: this secret name is not in canonical form: expected lower-case ASCII letters and digits in "
            "parts joined by '.', '_' or '-'",
        ),
        ("cases: [{agnet: codex}]", "1: entry of `cases`: unknown key `agnet`"),
        ("cases: [deny]", "1: entry of `cases`: found `deny`, expected a mapping"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    """A test that cannot fail is an error."""
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert str(caught.value) == f"{tmp_path}/t.yaml:{message}"
