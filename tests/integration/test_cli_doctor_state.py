"""What doctor says of the broker's own files, and of the users that are no agents."""

import base64
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from redis import Redis

from broker_worker.cli import main
from broker_worker.cli.doctor import examine
from broker_worker.cli.doctor.check import Check, Status
from broker_worker.cli.doctor.queue import check_queue
from broker_worker.cli.init import create_installation
from broker_worker.files.keys import CONTROL, JOBS, PUBLIC_CONTROL, QUEUE, load_seed
from broker_worker.queue.acl import operator_url
from broker_worker.queue.embedded import EmbeddedServer
from broker_worker.settings import Settings
from broker_worker.state.used_approvals import UsedApprovals

NOW = 1_800_000_000_000


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """A new installation; its path is short enough for a socket."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    home = Path(tempfile.mkdtemp(prefix="sb-"))
    settings = Settings.load(home)
    create_installation(settings, "env", NOW)
    yield settings
    shutil.rmtree(home)


def state_checks(settings: Settings) -> dict[str, Check]:
    """The checks of the part by name."""
    return {check.name: check for check in examine(settings, ("state",))}


def revoke(settings: Settings) -> None:
    arguments = ["revoke", "agent", "claude", "--reason", "gone mad"]
    assert CliRunner().invoke(main, ["--home", str(settings.home), *arguments]).exit_code == 0


def test_new_home_is_sound(settings: Settings) -> None:
    """Nothing was revoked or used yet, and nothing is made by looking."""
    checks = state_checks(settings)
    assert {check.status for check in checks.values()} == {Status.OK}
    assert set(checks) == {"revocations", "used approvals", "settled approvals", "jobs key"}
    assert not settings.state_dir.exists()


def test_what_is_in_force_is_counted(settings: Settings) -> None:
    """How many subjects are refused, and how many uses are remembered."""
    revoke(settings)
    UsedApprovals(settings.used_approvals_file, lambda: NOW).use("0" * 16, "0" * 32, NOW)
    checks = state_checks(settings)
    assert checks["revocations"].detail == "in force: 1; every line is signed"
    assert checks["used approvals"].detail == "remembered: 1"


def test_older_home_without_the_new_keys_is_a_warning(settings: Settings) -> None:
    """The next start makes them, and doctor does not."""
    for name in (CONTROL, PUBLIC_CONTROL, JOBS):
        (settings.keys_dir / name).unlink()
    checks = state_checks(settings)
    assert {checks[name].status for name in ("revocations", "jobs key")} == {Status.WARN}
    assert "back it up" in checks["revocations"].hint
    assert not (settings.keys_dir / CONTROL).exists()


def test_lost_control_key_is_a_failure(settings: Settings) -> None:
    """Orders that cannot be verified any more keep workers from starting."""
    revoke(settings)
    for name in (CONTROL, PUBLIC_CONTROL):
        (settings.keys_dir / name).unlink()
    check = state_checks(settings)["revocations"]
    assert check.status is Status.FAIL
    assert "backup" in check.hint


def test_home_with_the_public_half_alone_is_sound(settings: Settings) -> None:
    """A worker's home checks orders that are given elsewhere."""
    revoke(settings)
    (settings.keys_dir / CONTROL).unlink()
    check = state_checks(settings)["revocations"]
    assert check.status is Status.OK
    assert check.detail.startswith("in force: 1; ")
    assert "given elsewhere" in check.detail


def test_forged_line_is_a_failure(settings: Settings) -> None:
    """A line that the control key did not sign is shown."""
    revoke(settings)
    line = settings.revocations_file.read_bytes()
    forged = base64.urlsafe_b64encode(b"\x92\xc4\x00\xc4\x40" + bytes(64))
    head = line[: line.index(b'"signed":"') + 10]
    settings.revocations_file.write_bytes(line + head + forged + b'"}\n')
    check = state_checks(settings)["revocations"]
    assert check.status is Status.FAIL
    assert "(1 such lines)" in check.detail


@pytest.mark.parametrize("name", ["revocations.jsonl", "used_approvals.jsonl", "settled_approvals.jsonl"])
def test_file_of_junk_is_a_failure(settings: Settings, name: str) -> None:
    """A file that cannot be read is a FAIL with what to do."""
    settings.state_dir.mkdir(mode=0o700)
    (settings.state_dir / name).touch(0o600)
    (settings.state_dir / name).write_bytes(b"junk\n")
    failures = [check for check in state_checks(settings).values() if check.status is Status.FAIL]
    assert len(failures) == 1
    assert name in failures[0].detail
    assert failures[0].hint


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
@pytest.mark.parametrize("place", ["", "revocations.jsonl"])
def test_state_that_is_open_to_others_is_a_failure(settings: Settings, place: str) -> None:
    """Folder and files are looked at like the keys."""
    revoke(settings)
    (settings.state_dir / place).chmod(0o755)
    modes = next(check for check in examine(settings, ("home",)) if check.name == "file modes")
    assert modes.status is Status.FAIL
    assert str(settings.state_dir / place) in modes.detail


@pytest.fixture(scope="module")
def server() -> Iterator[Settings]:
    """An installation with a running server and no agents that matter."""
    home = Path(tempfile.mkdtemp(prefix="sb-"))
    settings = Settings(home=home, redis_url=None)
    create_installation(settings, "env", NOW)
    with EmbeddedServer(settings.run_dir, load_seed(settings.keys_dir / QUEUE), []):
        yield settings
    shutil.rmtree(home)


def users_check(settings: Settings) -> Check:
    checks = check_queue(settings, load_seed(settings.keys_dir / QUEUE), [])
    return next(check for check in checks if check.name == "queue users")


@pytest.mark.parametrize("user", ["console", "ledger", "jobs"])
@pytest.mark.parametrize(
    "rule", [{"keys": ["sb:*"], "categories": ["+@all"]}, {"reset_keys": True}, {"categories": ["-@all"]}]
)
def test_wrong_rights_of_a_user_of_ours_are_a_failure(server: Settings, user: str, rule: dict[str, list[str]]) -> None:
    """A user that may more, or less, than its program needs is found by asking the server; a missing one as well."""
    queue_key = load_seed(server.keys_dir / QUEUE)
    with Redis.from_url(operator_url(server.queue_address, queue_key), decode_responses=True) as operator:
        good = next(line for line in operator.acl_list() if line.startswith(f"user {user} ")).split(" ")[2:]
        assert users_check(server).status is Status.OK
        try:
            operator.acl_setuser(user, enabled=True, **rule)
            wide = users_check(server)
            operator.acl_deluser(user)
            missing = users_check(server)
        finally:
            operator.execute_command("ACL", "SETUSER", user, "reset", *good)
    assert (wide.status, missing.status) == (Status.FAIL, Status.FAIL)
    assert f"the rights of {user} are not" in wide.detail
    assert f"no user for {user}" in missing.detail
