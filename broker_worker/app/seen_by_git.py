"""Which of the values that are migrated git has seen: those are to be rotated, wherever they are kept from now on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from agent_sdk.scan.errors import ScanError
from agent_sdk.scan.history import Repository
from agent_sdk.scan.reading import MAX_BYTES
from agent_sdk.scan.tree import Tally
from broker_worker.app.migration_plan import EnvPlan, Move

_SHORTEST: Final = 6
"""Shorter values are not looked for in git's history: they stand everywhere."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A value that git has.

    Args:
        variable: the variable.
        commit: the first commit that has it.
        path: the file there.
    """

    variable: str
    commit: str
    path: str


def seen_by_git(plans: Sequence[EnvPlan]) -> tuple[list[Seen], list[str]]:
    """Which of the values git has, in any commit that is still there.

    Args:
        plans: the env files.

    Returns:
        The values that it has, each with the first commit and file; and why a file's repository was not looked at.
    """
    seen: dict[str, Seen] = {}
    notes: list[str] = []
    wanted: dict[str, tuple[Repository, list[Move]]] = {}
    for plan in plans:
        try:
            repository = Repository(str(plan.path.parent))
        except ScanError as error:
            notes.append(f"{plan.path}: git's history was not looked at: {error}")
            continue
        wanted.setdefault(repository.top, (repository, []))[1].extend(plan.moves)
    for repository, moves in wanted.values():
        tally = Tally()
        try:
            for blob in repository.blobs(MAX_BYTES, tally):
                for move in moves:
                    if move.variable not in seen and _is_in(move, blob.content or b""):
                        seen[move.variable] = Seen(move.variable, blob.commit, blob.path)
        except ScanError as error:
            notes.append(f"{repository.top}: git's history was looked at in part: {error}")
        if tally.large or tally.unreadable:
            notes.append(
                f"{repository.top}: {tally.large + len(tally.unreadable)} contents of git's were not looked at"
            )
    return list(seen.values()), notes


def _is_in(move: Move, content: bytes) -> bool:
    return any(len(text) >= _SHORTEST and text in content for text in {move.value, move.written})
