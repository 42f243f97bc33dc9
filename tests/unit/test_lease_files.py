"""What runs hold, on disk: a process that lives keeps its own, and the next one inherits from one that is gone."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from broker_worker.core.errors import SetupError
from broker_worker.core.leases import Holding, LeaseMint, lease_key
from broker_worker.state.lease_files import LeaseFiles

NOW = 1_800_000_000_000
KEY = lease_key(bytes(range(32)))
RUN, PROXY = bytes([5]) * 32, bytes([6]) * 32
MINT = LeaseMint(KEY)


def own(name: str = "openai.api_key", ends_at: int = NOW + 60_000, **other: Any) -> Holding:
    """What a run holds itself."""
    lease = MINT.issue("claude", RUN, name, "7", NOW, ends_at)
    return Holding("claude", "run-1", "token-1", RUN, lease, ends_at, **other)


def by_proxy() -> Holding:
    """What a proxy holds for a run."""
    lease = MINT.issue("egress", PROXY, "db.root", None, NOW, NOW + 60_000, for_others=True)
    held = Holding("claude", "run-1", "token-1", RUN, lease, NOW + 60_000, actor=("egress", PROXY))
    held.actor_run, held.actor_token = "proxy-1", "token-2"
    return held


@pytest.fixture
def files(tmp_path: Path) -> Callable[..., LeaseFiles]:
    """A process's files, in a folder that all share."""
    return lambda worker="worker-1", **more: LeaseFiles(tmp_path / "leases", worker, MINT, lambda: NOW, **more)


def names(tmp_path: Path) -> list[str]:
    """What is in the folder, without what tells processes apart."""
    return sorted(path.name[:8] + path.name[17:] for path in (tmp_path / "leases").iterdir())


Files = Callable[..., LeaseFiles]


def test_who_comes_after_inherits_what_was_open(files: Files) -> None:
    """All that a notice needs, of a run's own leases and of those that are held for it; not what ended."""
    first, given_back = files(), own("github.read_token")
    kept = [own(upstream="database/creds/app/1", scheme="bao"), by_proxy()]
    first.note([kept[0], given_back])
    first.note([given_back.lease.lease_id, kept[1]])
    first.close()
    assert files("worker-2").inherit() == kept


def test_nobody_inherits_from_a_process_that_lives(files: Files, tmp_path: Path) -> None:
    """Nor from itself; and only one inherits from one that is gone."""
    first, second, third = files(), files("worker-2"), files("worker-3")
    first.note([own()])
    assert [each.inherit() for each in (first, second, third)] == [[], [], []]
    first.close()
    assert len(second.inherit()) == 1
    assert third.inherit() == []
    assert names(tmp_path) == ["worker-2.jsonl", "worker-2.lock", "worker-3.jsonl", "worker-3.lock"]


def test_what_was_inherited_is_inherited_again(files: Files) -> None:
    """The heir may be gone soon as well."""
    held = own()
    first = files()
    first.note([held])
    first.close()
    for name in ("worker-2", "worker-1", "worker.3"):
        heir = files(name)
        assert heir.inherit() == [held]
        heir.close()


def test_what_another_worker_only_renewed_does_not_hide_whose_it_was(files: Files) -> None:
    """It notes the lease without what the vault calls its own."""
    issued = own(upstream="database/creds/app/1")
    renewed = replace(issued, upstream=None)
    for held in ([issued, renewed], [renewed, issued]):
        first = files()
        first.note(held)
        first.close()
        heir = files("worker-2")
        assert heir.inherit() == [issued]
        heir.note([issued.lease.lease_id])
        heir.close()


def test_a_process_of_the_same_name_inherits_from_the_one_before(files: Files) -> None:
    """A restart keeps the name; two of one name at once each have their own file."""
    first = files()
    first.note([own()])
    second = files()
    assert second.inherit() == []
    first.close()
    assert len(second.inherit()) == 1


def test_what_is_over_is_not_inherited(files: Files) -> None:
    """By its hard end: until when it was renewed is not noted."""
    first = files()
    first.note([own(ends_at=NOW), own("github.read_token", NOW + 1)])
    first.close()
    (held,) = files("worker-2").inherit()
    assert (held.lease.name, held.expires_at) == ("github.read_token", NOW + 1)


@pytest.mark.parametrize(
    ("change", "by"),
    [
        (b'"agent":"claude"', b'"agent":"codex"'),
        (b'"key":"BQUF', b'"key":"BQUG'),
        (b'"lease":"', b'"lease":"AAAA'),
        (b'"is":"held"', b'"is":"other"'),
        (b'"key":"BQUF', b'"key":"'),
    ],
    ids=["agent", "key", "lease", "kind", "length"],
)
def test_a_line_that_the_broker_did_not_write_counts_for_nothing(
    files: Files, tmp_path: Path, change: bytes, by: bytes
) -> None:
    """The lease's token is authenticated together with who has it; what else stands there does no harm."""
    first = files()
    first.note([own()])
    first.close()
    (path,) = (tmp_path / "leases").glob("*.jsonl")
    line = path.read_bytes()
    assert change in line
    path.write_bytes(line.replace(change, by) + b"\xff\n{}\n[]\nnull\n\n" + line[:-20])
    assert files("worker-2").inherit() == []


