"""`secret-broker tokens`: a token is shown once and kept as a digest; the rest of the file stays as it is."""

import json
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from desk_workbench import write_files

from agent_sdk.wire.static_tokens import parse, token_digest
from broker_worker.cli import main
from broker_worker.cli import tokens as tokens_module
from broker_worker.core.configuration import StaticToken
from broker_worker.files.configuration import load_configuration, load_tokens

HOUR, DAY = 3_600_000, 86_400_000
START = 1_800_000_000_000


class Home:
    """An installation's files, and a clock that a test turns."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.now = folder, START
        self.config = write_files(folder / "config")
        self.file = self.config / "tokens.yaml"
        monkeypatch.setattr(tokens_module, "now_ms", lambda: self.now)

    def run(self, *arguments: str) -> Result:
        """`secret-broker tokens ARGUMENTS`."""
        return CliRunner().invoke(main, ["--home", str(self.folder), "tokens", *arguments])

    def issued(self, *arguments: str) -> str:
        """The token that a command printed, and nothing else on standard output."""
        result = self.run(*arguments)
        assert result.exit_code == 0, result.output
        text = result.stdout.removesuffix("\n")
        parse(text)
        return text

    def tokens(self) -> dict[str, StaticToken]:
        """What the broker reads."""
        return dict(load_configuration(self.config).static_tokens)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """An installation without static tokens."""
    return Home(tmp_path, monkeypatch)


def test_a_token_is_printed_once_and_kept_as_a_digest(home: Home) -> None:
    """The file is private, says whose it is and until when, and nobody can read the token from it."""
    text = home.issued("issue", "--agent", "claude", "--ttl", "30d")
    (token,) = home.tokens().values()
    assert (token.token_id, token.agent, token.sha256) == (text[4:12], "claude", token_digest(text))
    assert (token.created_at, token.expires_at) == (START, START + 30 * DAY)
    assert stat.S_IMODE(home.file.stat().st_mode) == 0o600
    assert text[13:] not in home.file.read_text()
    assert text[13:] not in home.run("list").output + home.run("list", "--json").output


def test_what_goes_to_a_terminal_comes_with_a_warning(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not refused: it has to be shown somewhere."""
    quiet = home.run("issue", "--agent", "claude", "--ttl", "1d")
    monkeypatch.setattr(tokens_module, "_is_shown", lambda: True)
    shown = home.run("issue", "--agent", "claude", "--ttl", "1d")
    assert "warning:" not in quiet.stderr
    assert "warning: it is shown once" in shown.stderr


def test_comments_and_the_other_entries_stay(home: Home) -> None:
    """Issuing, rotating and revoking change their own lines and no others."""
    home.issued("issue", "--agent", "claude", "--ttl", "1d")
    first = home.file.read_text()
    commented = first.replace("  - id", "  # the backup's\n  - id").replace("Z\n", "Z  # ask ops\n")
    home.file.write_text(commented)
    text = home.issued("issue", "--agent", "codex", "--ttl", "1d")
    assert home.file.read_text().startswith(commented)
    home.issued("rotate", text[4:12])
    assert home.file.read_text().startswith(commented)
    for token_id in list(home.tokens())[1:]:
        assert home.run("revoke", token_id).exit_code == 0
    assert home.file.read_text() == commented
    (last,) = home.tokens()
    assert home.run("revoke", last).exit_code == 0
    assert home.tokens() == {}
    assert "tokens: []" in home.file.read_text()
    home.issued("issue", "--agent", "claude", "--ttl", "1d")
    assert len(home.tokens()) == 1


def test_a_rotated_token_stays_good_for_the_overlap(home: Home) -> None:
    """The new one is the same agent's and lives as long as the old one was to; by agent where it is the only one."""
    old = home.issued("issue", "--agent", "claude", "--ttl", "30d")[4:12]
    home.now += 10 * DAY
    new = home.issued("rotate", "--agent", "claude", "--overlap", "2h")[4:12]
    tokens = home.tokens()
    assert tokens[old].expires_at == home.now + 2 * HOUR
    assert (tokens[new].created_at, tokens[new].expires_at) == (home.now, home.now + 30 * DAY)
    home.now += HOUR
    newest = home.issued("rotate", old, "--ttl", "7d")[4:12]
    tokens = home.tokens()
    assert tokens[old].expires_at == home.now + HOUR, "an overlap does not prolong"
    assert tokens[newest].expires_at == home.now + 7 * DAY


