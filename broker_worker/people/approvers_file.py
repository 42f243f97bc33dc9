"""Changes of `approvers.yaml` that keep everything else in it, comments included.

A change is a change of lines. It is written only if the file, read anew, then says exactly what it said before and the
change; otherwise a person makes it, and is told what to write.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from broker_worker.core.approvers import Approver, Approvers, Ed25519Key, Key
from broker_worker.core.configuration import Dashboard
from broker_worker.core.errors import ConfigError, SetupError
from broker_worker.core.policy import Origin
from broker_worker.files.approvers import KEYS, read_approvers
from broker_worker.files.configuration import APPROVERS_FILE
from broker_worker.files.list_lines import NotChangedError, replace_text
from broker_worker.files.sections import Section
from broker_worker.files.yaml_reader import MappingNode, parse_yaml, read_yaml
from broker_worker.people.approvers_lines import with_entry, with_key, without_entry

_NEW = """\
# Who may approve or deny what the policy asks people about (`approval:` of an entry in policy.yaml).

approvers: []
"""


@dataclass(frozen=True, slots=True)
class _Change:
    """What a file is to say, and how it comes to say it.

    Args:
        people: everybody, by name.
        edit: makes the new text of the old lines; None where it cannot.
        by_hand: what a person must write, and where, if that does not work.
    """

    people: Mapping[str, Approver]
    edit: Callable[[Sequence[str], MappingNode], str | None]
    by_hand: str


def person_lines(name: str, groups: Sequence[str], keys: Sequence[Key]) -> str:
    """A person's entry as `approvers.yaml` has it."""
    lines = [f"  - name: {name}", *([f"    groups: [{', '.join(groups)}]"] if groups else []), "    keys:"]
    return "\n".join([*lines, *(f"      - {key_text(key)}" for key in keys)]) + "\n"


def key_text(key: Key) -> str:
    """A key as `approvers.yaml` has it, on one line."""
    if isinstance(key, Ed25519Key):
        return f'{{kind: ed25519, public_key: "{base64url(key.public)}"}}'
    return (
        f'{{kind: webauthn, credential_id: "{base64url(key.credential_id)}", public_key: "{base64url(key.public)}", '
        f"rp_id: {key.rp_id}}}"
    )


def base64url(raw: bytes) -> str:
    """Base64url without padding (RFC 4648, section 5)."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class ApproversFile:
    """The people who may decide, and the file that says so.

    Args:
        folder: where the operator's files are.
        dashboard: as broker.yaml has it.
    """

    def __init__(self, folder: Path, dashboard: Dashboard) -> None:
        self.path = folder / APPROVERS_FILE
        self._dashboard = dashboard

    def people(self) -> Mapping[str, Approver]:
        """Everybody by name; nobody if there is no file.

        Raises:
            ConfigError: with file and line.
        """
        return self._read(self._text()).people

    def check(self, name: str, groups: Sequence[str]) -> Mapping[str, Approver]:
        """Find what stands against adding a person or a key, before a key is made.

        Returns:
            Everybody by name.

        Raises:
            ConfigError: if the file is not valid.
            SetupError: if the person is there in other groups, or the name or a group would mean two things.
        """
        known = self.people()
        if name in known and groups and set(groups) != set(known[name].groups):
            raise SetupError(
                f"{name} is there already, in other groups: {', '.join(known[name].groups) or 'none'}",
                hint="leave --group out to add a key, or change the groups in the file",
            )
        taken = {group for person in known.values() for group in person.groups}
        both = ({name} & (taken | set(groups))) | (set(groups) & set(known))
        if both:
            raise SetupError(f"{min(both)!r} would be a person and a group", hint="choose another name")
        return known

    def add(self, name: str, groups: Sequence[str], key: Key) -> None:
        """Add a person, or another key of a person who is there.

        Args:
            name: the person.
            groups: of a new person; none for one who is there, whose groups stay.
            key: the public half.

        Raises:
            ConfigError: if the file is not valid.
            NotChangedError: if it cannot be changed safely; `by_hand` says what to write.
            SetupError: if somebody has the key, or the name or a group would mean two things.
        """
        known = self.check(name, groups)
        _refuse_known_key(known, key)
        if name in known:
            person = known[name]
            changed = replace(person, keys=(*person.keys, key))
            by_hand = f"below `keys:` of {name}:\n\n      - {key_text(key)}\n"
            self._write(
                _Change({**known, name: changed}, lambda old, tree: with_key(old, tree, name, key_text(key)), by_hand)
            )
            return
        entry = person_lines(name, groups, (key,))
        added = Approver(name, tuple(groups), (key,), _NOWHERE)
        by_hand = f"below `approvers:`:\n\n{entry}"
        self._write(_Change({**known, name: added}, lambda old, tree: with_entry(old, tree, entry), by_hand))

    def remove(self, name: str) -> None:
        """Remove a person with all keys.

        Raises:
            ConfigError: if the file is not valid.
            NotChangedError: if it cannot be changed safely; `by_hand` says what to write.
            SetupError: if there is no such person.
        """
        known = dict(self.people())
        if name not in known:
            names = ", ".join(known) or "nobody"
            raise SetupError(f"{self.path} has no {name!r}", hint=f"there is: {names}")
        line = known.pop(name).origin.line
        by_hand = f"without the entry of {name}, which begins in line {line}\n"
        self._write(_Change(known, lambda old, tree: without_entry(old, tree, name), by_hand))

    def _write(self, change: _Change) -> None:
        old = self._text()
        new = change.edit(old.splitlines(keepends=True), parse_yaml(old.encode(), str(self.path)))
        if new is None or not self._says(new, replace(self._read(old), people=change.people)):
            raise NotChangedError(self.path, change.by_hand)
        if self._text() != old:
            raise SetupError(f"{self.path} was changed by somebody else meanwhile", hint="try again")
        replace_text(self.path, new)

    def _text(self) -> str:
        if not self.path.exists():
            return _NEW
        read_yaml(self.path)  # says what is wrong with it, if anything is
        return self.path.read_bytes().decode("utf-8-sig")

    def _says(self, text: str, wanted: Approvers) -> bool:
        """Whether a text says exactly that."""
        try:
            return _placeless(self._read(text)) == _placeless(wanted)
        except ConfigError:
            return False

    def _read(self, text: str) -> Approvers:
        tree = parse_yaml(text.encode(), str(self.path))
        document = Section(tree, file=str(self.path), origin=self.path.name, what="top level")
        document.refuse_unknown(KEYS)
        return read_approvers(document, self._dashboard)


_NOWHERE = Origin("", 0)


def _refuse_known_key(known: Mapping[str, Approver], key: Key) -> None:
    for person in known.values():
        if key in person.keys:
            raise SetupError(f"{person.name} has this key already", hint="a key belongs to one person")


def _placeless(approvers: Approvers) -> Approvers:
    """The same without lines, which a change moves."""
    people = {name: replace(person, origin=_NOWHERE) for name, person in approvers.people.items()}
    return replace(approvers, people=people)
