"""A run credential comes the safest way that there is, is checked strictly, and never shows its key."""

import copy
import json
import os
import pickle
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import pytest

from agent_sdk import CredentialInvalid, CredentialMissing, RunCredential, credential
from agent_sdk.testing import FakeDesk

FD, FILE, TEXT = "SECRET_BROKER_CREDENTIAL_FD", "SECRET_BROKER_CREDENTIAL_FILE", "SECRET_BROKER_CREDENTIAL"


@pytest.fixture
def run() -> RunCredential:
    return FakeDesk().credential("claude", queue_url="redis://agent-claude:hunter2@localhost:6379/0")


def _file(folder: Path, text: str, mode: int = 0o600) -> str:
    path = folder / "run.json"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def _pipe(text: str) -> int:
    read, write = os.pipe()
    os.write(write, text.encode())
    os.close(write)
    return read


def _document(run: RunCredential, **changes: Any) -> str:
    document = json.loads(run.to_json()) | changes
    return json.dumps({key: value for key, value in document.items() if value is not None})


def test_what_is_written_is_read_back(run: RunCredential) -> None:
    """to_json and from_json are inverse."""
    again = RunCredential.from_json(run.to_json())
    assert again.to_json() == run.to_json()
    assert (again.agent_id, again.run_id, again.seed) == (run.agent_id, run.run_id, run.seed)


def test_a_descriptor_that_another_process_emptied_says_so(run: RunCredential) -> None:
    """The second command of a run that was launched without a file is told how to launch it."""
    descriptor = _pipe(run.to_json())
    second = os.dup(descriptor)
    RunCredential.load({FD: str(descriptor)})
    with pytest.raises(CredentialInvalid, match=r"took the credential.*--credential-file"):
        RunCredential.load({FD: str(second)})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"v": 2}, r"\$\.v"),
        ({"v": None}, "missing required field `v`"),
        ({"seed": None}, "missing required field `seed`"),
        ({"extra": 1}, "unknown field `extra`"),
        ({"seed": "A" * 42}, r"\$\.seed"),
        ({"seed": "A" * 42 + "="}, r"\$\.seed"),
        ({"broker": "!" * 43}, r"\$\.broker"),
        ({"broker": "A" * 43}, "broker is not an Ed25519 public key"),
        ({"agent_id": "Claude"}, "agent id 'Claude' is not in canonical form"),
        ({"run_id": "run 1"}, "run id 'run 1' is not in canonical form"),
        ({"token": ""}, r"\$\.token"),
        ({"token": "x" * 4097}, r"\$\.token"),
        ({"queue_url": "http://localhost"}, "queue_url must begin with redis://, rediss:// or unix://"),
        ({"expires_at": "tomorrow"}, r"\$\.expires_at"),
        ({"expires_at": -1}, r"\$\.expires_at"),
    ],
)
def test_a_wrong_field_is_named_and_nothing_is_shown(
    run: RunCredential, changes: dict[str, Any], expected: str
) -> None:
    """Each field is checked; the error says which and repeats neither key nor token."""
    with pytest.raises(CredentialInvalid, match=expected) as caught:
        RunCredential.from_json(_document(run, **changes))
    report = "".join(traceback.format_exception(caught.value))
    for hidden in (json.loads(run.to_json())["seed"], run.token, "hunter2"):
        assert hidden not in report


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "[" * 60_000, "x" * 70_000, "\ud800"])
def test_what_is_no_credential_is_refused(text: str) -> None:
    """Junk of any kind ends in the one exception, with no other behind it."""
    with pytest.raises(CredentialInvalid, match="run credential: ") as caught:
        RunCredential.from_json(text.encode("utf-8", "surrogatepass"))
    assert caught.value.__context__ is None


def test_neither_repr_nor_the_shown_url_has_a_secret(run: RunCredential) -> None:
    """repr names agent, run and queue; the key, the token and the password stay out."""
    shown = repr(run) + run.shown_queue_url
    assert "agent-claude:***@localhost" in shown
    assert run.run_id in shown
    for hidden in ("hunter2", run.token, json.loads(run.to_json())["seed"], repr(run.seed)):
        assert hidden not in shown


