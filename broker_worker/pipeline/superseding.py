"""What follows from a write, on every worker: older copies are dropped, older leases end early, holders are told."""

from collections.abc import Callable, Collection, Sequence

from agent_sdk.wire.messages import MAX_TIME, Notice
from broker_worker.core.announcements import Announcement, open_announcement, sign_announcement
from broker_worker.core.configuration import Configuration
from broker_worker.core.leases import Holding
from broker_worker.core.places import versioned_part
from broker_worker.pipeline.leasing import Leases
from broker_worker.pipeline.letters import Letter, letters_to
from broker_worker.ports import Cache, WriteLog, WriteNote


def _beside(ref: str, configuration: Configuration) -> set[str]:
    """Other references into the same item or secret: the whole of it, or it by another stage."""
    part = versioned_part(ref)
    return {entry.ref for entry in configuration.registry.values() if versioned_part(entry.ref) == part}


ANNOUNCED_FOR_MS = 24 * 3600 * 1000
"""How old an announcement may be, ms: whoever owns the queue can show it again for ever."""


class Superseding:
    """Hears of writes and does what follows from them, once each.

    Args:
        log: the broker's own file of writes.
        identity_secret: signs announcements for other hosts, and tells theirs from others'.
        cache: values between two uses.
        leases: what runs hold.
    """

    def __init__(self, log: WriteLog, identity_secret: bytes, cache: Cache, leases: Leases) -> None:
        self.unpublished: dict[str, bytes] = {}
        """Announcements that must be put onto the queue, by the write's id."""
        self.on_dropped: Callable[[str], object] = lambda ref: None
        """Called with each place whose copies were dropped: what is being fetched from it may be old as well."""
        self._log = log
        self._secret = identity_secret
        self._cache = cache
        self._leases = leases
        self._known: set[tuple[str, int]] = set()
        self._since: int | None = None
        for note in log.poll():
            self._known.add((note.write_id, note.at))
            leases.supersede(note.ref, note.version, note.at)
        self.uncertain = frozenset(note.ref for note in log.overdue(MAX_TIME))
        """Places whose writes had no end when this worker started: copies from before then may be old."""

    def poll(self, configuration: Configuration, now: int) -> list[Letter]:
        """Hear what the workers of this host wrote.

        Returns:
            Notices to send.
        """
        letters: list[Letter] = []
        self._began(now)
        for note in self._log.poll():
            letters += self.note(note, configuration, now)
        return letters

    def take(self, raw: bytes, configuration: Configuration, now: int) -> list[Letter]:
        """Hear what a worker of another host wrote.

        Args:
            raw: the body of a `write` message of the control stream.
            configuration: the files in force.
            now: the time, ms since the epoch.

        Raises:
            WireError: if the broker did not sign it.
        """
        told = open_announcement(raw, self._secret[32:])
        entry = configuration.entry_of(told.name)
        if entry is None or told.at < now - ANNOUNCED_FOR_MS:
            return []
        note = WriteNote(told.write_id, "written", told.name, entry.ref, told.at, version=told.version)
        return self.note(note, configuration, now)

    def announce(self, note: WriteNote) -> None:
        """Have the workers of other hosts told of a write of this worker's."""
        told = Announcement(note.write_id, note.name, note.at, note.version)
        self.unpublished[note.write_id] = sign_announcement(told, self._secret)

    def note(self, note: WriteNote, configuration: Configuration, now: int) -> list[Letter]:
        """Do what follows from a write; nothing if it was heard of before.

        Returns:
            Notices to the runs that hold an older version.
        """
        mark = note.write_id, note.at  # a write that was claimed again after a crash may have two ends
        if mark in self._known:
            return []
        self._known = {known for known in self._known if known[1] >= now - ANNOUNCED_FOR_MS} | {mark}
        beside = {note.ref} | _beside(note.ref, configuration)
        for ref in beside:
            self._cache.forget(ref)
            self.on_dropped(ref)
        self._leases.supersede(note.ref, note.version, note.at, now if note.at >= self._began(now) else None)
        keepers: dict[str, dict[tuple[str, bytes], None]] = {}  # who acts for many runs is told once
        for holding, ref in self._holders(beside, configuration):
            if self._leases.is_superseded(ref, holding.lease):
                keepers.setdefault(holding.lease.name, {})[holding.keeper] = None
                if holding.lease.version is None:  # the next use must not go on under it
                    self._leases.book.end(holding)
        letters: list[Letter] = []
        for name, told in keepers.items():
            letters += letters_to(told, Notice("secret_rotated", note.at, name=name))
        return letters

    def _began(self, now: int) -> int:
        """When this worker first heard anything: what was written before, it never served an older copy of."""
        self._since = now if self._since is None else self._since
        return self._since

    def _holders(self, refs: Collection[str], configuration: Configuration) -> Sequence[tuple[Holding, str]]:
        """The leases on names that are kept at some places, each with its place."""
        places: dict[str, str | None] = {}
        found: list[tuple[Holding, str]] = []
        for holding in self._leases.book:
            name = holding.lease.name
            if name not in places:
                entry = configuration.entry_of(name)
                places[name] = entry.ref if entry is not None and entry.ref in refs else None
            ref = places[name]
            if ref is not None:
                found.append((holding, ref))
        return found
