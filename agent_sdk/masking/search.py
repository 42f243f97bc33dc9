"""Where any of many byte strings stand in a text: by Hyperscan where it is installed, else one after the other."""

from collections.abc import Sequence
from typing import Protocol

try:
    import hyperscan
except ImportError:  # the extra `masking` is not installed
    HYPERSCAN = False
else:
    HYPERSCAN = True


class Search(Protocol):
    """Finds every place of every needle, also where they overlap."""

    def hits(self, text: bytes) -> list[tuple[int, int]]:
        """The places, in no order: which needle, and the offset at which it begins."""


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
    """A pass a needle."""

    def __init__(self, needles: Sequence[bytes]) -> None:
        self._needles = tuple(needles)

    def hits(self, text: bytes) -> list[tuple[int, int]]:
        """As `Search` says."""
        found: list[tuple[int, int]] = []
        for number, needle in enumerate(self._needles):
            at = text.find(needle)
            while at >= 0:
                found.append((number, at))
                at = text.find(needle, at + 1)
        return found
