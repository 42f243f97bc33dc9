"""`tokens.yaml`: static tokens by their digests, and that every mistake has its line and repeats no token."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from agent_sdk.wire.static_tokens import mint
from broker_worker.core.configuration import ServerSettings, StaticToken
from broker_worker.core.digest import configuration_digest
from broker_worker.core.errors import ConfigError
from broker_worker.core.policy import Origin
from broker_worker.files.configuration import load_configuration
from broker_worker.files.sections import Section
from broker_worker.files.tokens import KEYS, read_tokens
from broker_worker.files.yaml_reader import parse_yaml

CONFIG = Path(__file__).parents[2] / "config"
TEXT, RECORD = mint(bytes(range(37)))
GOOD = {
    "id": RECORD.token_id,
    "agent": "claude",
    "sha256": RECORD.digest.hex(),
    "created": "2026-01-01T00:00:00Z",
    "expires": "2026-02-01T00:00:00Z",
}


def lines(*entries: dict[str, str]) -> str:
    """A file with entries."""
    return "tokens:\n" + "".join(f"  - {{{', '.join(f'{k}: {v}' for k, v in e.items())}}}\n" for e in entries)


def read(text: str) -> dict[str, StaticToken]:
    """The tokens of a file with that text."""
    tree = parse_yaml(text.encode(), "/etc/tokens.yaml")
    section = Section(tree, file="/etc/tokens.yaml", origin="tokens.yaml", what="top level")
    section.refuse_unknown(KEYS)
    return dict(read_tokens(section))


def test_an_entry_says_whose_a_token_is_and_until_when() -> None:
    """Everything that the file can say."""
    created, expires = 1_767_225_600_000, 1_769_904_000_000
    expected = StaticToken(RECORD.token_id, "claude", RECORD.digest, created, expires, Origin("tokens.yaml", 2))
    assert read(lines(GOOD)) == {RECORD.token_id: expected}
    assert read("tokens: []\n") == {}


def test_an_id_and_a_digest_of_digits_only_are_text() -> None:
    """What YAML takes for a number is read as it was written."""
    token = read(lines({**GOOD, "id": "23456723", "sha256": "0" * 64}))["23456723"]
    assert token.sha256 == bytes(32)


_OTHER = {**GOOD, "id": "aaaaaaaa", "sha256": "1" * 63 + "a"}


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("token: []\n", 1, "unknown key `token`"),
        ("{}\n", 1, "the key `tokens` is missing"),
        ("tokens: {}\n", 1, "expected a list"),
        ("tokens:\n  - claude\n", 2, "expected a mapping"),
        *((lines({k: v for k, v in GOOD.items() if k != key}), 2, f"`{key}` is missing") for key in GOOD),
        (lines({**GOOD, "scope": "x"}), 2, "unknown key `scope`"),
        (lines({**GOOD, "id": "short"}), 2, "expected 8 characters of a-z and 2-7"),
        (lines({**GOOD, "sha256": RECORD.digest.hex().upper()}), 2, "expected 64 characters"),
        (lines({**GOOD, "agent": "Claude"}), 2, "not in canonical form"),
        (lines({**GOOD, "expires": "never"}), 2, "expected a date"),
        (lines({**GOOD, "expires": GOOD["created"]}), 2, "ends before it begins"),
        (lines(GOOD, {**_OTHER, "id": GOOD["id"]}), 3, "stands here and in line 2"),
        (lines(GOOD, {**_OTHER, "sha256": GOOD["sha256"]}), 3, f"the same token as `{GOOD['id']}`"),
    ],
)
def test_a_mistake_has_its_line(text: str, line: int, message: str) -> None:
    """What cannot be meant is refused where it stands."""
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        read(text)
    assert caught.value.line == line


@pytest.mark.parametrize("key", ["id", "sha256"])
def test_a_token_that_was_written_into_the_file_is_not_repeated(key: str) -> None:
    """An error may be mailed or logged, so it does not say what somebody pasted."""
    with pytest.raises(ConfigError) as caught:
        read(lines({**GOOD, key: TEXT}))
    assert TEXT not in f"{caught.value}{caught.value.hint}"


def test_the_operator_s_folder_may_have_static_tokens(tmp_path: Path) -> None:
    """They are part of the configuration and its digest, not of the policy's; without the file there are none."""
    shutil.copytree(CONFIG, tmp_path / "config")
    before = load_configuration(tmp_path / "config")
    assert before.static_tokens == {}
    (tmp_path / "config" / "tokens.yaml").write_text(lines(GOOD), encoding="utf-8")
    after = load_configuration(tmp_path / "config")
    assert set(after.static_tokens) == {RECORD.token_id}
    assert before.policy.digest == after.policy.digest
    assert before.digest != after.digest


@pytest.mark.parametrize(
    "change", [{"agent": "codex"}, {"sha256": bytes(32)}, {"created_at": 1}, {"expires_at": 2**41}]
)
def test_whatever_a_token_says_changes_the_digest(tmp_path: Path, change: dict[str, object]) -> None:
    """A worker takes a change of any of it."""
    shutil.copytree(CONFIG, tmp_path / "config")
    (tmp_path / "config" / "tokens.yaml").write_text(lines(GOOD), encoding="utf-8")
    before = load_configuration(tmp_path / "config")
    token = before.static_tokens[RECORD.token_id]
    changed = replace(token, **change)  # type: ignore[arg-type]  # one field of whatever type
    after = replace(before, static_tokens={RECORD.token_id: changed})
    assert configuration_digest(after) != configuration_digest(before)


@pytest.mark.parametrize(
    ("host", "origins"),
    [
        ("127.0.0.1", ("http://127.0.0.1:7700", "http://localhost:7700")),
        ("localhost", ("http://127.0.0.1:7700", "http://localhost:7700")),
        ("127.0.0.7", ("http://127.0.0.7:7700",)),
        ("::1", ("http://[::1]:7700",)),
    ],
)
def test_the_gateway_has_the_names_of_its_address(host: str, origins: tuple[str, ...]) -> None:
    """A client may call it by its address, and by `localhost` where that leads to it."""
    assert ServerSettings(host).origins == origins
