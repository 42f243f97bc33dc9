"""Changes of approvers.yaml: everything else in it stays, and what cannot be changed safely is not changed."""

import os
import stat
from pathlib import Path

import pytest
from people_workbench import ALICE, BOB, CAROL

from broker_worker.core.approvers import Ed25519Key, WebAuthnKey
from broker_worker.core.configuration import Dashboard
from broker_worker.core.errors import ConfigError, SetupError
from broker_worker.files.list_lines import NotChangedError
from broker_worker.people.approvers_file import ApproversFile, key_text

EXAMPLE = Path(__file__).parents[2] / "config" / "approvers.yaml"
KEYS = [Ed25519Key(person.public) for person in (ALICE, BOB, CAROL)]
CREDENTIAL = WebAuthnKey(bytes(range(16)), bytes(range(77)), "localhost")


@pytest.fixture
def file(tmp_path: Path) -> ApproversFile:
    """A file like the example."""
    (tmp_path / "approvers.yaml").write_bytes(EXAMPLE.read_bytes())
    return ApproversFile(tmp_path, Dashboard())


def said(file: ApproversFile) -> dict[str, tuple[tuple[str, ...], int]]:
    """Groups and number of keys by name."""
    return {name: (person.groups, len(person.keys)) for name, person in file.people().items()}


def test_people_are_added_and_removed_and_the_rest_stays(file: ApproversFile) -> None:
    """Whatever was there before, comments included, is there afterwards, byte for byte."""
    before = file.path.read_text()
    file.add("alice", ("ops", "leads"), KEYS[0])
    one = file.path.read_text()
    file.add("bob", (), KEYS[1])
    file.add("alice", (), CREDENTIAL)
    assert said(file) == {"alice": (("ops", "leads"), 2), "bob": ((), 1)}
    assert [line for line in file.path.read_text().splitlines() if line in before.splitlines()] == [
        line for line in before.splitlines() if line != "approvers: []"
    ]
    assert file.people()["alice"].keys == (KEYS[0], CREDENTIAL)
    file.remove("bob")
    file.remove("alice")
    assert file.path.read_text() == before
    assert "  - name: alice\n    groups: [ops, leads]\n    keys:\n      - {kind: ed25519" in one


def test_a_file_that_does_not_exist_is_made(tmp_path: Path) -> None:
    """With a line that says what it is."""
    file = ApproversFile(tmp_path, Dashboard())
    assert said(file) == {}
    file.add("alice", ("ops",), CREDENTIAL)
    assert said(file) == {"alice": (("ops",), 1)}
    assert file.path.read_text().startswith("# Who may approve")
    if os.name == "posix":
        assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "text",
    [
        f"approvers:   # people\n- name: bob\n  keys: [{key_text(KEYS[1])}]\n# the end",
        f"limits: {{open_per_run: 2}}\napprovers:\n    -   name: bob\n        keys:\n        - {key_text(KEYS[1])}\n\n"
        "origins: [http://localhost:1]\n",
        f"approvers:\r\n  - name: bob\r\n    keys: [{key_text(KEYS[1])}]\r\n",
        f"approvers:\n  - {{name: bob, keys: [{key_text(KEYS[1])}]}}",
    ],
)
def test_other_ways_to_write_the_list_are_kept(file: ApproversFile, text: str) -> None:
    """Wherever it stands, however it is indented."""
    file.path.write_bytes(text.encode())
    file.add("alice", ("ops",), KEYS[0])
    assert said(file) == {"bob": ((), 1), "alice": (("ops",), 1)}
    kept = [line for line in file.path.read_bytes().decode().splitlines() if line in text.splitlines()]
    assert kept == text.splitlines()
    file.remove("alice")
    assert file.path.read_bytes().decode().rstrip() == text.rstrip()


