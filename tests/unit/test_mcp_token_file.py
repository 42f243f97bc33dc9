"""The bearer token of `secret-agent mcp --http`: only its owner can know it."""

import os
import stat
from pathlib import Path

import pytest

from agent_sdk.errors import InvalidRequest
from agent_sdk.mcp_server.token_file import OneToken, load_or_create


def test_a_token_is_made_once(tmp_path: Path) -> None:
    """The next start takes the one that is there, so clients keep theirs."""
    path = tmp_path / "token"
    token = load_or_create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_or_create(path) == token
    assert load_or_create(tmp_path / "other") != token


def test_a_token_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """It may be known already."""
    path = tmp_path / "token"
    load_or_create(path)
    path.chmod(0o640)
    with pytest.raises(InvalidRequest, match="can be read by others"):
        load_or_create(path)


@pytest.mark.parametrize("content", ["", "short", "a" * 31, f"{'a' * 40} {'b' * 40}", f"{'é' * 40}"])
def test_what_is_no_token_is_refused(tmp_path: Path, content: str) -> None:
    """The message says what to do, and repeats nothing."""
    path = tmp_path / "token"
    path.touch(mode=0o600)
    path.write_text(content)
    with pytest.raises(InvalidRequest, match="holds no token") as refused:
        load_or_create(path)
    assert not content or content not in str(refused.value)


def test_a_link_or_a_pipe_is_not_followed(tmp_path: Path) -> None:
    """Somebody else could have put it there."""
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(InvalidRequest, match="regular file"):
        load_or_create(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        load_or_create(tmp_path / "link")


async def test_only_the_one_is_accepted() -> None:
    """Whatever else is shown, odd characters included."""
    known = OneToken("t" * 43)
    assert await known.verify_token("t" * 43) is not None
    for other in ("", "t" * 42, "T" * 43, "t" * 44, "\ud800"):
        assert await known.verify_token(other) is None
