"""How our own processes log in: their own password where there is one, else the key that all follow from."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from broker_worker.cli import main
from broker_worker.core.errors import SetupError
from broker_worker.files.keys import QUEUE, load_seed
from broker_worker.private_files import write_private
from broker_worker.queue.acl import CONSOLE, JOBS, LEDGER, user_password, user_url
from broker_worker.queue.login import password_file, process_url

ADDRESS = "redis://queue:6379"
KEY = bytes(range(32))


def no_key(_path: Path) -> bytes:
    """A process that must not open the key."""
    raise AssertionError("the key was read")


@pytest.mark.parametrize("user", [CONSOLE, LEDGER, JOBS])
def test_a_password_of_its_own_is_enough(tmp_path: Path, user: str) -> None:
    """The key that all passwords follow from is not looked at."""
    write_private(password_file(tmp_path, user), user_password(KEY, user).encode() + b"\n")
    assert process_url(ADDRESS, tmp_path, user, no_key) == user_url(ADDRESS, KEY, user)


def test_without_one_it_is_derived(tmp_path: Path) -> None:
    """As where everything runs as one user."""
    assert process_url(ADDRESS, tmp_path, JOBS, lambda _path: KEY) == user_url(ADDRESS, KEY, JOBS)


def test_an_address_that_names_the_user_is_used_as_it_is(tmp_path: Path) -> None:
    """That of another user is not: each process has its own rights."""
    assert process_url("redis://jobs:pw@queue", tmp_path, JOBS, no_key) == "redis://jobs:pw@queue"
    other = process_url("redis://admin:pw@queue", tmp_path, JOBS, lambda _path: KEY)
    assert other == user_url("redis://queue", KEY, JOBS)


@pytest.mark.parametrize("content", [b"", b"hunter2", b"z" * 64, b"a" * 200])
def test_what_is_no_password_is_refused_and_not_repeated(tmp_path: Path, content: bytes) -> None:
    """With the file and what to do."""
    write_private(password_file(tmp_path, JOBS), content)
    with pytest.raises(SetupError) as caught:
        process_url(ADDRESS, tmp_path, JOBS, no_key)
    assert "queue-jobs.password" in str(caught.value)
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"


def test_a_password_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """Like every key."""
    file = password_file(tmp_path, JOBS)
    file.write_text(user_password(KEY, JOBS))
    file.chmod(0o644)
    with pytest.raises(SetupError):
        process_url(ADDRESS, tmp_path, JOBS, no_key)


def test_the_operator_can_write_it(tmp_path: Path) -> None:
    """`secret-broker acl --password jobs --output …` makes the file that the process reads."""
    home, runner = tmp_path / "home", CliRunner()
    assert runner.invoke(main, ["--home", str(home), "init"]).exit_code == 0
    key_file = home / "keys" / QUEUE
    out = password_file(tmp_path, JOBS)
    result = runner.invoke(main, ["--home", str(home), "acl", "--password", "jobs", "--output", str(out)])
    assert (result.exit_code, result.output) == (0, "")
    assert out.stat().st_mode & 0o777 == 0o600
    assert process_url(ADDRESS, tmp_path, JOBS, no_key) == user_url(ADDRESS, load_seed(key_file), JOBS)