def test_a_password_in_the_urls_query_is_masked_too() -> None:
    """redis-py also takes a password as a query argument."""
    run = FakeDesk().credential(queue_url="unix:///run/valkey.sock?db=0&password=hunter2&x=1")
    assert run.shown_queue_url == "unix:///run/valkey.sock?db=0&password=***&x=1"


@pytest.mark.parametrize(
    "url",
    [
        "redis://agent:hunter2/x@localhost:6379/0",
        "redis://agent:hun@hunter2@localhost/0",
        "redis://agent:hun\n@hunter2@localhost/0",
        "redis://ag@ent:hunter2@localhost/0",
        "rediss://localhost/0?ssl_password=hunter2",
        "rediss://localhost/0?PASSWORD=hunter2&x=1",
        "redis://localhost:6379/0?password=hun@hunter2",
    ],
)
def test_a_password_that_was_not_escaped_is_masked_whole(url: str) -> None:
    """What should have been escaped ends the password for nobody who shows it, nor does an option of another name."""
    run = FakeDesk().credential(queue_url=url)
    assert "hunter2" not in run.shown_queue_url
    assert "***" in run.shown_queue_url


@pytest.mark.parametrize("host", ["[::1", "[hunter2]", "ho\u2100st"])
def test_a_url_that_cannot_be_split_is_refused_and_not_repeated(run: RunCredential, host: str) -> None:
    """Python's own words repeat the password of a URL that it refuses; they do not come out."""
    text = _document(run, queue_url=f"redis://agent:hunter2@{host}:6379/0")
    with pytest.raises(CredentialInvalid, match="queue_url cannot be understood") as caught:
        RunCredential.from_json(text)
    assert caught.value.__context__ is None
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"agent_id": None}, "agent_id is a text; got NoneType"),
        ({"token": b"x"}, "token is a text; got bytes"),
        ({"queue_url": 1}, "queue_url is a text; got int"),
        ({"seed": "x" * 32}, "seed is bytes; got str"),
        ({"intake": None}, "intake is bytes; got NoneType"),
        ({"expires_at": "tomorrow"}, "expires_at is a number of ms; got str"),
    ],
)
def test_a_field_of_another_type_is_named(run: RunCredential, changes: dict[str, Any], expected: str) -> None:
    """Whoever puts a credential together is told which part is wrong, and not by a library."""
    fields = {name: getattr(run, name) for name in RunCredential.__slots__}
    with pytest.raises(CredentialInvalid, match=expected):
        RunCredential(**{**fields, **changes})


@pytest.mark.parametrize("text", [None, {}, 7])
def test_what_is_no_text_is_no_credential(text: Any) -> None:
    """A parsed document, say, instead of its text."""
    with pytest.raises(CredentialInvalid, match="expected its JSON text; got"):
        RunCredential.from_json(text)


@pytest.mark.parametrize("store", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_credential_is_not_stored_by_accident(run: RunCredential, store: Any) -> None:
    """Pickling and copying fail and name the way on purpose."""
    with pytest.raises(TypeError, match=r"to_json\(\)"):
        store(run)


def test_a_descriptor_is_preferred_read_once_and_closed(run: RunCredential, tmp_path: Path) -> None:
    """With all three at hand the descriptor wins; it is closed and no variable with a key in it stays."""
    descriptor = _pipe(run.to_json())
    other = FakeDesk().credential("codex").to_json()
    environ = {FD: str(descriptor), FILE: _file(tmp_path, other), TEXT: other, "PATH": "/bin"}
    assert RunCredential.load(environ).agent_id == "claude"
    assert environ == {FILE: str(tmp_path / "run.json"), "PATH": "/bin"}
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_a_file_is_preferred_to_a_variable(run: RunCredential, tmp_path: Path) -> None:
    """The file wins over the environment, whose variable is removed all the same."""
    environ = {FILE: _file(tmp_path, run.to_json()), TEXT: FakeDesk().credential("codex").to_json()}
    assert RunCredential.load(environ).agent_id == "claude"
    assert TEXT not in environ


def test_a_variable_is_taken_out_of_the_environment(run: RunCredential, monkeypatch: pytest.MonkeyPatch) -> None:
    """Children that are started afterwards do not inherit the key."""
    monkeypatch.setenv(TEXT, run.to_json())
    assert RunCredential.load().run_id == run.run_id
    assert TEXT not in os.environ


def test_no_credential_at_all_says_how_to_get_one() -> None:
    """The error names the launcher and the variable."""
    with pytest.raises(CredentialMissing, match=r"secret-broker launch --agent NAME.*SECRET_BROKER_CREDENTIAL_FILE"):
        RunCredential.load({})


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o601])
def test_a_file_that_others_can_touch_is_refused(run: RunCredential, tmp_path: Path, mode: int) -> None:
    """Only the owner may have any right to it."""
    with pytest.raises(CredentialInvalid, match=f"has mode 0{mode:o}, so others can read it"):
        RunCredential.load({FILE: _file(tmp_path, run.to_json(), mode)})