def test_a_lease_that_is_held_for_others_is_not_taken_for_a_runs_own(files: Files) -> None:
    """Nor the other way round: who is told follows from the token."""
    first, held = files(), by_proxy()
    of_the_proxy = MINT.issue("egress", PROXY, "db.root", None, NOW, NOW + 60_000)
    for_others = Holding("egress", "proxy-1", "token-2", PROXY, held.lease, NOW + 60_000)
    first.note([replace(held, lease=of_the_proxy), for_others])
    first.close()
    assert files("worker-2").inherit() == []


def test_a_line_that_a_crash_cut_short_hides_no_other(files: Files, tmp_path: Path) -> None:
    """What came before it is inherited."""
    first, kept = files(), own()
    first.note([kept, own("github.read_token")])
    first.close()
    (path,) = (tmp_path / "leases").glob("*.jsonl")
    path.write_bytes(path.read_bytes()[:-9])
    assert files("worker-2").inherit() == [kept]


def test_the_newest_are_there_however_many_were_noted(files: Files, tmp_path: Path) -> None:
    """Two files at most, of so many lines each."""
    first = files(max_lines=3)
    held = [own(f"name.n{number}") for number in range(11)]
    for each in held:
        first.note([each])
    lines = sum(path.read_bytes().count(b"\n") for path in (tmp_path / "leases").glob("*.jsonl"))
    assert lines == 5
    first.close()
    assert files("worker-2").inherit() == held[-5:]


def test_the_older_of_two_files_belongs_to_its_process(files: Files, tmp_path: Path) -> None:
    """Nobody takes it from one that lives; one that died while it began the newer file leaves the older alone."""
    first, heir = files(max_lines=3), files("worker-2")
    held = [own(f"name.n{number}") for number in range(5)]
    for each in held:
        first.note([each])
    assert heir.inherit() == []
    first.close()
    (newer,) = set((tmp_path / "leases").glob("worker-1*.jsonl")) - set((tmp_path / "leases").glob("*.before.jsonl"))
    newer.unlink()
    assert heir.inherit() == held[:3]
    assert [name for name in names(tmp_path) if name.startswith("worker-1")] == []


def test_a_disk_that_is_full_stops_nothing(files: Files, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """It is told once; what is noted after it is whole."""
    first, kept = files(), own("github.read_token")
    write = os.write

    def fail(descriptor: int, data: bytes) -> int:
        write(descriptor, data[:30])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", fail)
    first.note([own()])
    first.note([own()])
    monkeypatch.setattr(os, "write", write)
    first.note([kept])
    first.close()
    assert files("worker-2").inherit() == [kept]
    assert capsys.readouterr().out.count("No space left on device") == 1


def test_a_file_that_others_can_read_is_not_believed_and_hides_no_other(files: Files, tmp_path: Path) -> None:
    """It stays where it is, for the operator."""
    first, second = files(), files("worker-2")
    for each in (first, second):
        each.note([own()])
        each.close()
    (path,) = (tmp_path / "leases").glob("worker-1*.jsonl")
    path.chmod(0o644)
    assert len(files("worker-3").inherit()) == 1
    assert path.exists()


def test_files_that_are_not_believed_are_told_once_each(files: Files, tmp_path: Path, capsys: Any) -> None:
    """They are looked at four times a second for as long as the worker runs, while it notes what it lends."""
    for name in ("worker-1", "worker-2"):
        each = files(name)
        each.note([own()])
        each.close()
    for path in (tmp_path / "leases").glob("*.jsonl"):
        path.chmod(0o644)
    heir = files("worker-3")
    for _ in range(3):
        assert heir.inherit() == []
        heir.note([own()])
    assert capsys.readouterr().out.count("lease_files") == 2


def test_a_folder_that_others_may_enter_is_refused(files: Files, tmp_path: Path) -> None:
    """As all of the broker's state."""
    (tmp_path / "leases").mkdir(mode=0o755)
    with pytest.raises(SetupError, match="group and others"):
        files()


def test_two_who_inherit_at_once_do_not_both_have_it(files: Files, tmp_path: Path) -> None:
    """Who comes second finds it taken."""
    first, second = files(), files("worker-2")
    first.note([own()])
    first.close()
    (path,) = (tmp_path / "leases").glob("worker-1*.jsonl")
    with FileLock(path.with_name(path.name.removesuffix(".jsonl") + ".lock"), mode=0o600):
        assert second.inherit() == []
    assert len(second.inherit()) == 1
