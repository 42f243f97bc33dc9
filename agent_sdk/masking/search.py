"""Where any of many byte strings stand in a text: by Hyperscan where it is installed, else one after the other."""

import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import Final, Literal, Protocol

try:
    import hyperscan
except ImportError:  # the extra `masking` is not installed
    HYPERSCAN = False
else:
    HYPERSCAN = True

_WIDTHS: Final[dict[Literal["Q", "I"], int]] = {"Q": 8, "I": 4}  # of the numbers that `memoryview.cast` reads, in bytes


class Search(Protocol):
    """Finds every place of every needle, also where they overlap."""

    def hits(self, text: bytes) -> list[tuple[int, int]]:
        """The places, in no order: which needle, and the offset at which it begins."""


def best_length() -> int:
    """The length of needles, in bytes, with which the search of this machine is fastest."""
    return 8 if HYPERSCAN else 15


def search_for(needles: Sequence[bytes]) -> Search:
    """The fastest search for these needles that works on this machine.

    Args:
        needles: none of them empty, none twice.
    """
    if not (HYPERSCAN and needles):
        return PlainSearch(needles)
    try:
        return HyperscanSearch(needles)
    except hyperscan.HyperscanError:  # a processor that it does not know
        return PlainSearch(needles)


class HyperscanSearch:
    """All needles in one pass, with the processor's vector instructions."""

    def __init__(self, needles: Sequence[bytes]) -> None:
        self._lengths = [len(needle) for needle in needles]
        self._database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
        # Its own `literal=True` ends a needle at a zero byte. Escaped, each byte is itself.
        expressions = [b"".join(b"\\x%02x" % byte for byte in needle) for needle in needles]
        self._database.compile(expressions=expressions, ids=range(len(needles)))

    def hits(self, text: bytes) -> list[tuple[int, int]]:
        """As `Search` says."""
        found: list[tuple[int, int]] = []
        lengths = self._lengths

        def note(needle: int, _start: int, end: int, _flags: int, _context: object) -> None:
            found.append((needle, end - lengths[needle]))

        self._database.scan(text, match_event_handler=note)
        return found


class PlainSearch:
    """A look at every eighth byte, or every fourth, and a pass for each needle that may be there.

    Wherever a needle of 15 bytes stands, one of its first eight windows of eight bytes begins at a multiple of eight.
    So a text is read as numbers of eight bytes, and where none of them is a window, no such needle is. For needles of
    seven bytes the same is true of fours.
    """

    def __init__(self, needles: Sequence[bytes]) -> None:
        self._needles = tuple(needles)
        self._windows = {code: defaultdict[int, list[int]](list) for code in _WIDTHS}
        self._always: list[int] = []  # too short for that
        for number, needle in enumerate(self._needles):
            code = next((code for code, width in _WIDTHS.items() if len(needle) >= 2 * width - 1), None)
            if code is None:
                self._always.append(number)
                continue
            width = _WIDTHS[code]
            for at in range(width):
                window = int.from_bytes(needle[at : at + width], sys.byteorder)
                self._windows[code][window].append(number)

    def hits(self, text: bytes) -> list[tuple[int, int]]:
        """As `Search` says."""
        found: list[tuple[int, int]] = []
        for number in self._possible(text):
            needle = self._needles[number]
            at = text.find(needle)
            while at >= 0:
                found.append((number, at))
                at = text.find(needle, at + 1)
        return found

    def _possible(self, text: bytes) -> set[int]:
        possible = set(self._always)
        for code, windows in self._windows.items():
            if windows:
                width = _WIDTHS[code]
                numbers = memoryview(text)[: len(text) // width * width].cast(code)
                possible.update(*(windows[window] for window in windows.keys() & numbers))
        return possible
