"""The masker: secret values in a stream of bytes are replaced, wherever the stream is cut."""

from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import Final, final

from agent_sdk.masking.forms import can_be_masked, forms_of
from agent_sdk.masking.index import FormIndex, Occurrence

# Of a form whose end has not come, so much may be shown: less than half, and no more than this many bytes.
MOST_SHOWN: Final = 12
_PIECE: Final = 1 << 24  # bytes that are searched at once


@dataclass(slots=True)
class _Mask:
    """Bytes that belong to one form or to several that overlap: offsets, and the length and name of the longest."""

    start: int
    end: int
    longest: int
    name: str
    shown: bool = False

    def joined(self, other: "_Mask") -> "_Mask":
        """This one and another that begins within it, as one."""
        named = self if self.longest >= other.longest else other
        return _Mask(self.start, max(self.end, other.end), named.longest, named.name, self.shown or other.shown)

    def from_offset(self, offset: int) -> "_Mask":
        """The same where the text before an offset is gone."""
        return replace(self, start=max(0, self.start - offset), end=self.end - offset)


@final
class Masker:
    """Replaces secret values in a stream by `[masked NAME]`, in the forms that docs/masking.md lists.

    Every byte that belongs to a form is masked; forms that overlap become one mask, with the name of the longest. What
    is not a form passes unchanged. What may be the beginning of a form is held back until the rest, or `flush`, tells.
    One masker serves one stream, in one thread at a time. Its `repr` shows no value.

    Args:
        values: the values to mask, by name. Of two names with one value the first is shown.

    Raises:
        TypeError: if a value is no bytes.
    """

    def __init__(self, values: Mapping[str, bytes]) -> None:
        for name, value in values.items():
            if not isinstance(value, bytes):
                raise TypeError(f"values are bytes, as reveal_bytes() gives them; {name} is {type(value).__name__}")
        self.unmasked: Final = tuple(name for name, value in values.items() if not can_be_masked(value))
        self._names: dict[bytes, str] = {}
        for name, value in values.items():
            if name not in self.unmasked:
                for form in forms_of(value):
                    self._names.setdefault(form, name)
        self._index = FormIndex(frozenset(self._names))
        self._order = tuple(values)
        self._begin()

    def _begin(self) -> None:
        self._held = b""
        self._given = 0  # how many of the held bytes `flush` gave out
        self._open: list[_Mask] = []  # they reach into the held bytes

    @property
    def pending(self) -> bool:
        """Whether something is held back that `flush` would give out."""
        return len(self._held) > self._given

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes of the stream.

        Args:
            chunk: any number of bytes.

        Returns:
            What can be shown of the stream now. Less than the longest form is held back.
        """
        if len(chunk) > _PIECE:
            return b"".join(self.feed(chunk[at : at + _PIECE]) for at in range(0, len(chunk), _PIECE))
        found = self._found_with(chunk)
        if not (found or self._open or self._given) and len(chunk) > self._index.reach:
            keep_from = self._index.first_beginning(chunk)
            out = b"".join((self._held, memoryview(chunk)[:keep_from])) if self._held else chunk[:keep_from]
            self._held = chunk[keep_from:]
            return out
        text = self._held + chunk
        keep_from = self._index.first_beginning(text)
        return self._give(text, found, keep_from, keep_from)

    def _found_with(self, chunk: bytes) -> list[Occurrence]:
        """The forms in what is held and a chunk behind it. A long chunk is not copied for that."""
        held = len(self._held)
        if not held:
            return self._index.occurrences(chunk)
        seam = self._index.occurrences(self._held + chunk[: self._index.reach])
        if len(chunk) <= self._index.reach:
            return seam
        found = [occurrence for occurrence in seam if occurrence.start < held]
        found += (Occurrence(start + held, end + held, form) for start, end, form in self._index.occurrences(chunk))
        return found

    def flush(self) -> bytes:
        """Give out what is held back: at the end of the stream, or when the program is silent and waits for a person.

        A beginning of a form is shown if it is shorter than half of the form and of at most 12 bytes, else masked. The
        stream may go on: if the rest of the form comes after all, that is masked.

        Returns:
            All that was held back, or masks in its place.
        """
        if not self.pending:
            return b""
        text = self._held
        found = self._index.occurrences(text)
        found += filter(_says_too_much, self._index.beginnings(text))
        return self._give(text, found, len(text), self._index.first_beginning(text))

    def replace(self, whole: bytes) -> bytes:
        """Mask a complete text on its own, apart from the stream.

        Args:
            whole: the text's bytes.

        Returns:
            What `feed` and then `flush` of a new masker give.
        """
        if len(whole) <= _PIECE and not self._index.begins_or_stands_in(whole):
            return whole
        other = copy(self)
        other._begin()  # noqa: SLF001  # its own class's
        return other.feed(whole) + other.flush()

    def finds(self, whole: bytes) -> tuple[str, ...]:
        """The values that `replace` would mask in a complete text.

        Args:
            whole: the text's bytes.

        Returns:
            Their names, in the order in which the masker was given them.
        """
        beginnings = filter(_says_too_much, self._index.beginnings(whole))
        names = {self._names[found.form] for found in (*self._index.occurrences(whole), *beginnings)}
        return tuple(name for name in self._order if name in names)

    def _give(self, text: bytes, found: Iterable[Occurrence], give_to: int, keep_from: int) -> bytes:
        """Show a text up to one offset, masked, and hold it from another, which is no later."""
        out: list[bytes] = []
        at = self._given
        masks = self._masks(found)
        for mask in masks:
            if mask.start >= give_to:
                break
            out.append(text[at : mask.start])
            if mask.end > at and not mask.shown and (mask.end <= keep_from or give_to > keep_from):
                out.append(b"[masked %s]" % mask.name.encode())
                mask.shown = True
            at = max(at, mask.end)
        out.append(text[at:give_to])
        self._held = text[keep_from:]
        self._given = max(self._given, give_to) - keep_from
        self._open = [mask.from_offset(keep_from) for mask in masks if mask.end > keep_from]
        return b"".join(out)

    def _masks(self, found: Iterable[Occurrence]) -> list[_Mask]:
        """What is to be masked, from the first to the last, with what overlaps in one."""
        parts = [*self._open, *(_Mask(start, end, end - start, self._names[form]) for start, end, form in found)]
        masks: list[_Mask] = []
        for part in sorted(parts, key=lambda part: part.start):
            if masks and part.start < masks[-1].end:
                masks[-1] = masks[-1].joined(part)
            else:
                masks.append(part)
        return masks

    def __repr__(self) -> str:
        count = len(self._order) - len(self.unmasked)
        return f"<Masker of {count} {'value' if count == 1 else 'values'}>"


def _says_too_much(beginning: Occurrence) -> bool:
    length = beginning.end - beginning.start
    return length > MOST_SHOWN or 2 * length >= len(beginning.form)
