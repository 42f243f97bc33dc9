"""Output that pauses: what a masker holds back may be shown meanwhile, as long as that gives no value away.

A masker holds back what may be the beginning of a value. A prompt must not wait for that: after a pause its last
characters are shown, if there are fewer of them than the shortest value that is masked has. They are remembered, so that
if the value does follow, all of it is masked; what had been shown of it is its first three characters at most.
"""

from typing import Final

from agent_sdk.masking import Masker

MOST_SHOWN: Final = 3
"""How much of what may be a value's beginning is shown at most, in bytes."""


class Hesitation:
    """A masker of one stream that knows what was shown in a pause.

    Args:
        masker: the stream's.
    """

    def __init__(self, masker: Masker) -> None:
        self._masker = masker
        self._shown = b""
        self._paused = False

    @property
    def is_waiting(self) -> bool:
        """Whether a pause could bring something out."""
        return self._masker.pending and not self._paused

    def feed(self, chunk: bytes) -> bytes:
        """What can be shown now that a chunk has come."""
        self._paused = False
        found = self._masker.feed(chunk)
        return self._news(found) if self._shown else found

    def pause(self) -> bytes:
        """What can be shown because nothing has come for a while."""
        self._paused = True
        if self._shown:
            return b""  # no more than that
        held = self._masker.flush()
        found = self._masker.feed(held)  # to have it held back again
        if not found and len(held) <= MOST_SHOWN:
            self._shown = found = held
        return found

    def flush(self) -> bytes:
        """What is left at the end."""
        return self._news(self._masker.flush())

    def _news(self, found: bytes) -> bytes:
        """What of it was not shown before."""
        shown = self._shown
        if shown.startswith(found):
            self._shown = shown[len(found) :]
            return b""
        self._shown = b""
        return found[len(shown) :] if found.startswith(shown) else found