def test_a_file_of_another_user_is_refused(run: RunCredential, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever wrote the file chooses the broker, so it must be us."""
    path = _file(tmp_path, run.to_json())
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    with pytest.raises(CredentialInvalid, match=r"belongs to user [0-9]+, not to 4711"):
        RunCredential.load({FILE: path})


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    """A folder, a missing file and a pipe that nobody writes end at once."""
    os.mkfifo(tmp_path / "fifo", 0o600)
    for path, expected in (
        (tmp_path, "not a regular file"),
        (tmp_path / "no", "No such file"),
        (tmp_path / "fifo", "not a regular file"),
    ):
        with pytest.raises(CredentialInvalid, match=expected):
            RunCredential.load({FILE: str(path)})


@pytest.mark.parametrize("number", ["", "x", "-1", "1e3", "99999999"])
def test_a_descriptor_that_is_no_number_is_refused(number: str) -> None:
    """The variable is checked before anything is read or closed."""
    with pytest.raises(CredentialInvalid, match="must be the number of an open descriptor"):
        RunCredential.load({FD: number})


def test_a_descriptor_that_was_closed_on_the_way_says_so() -> None:
    """A wrapper between launcher and agent may have closed it: the error names the way around."""
    with pytest.raises(CredentialInvalid, match="a process between the launcher and this one closed it"):
        RunCredential.load({FD: str(_closed_descriptor())})


def _closed_descriptor() -> int:
    read, write = os.pipe()
    os.close(read)
    os.close(write)
    return read


def test_a_descriptor_that_stays_open_ends_at_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launcher that never finishes writing does not hang the agent."""
    monkeypatch.setattr(credential, "DESCRIPTOR_SECONDS", 0.05)
    read, write = os.pipe()
    try:
        os.write(write, b"{")
        with pytest.raises(CredentialInvalid, match=r"was not written and closed at its other end within 0\.05 s"):
            RunCredential.load({FD: str(read)})
    finally:
        os.close(write)


def test_a_descriptor_is_read_to_its_end_however_slowly_it_is_written(run: RunCredential) -> None:
    """An orchestrator may write after it started the agent, in pieces."""
    read, write = os.pipe()

    def feed() -> None:
        for byte in run.to_json().encode():
            os.write(write, bytes([byte]))
        os.close(write)

    thread = threading.Thread(target=feed)
    thread.start()
    assert RunCredential.load({FD: str(read)}).run_id == run.run_id
    thread.join()


def test_an_endless_descriptor_is_read_to_a_bound() -> None:
    """What is too long is refused after 64 KiB."""
    descriptor = os.open("/dev/zero", os.O_RDONLY)
    with pytest.raises(CredentialInvalid, match="longer than 65536 bytes"):
        RunCredential.load({FD: str(descriptor)})


def test_the_standard_streams_are_not_closed() -> None:
    """A variable that names standard error does not take it away from the process."""
    with pytest.raises(CredentialInvalid):
        RunCredential.load({FD: "2"})
    os.fstat(2)


def test_a_child_takes_its_credential_from_an_inherited_descriptor(run: RunCredential) -> None:
    """The way the launcher takes, with a real process."""
    descriptor = _pipe(run.to_json())
    code = "from agent_sdk import RunCredential; print(RunCredential.load().run_id)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={FD: str(descriptor)},
        pass_fds=[descriptor],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    os.close(descriptor)
    assert done.stdout.strip() == run.run_id