@pytest.mark.parametrize(
    "text",
    [
        f"approvers: [{{name: bob, keys: [{key_text(KEYS[1])}]}}]\n",
        f"approvers: [\n  {{name: bob, keys: [{key_text(KEYS[1])}]}}\n]\n",
        f"approvers:\n  -\n    name: bob\n    keys: [{key_text(KEYS[1])}]\n",
        f"approvers:\n  - name: bob\n    keys:\n      - {key_text(KEYS[1])[:-1]}\n        }}\n",
    ],
)
def test_what_cannot_be_changed_by_lines_is_left_to_a_person(file: ApproversFile, text: str) -> None:
    """With the lines to write; the file stays as it is."""
    file.path.write_text(text)
    with pytest.raises(NotChangedError) as caught:
        file.add("alice", ("ops",), KEYS[0])
    assert "  - name: alice\n    groups: [ops]\n" in caught.value.by_hand
    with pytest.raises(NotChangedError) as caught:
        file.add("bob", (), KEYS[0])
    assert key_text(KEYS[0]) in caught.value.by_hand
    with pytest.raises(NotChangedError):
        file.remove("bob")
    assert file.path.read_text() == text


def test_a_key_belongs_to_one_person(file: ApproversFile) -> None:
    """Nobody gets another's."""
    file.add("alice", ("ops",), KEYS[0])
    with pytest.raises(SetupError, match="alice has this key already"):
        file.add("bob", (), KEYS[0])
    with pytest.raises(SetupError, match="alice has this key already"):
        file.add("alice", (), KEYS[0])


@pytest.mark.parametrize(
    ("name", "groups", "message"),
    [
        ("ops", (), "'ops' would be a person and a group"),
        ("bob", ("alice",), "'alice' would be a person and a group"),
        ("bob", ("bob",), "'bob' would be a person and a group"),
        ("alice", ("leads",), "alice is there already, in other groups: ops"),
    ],
)
def test_names_and_groups_stay_clear(file: ApproversFile, name: str, groups: tuple[str, ...], message: str) -> None:
    """It is found before a key is made."""
    file.add("alice", ("ops",), KEYS[0])
    with pytest.raises(SetupError, match=message):
        file.check(name, groups)
    with pytest.raises(SetupError, match=message):
        file.add(name, groups, KEYS[1])


def test_only_who_is_there_can_be_removed(file: ApproversFile) -> None:
    """With the names that there are."""
    file.add("alice", (), KEYS[0])
    with pytest.raises(SetupError) as caught:
        file.remove("bob")
    assert (str(caught.value), caught.value.hint) == (f"{file.path} has no 'bob'", "there is: alice")


def test_a_file_that_is_not_valid_is_not_touched(file: ApproversFile) -> None:
    """Its own error comes first."""
    file.path.write_text("approvers: nobody\n")
    with pytest.raises(ConfigError, match="expected a list"):
        file.add("alice", (), KEYS[0])
    assert file.path.read_text() == "approvers: nobody\n"


def test_a_change_by_somebody_else_meanwhile_is_not_overwritten(
    file: ApproversFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command is to be given again."""
    texts = iter([file.path.read_text()] * 2 + ["approvers: []\n# newer\n"])
    monkeypatch.setattr(ApproversFile, "_text", lambda _: next(texts))
    with pytest.raises(SetupError, match="was changed by somebody else meanwhile"):
        file.add("alice", (), KEYS[0])
    assert file.path.read_bytes() == EXAMPLE.read_bytes()


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_mode_and_link_of_the_file_stay(file: ApproversFile, tmp_path: Path) -> None:
    """A broker of another user may have to read it."""
    real = tmp_path / "elsewhere.yaml"
    file.path.rename(real)
    file.path.symlink_to(real)
    real.chmod(0o640)
    file.add("alice", (), KEYS[0])
    assert (file.path.is_symlink(), stat.S_IMODE(real.stat().st_mode)) == (True, 0o640)
    assert said(file) == {"alice": ((), 1)}