def test_a_comment_behind_a_time_survives_its_change(home: Home) -> None:
    """A rotation writes the old one's end in its place."""
    old = home.issued("issue", "--agent", "claude", "--ttl", "30d")[4:12]
    home.file.write_text(home.file.read_text().rstrip("\n") + "  # yearly\n")
    home.issued("rotate", old)
    assert "expires: 2027-01-15T09:00:00Z  # yearly\n" in home.file.read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("issue", "--agent", "cladue", "--ttl", "1d"), 7, "did you mean 'claude'?"),
        (("issue", "--agent", "claude", "--ttl", "367d"), 2, "from 1s to 366d"),
        (("issue", "--agent", "claude"), 2, "--ttl"),
        (("rotate",), 2, "give the id of a token, or --agent"),
        (("rotate", "aaaaaaaa", "--agent", "claude"), 2, "give the id of a token, or --agent"),
        (("rotate", "aaaaaaaa"), 7, "has no token 'aaaaaaaa'"),
        (("rotate", "--agent", "claude"), 7, "has no token that is good"),
        (("revoke", "aaaaaaaa"), 7, "has no token 'aaaaaaaa'"),
        (("list",), 0, "no static tokens"),
    ],
)
def test_what_cannot_be_done_is_said(home: Home, arguments: tuple[str, ...], code: int, message: str) -> None:
    """With what to do, and without a change of the file."""
    result = home.run(*arguments)
    assert (result.exit_code, message in result.output) == (code, True), result.output
    assert not home.file.exists()


def test_a_home_that_is_none_has_no_list(tmp_path: Path) -> None:
    """The wrong home is said, not shown as one without tokens."""
    for arguments in ((), ("--json",)):
        result = CliRunner().invoke(main, ["--home", str(tmp_path / "none"), "tokens", "list", *arguments])
        assert (result.exit_code, result.stdout) == (3, "")
        assert "hint: name the home with --home" in result.stderr


def test_which_of_several_is_to_end_must_be_said(home: Home) -> None:
    """And one that is over is not rotated."""
    ids = [home.issued("issue", "--agent", "claude", "--ttl", "1d")[4:12] for _ in range(2)]
    result = home.run("rotate", "--agent", "claude")
    assert f"several tokens: {', '.join(ids)}" in result.output
    home.now += DAY
    assert "is over already" in home.run("rotate", ids[0]).output
    assert [row["good"] for row in json.loads(home.run("list", "--json").stdout)] == [False, False]
    assert home.run("list").stdout.count("over") == 2


def test_a_file_of_another_form_is_not_touched_and_no_token_is_handed_out(home: Home) -> None:
    """What a program cannot change safely, a person changes."""
    text = home.issued("issue", "--agent", "claude", "--ttl", "30d")
    token = home.tokens()[text[4:12]]
    times = "created: 2026-01-01, expires: 2040-01-01"
    entry = f'{{id: "{token.token_id}", agent: claude, sha256: "{token.sha256.hex()}", {times}}}'
    flow = f"tokens: [{entry}]\n"
    home.file.write_text(flow)
    for arguments in (("issue", "--agent", "claude", "--ttl", "1d"), ("rotate", token.token_id)):
        result = home.run(*arguments)
        assert (result.exit_code, result.stdout) == (7, "")
        assert "no token was made" in result.stderr
    result = home.run("revoke", token.token_id)
    assert result.exit_code == 7
    assert f"without the entry of {token.token_id}" in result.stderr
    assert home.file.read_text() == flow


def test_a_symbolic_link_and_its_target_s_mode_stay(home: Home, tmp_path: Path) -> None:
    """Where the file is kept, and who else may read it, is the operator's."""
    kept = tmp_path / "kept.yaml"
    kept.write_text("tokens: []\n")
    kept.chmod(0o640)
    home.file.symlink_to(kept)
    home.issued("issue", "--agent", "claude", "--ttl", "30d")
    assert home.file.is_symlink()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o640
    assert len(load_tokens(home.config)) == 1
