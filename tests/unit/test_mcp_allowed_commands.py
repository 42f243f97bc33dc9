"""Which commands a model may have run: what no pattern covers is refused."""

import shlex
import sys

import pytest

from agent_sdk.errors import InvalidRequest
from agent_sdk.mcp_server.allowed_commands import AllowedCommands


@pytest.mark.parametrize(
    ("pattern", "argv", "is_allowed"),
    [
        ("git push", ["git", "push"], True),
        ("git push", ["git", "push", "--force"], False),
        ("git push", ["git"], False),
        ("git push **", ["git", "push"], True),
        ("git push **", ["git", "push", "--force", "origin"], True),
        ("git push **", ["git", "status"], False),
        ("git **", ["git"], True),
        ("git push *", ["git", "push", "origin"], True),
        ("git push *", ["git", "push"], False),
        ("git push *", ["git", "push", "a", "b"], False),
        ("git clone https://example.org/*", ["git", "clone", "https://example.org/a\nb"], True),
        ("git clone https://example.org/*", ["git", "clone", "https://example.com/a"], False),
        ("git log --format=*.txt", ["git", "log", "--format=atxt"], False),
        ("git commit -m 'two words'", ["git", "commit", "-m", "two words"], True),
        ("git push", ["/usr/bin/git", "push"], False),
        ("git tag a*a", ["git", "tag", "a"], False),
        ("git tag a*b*b", ["git", "tag", "ab"], False),
        ("git tag a*b*b", ["git", "tag", "abcb"], True),
        ("git tag **x", ["git", "tag", "yx"], True),
        ("git tag *a*a*a*b", ["git", "tag", "a" * 64 * 1024], False),
        ("git push", ["./git", "push"], False),
    ],
)
def test_a_pattern_covers_whole_argument_lists(pattern: str, argv: list[str], is_allowed: bool) -> None:
    """Word by word; only a last ** lets more follow."""
    assert (AllowedCommands([pattern]).resolve(argv, {}) is not None) == is_allowed


def test_the_program_is_found_when_the_server_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A PATH or a folder that changes later does not change what runs."""
    allowed = AllowedCommands(["git **"])
    before = allowed.resolve(["git"], {})
    monkeypatch.setenv("PATH", "/nowhere")
    assert before is not None
    assert allowed.resolve(["git"], {}) == before
    assert before.startswith("/")


def test_nothing_is_allowed_without_a_pattern() -> None:
    """That is how the server starts."""
    allowed = AllowedCommands([])
    assert allowed.resolve(["git"], {}) is None
    assert allowed.described == ""


def test_a_model_reads_what_is_allowed() -> None:
    """As the operator wrote it."""
    version = f"{shlex.quote(sys.executable)} -V"
    assert AllowedCommands(["git push **", version]).described == f"git push **; {version}"


@pytest.mark.parametrize(
    ("pattern", "references", "is_allowed"),
    [
        ("git **", {"T": "any.name"}, True),
        ("git **", {"GIT_SSH_COMMAND": "any.name"}, False),
        ("git **", {"LD_PRELOAD": "any.name"}, False),
        ("git **", {"PATH": "any.name"}, False),
        ("git **", {"GH_PAGER": "any.name"}, False),
        ("git **", {"all_proxy": "any.name"}, False),
        ("git **", {"OPENSSL_CONF": "any.name"}, False),
        ("git **", {"NODE_AUTH_TOKEN": "any.name"}, True),
        ("LESSOPEN=secret://a git **", {"LESSOPEN": "a"}, True),
        ("T=secret://github.* git **", {}, True),
        ("T=secret://github.* git **", {"T": "github.read_token"}, True),
        ("T=secret://github.* git **", {"T": "github.org.token"}, False),
        ("T=secret://github.* git **", {"T": "openai.api_key"}, False),
        ("T=secret://github.* git **", {"T": "github.read_token", "HOST": "github.read_token"}, False),
        ("A=secret://a.** B=secret://b git **", {"A": "a.b.c", "B": "b"}, True),
        ("GIT_ASKPASS_TOKEN=secret://a git **", {"GIT_ASKPASS_TOKEN": "a"}, True),
    ],
)
def test_a_pattern_says_which_secrets_go_where(pattern: str, references: dict[str, str], is_allowed: bool) -> None:
    """So a model cannot have another secret sent by a command, or one where the command would send it away."""
    assert (AllowedCommands([pattern]).resolve(["git", "push"], references) is not None) == is_allowed


@pytest.mark.parametrize(
    "pattern",
    ["", "  ", "*", "** -c", "'git", "no-such-program-anywhere x", "T=secret://a", "T=secret://A git", "T=plain git"],
)
def test_a_pattern_that_cannot_be_meant_is_refused(pattern: str) -> None:
    """When the server starts, and not when a model calls."""
    with pytest.raises(InvalidRequest, match="--allow-command"):
        AllowedCommands([pattern])
