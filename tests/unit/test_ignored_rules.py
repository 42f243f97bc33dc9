"""Where a rule of the linter or of the type checker is ignored, the reason stands beside it."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
_IGNORED = re.compile(r"#\s*(?:ruff:\s*)?noqa\b|#\s*type:\s*ignore\b")
_WITH_REASON = re.compile(r"# (?:(?:ruff: )?noqa: [A-Z0-9, ]+|type: ignore\[[a-z, -]+\])  # \S")


def test_each_ignored_rule_is_named_and_has_its_reason_beside_it() -> None:
    """In every module, tests among them."""
    bare = [
        f"{path.relative_to(ROOT)}:{number}"
        for folder in ("agent_sdk", "broker_worker", "tests", "deploy")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path != Path(__file__)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if _IGNORED.search(line) and not _WITH_REASON.search(line)
    ]
    assert bare == []
