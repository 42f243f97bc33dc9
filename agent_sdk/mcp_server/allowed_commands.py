"""Which programs a model may have started, as the operator's patterns say. What no pattern covers is refused."""

import re
import shlex
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from agent_sdk.errors import InvalidRequest

ANY_MORE: Final = "**"
"""A last word that stands for any further arguments, none included."""


class AllowedCommands:
    """Patterns of argument lists.

    A pattern is written as in a shell and split into words. Each word must be the argument in its place; a `*` within
    it stands for any characters; a last word `**` stands for any further arguments. The program is looked up once, when
    the server starts, so that what stands in the working folder, or in a changed PATH, is never what runs.

    Args:
        patterns: what the operator allows.

    Raises:
        InvalidRequest: if a pattern is empty or not closed, or its program is not found.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = [_split(pattern) for pattern in patterns]
        self._programs = {words[0]: _program(words[0]) for words in self._patterns}

    def __bool__(self) -> bool:
        return bool(self._patterns)

    @property
    def described(self) -> str:
        """The patterns, as a model reads them."""
        return "; ".join(" ".join(words) for words in self._patterns)

    def resolve(self, argv: Sequence[str]) -> str | None:
        """The program to start for an argument list; None if no pattern covers it."""
        covered = any(_covers(words, argv) for words in self._patterns)
        return self._programs[argv[0]] if covered else None


def _split(pattern: str) -> list[str]:
    try:
        words = shlex.split(pattern)
    except ValueError:
        raise InvalidRequest("--allow-command has a quotation that is not closed") from None
    if not words or "*" in words[0]:
        raise InvalidRequest("--allow-command begins with the name or path of one program, such as 'gh pr *'")
    return words


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise InvalidRequest(f"--allow-command names {name}, and there is no such program to execute")
    return str(Path(found).absolute())


def _covers(words: Sequence[str], argv: Sequence[str]) -> bool:
    if words[-1] == ANY_MORE:
        words, argv = words[:-1], argv[: len(words) - 1]
    return len(words) == len(argv) and all(map(_is_covered, words, argv))


def _is_covered(word: str, argument: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in re.split(r"\*+", word))
    return re.fullmatch(pattern, argument, re.DOTALL) is not None
