"""An index of forms: where they stand in a text, and where one may have begun."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple, final

from agent_sdk.masking.search import best_length, search_for

_HEAD: Final = 8  # a beginning of so many bytes or more is found by these, a shorter one in a table
_MOST_PARTS: Final = 64  # a needle is chosen from the beginning of a form


class Occurrence(NamedTuple):
    """A form, or its beginning, in a text: the offsets of its first byte and behind its last."""

    start: int
    end: int
    form: bytes


@final
class FormIndex:
    """Finds forms and beginnings of forms.

    Args:
        forms: any number, each of four bytes or more.
    """

    def __init__(self, forms: frozenset[bytes]) -> None:
        self._by_needle = _by_needle(forms, best_length())
        self._needles = search_for(tuple(self._by_needle))
        self._places = tuple(self._by_needle.values())
        self._by_head = _by_head(forms)
        self._heads = search_for(tuple(self._by_head))
        self._headed = tuple(self._by_head.values())
        self._short = _short_beginnings(forms)
        self.reach: Final = max(map(len, forms), default=1) - 1  # the length of the longest beginning

    def occurrences(self, text: bytes) -> list[Occurrence]:
        """Every form in a text, in no order; also those that overlap or stand within another."""
        return [
            Occurrence(at - offset, at - offset + len(form), form)
            for needle, at in self._needles.hits(text)
            for offset, form in self._places[needle]
            if at >= offset and text.startswith(form, at - offset)
        ]

    def begins_or_stands_in(self, text: bytes) -> bool:
        """Whether a form stands in a text, or may have begun at its end."""
        return bool(self.occurrences(text)) or self.first_beginning(text) < len(text)

    def beginnings(self, text: bytes) -> list[Occurrence]:
        """Every place in a text from which it goes on to its end as a longer form does, and the shortest such form."""
        end = len(text)
        return [Occurrence(start, end, form) for start, form in (*self._long_beginnings(text), *self._short_ones(text))]

    def first_beginning(self, text: bytes) -> int:
        """The offset of the first of the beginnings in a text; its length if there are none."""
        for start, _form in (*sorted(self._long_beginnings(text)), *self._short_ones(text)):
            return start
        return len(text)

    def _long_beginnings(self, text: bytes) -> list[tuple[int, bytes]]:
        """Those of eight bytes or more."""
        tail_at = max(0, len(text) - self.reach)
        tail = text[tail_at:]
        found: list[tuple[int, bytes]] = []
        for head, at in self._heads.hits(tail):
            rest = tail[at:]
            longer = (form for form in self._headed[head] if len(form) > len(rest) and form.startswith(rest))
            if (shortest := next(longer, None)) is not None:
                found.append((tail_at + at, shortest))
        return found

    def _short_ones(self, text: bytes) -> Iterator[tuple[int, bytes]]:
        """Those of fewer than eight bytes, the longest first."""
        end = text[-_HEAD + 1 :]
        for at in range(len(end)):
            form = self._short.get(end[at:])
            if form is not None:
                yield len(text) - len(end) + at, form


def _by_needle(forms: frozenset[bytes], length: int) -> Mapping[bytes, list[tuple[int, bytes]]]:
    """For each needle the forms that it finds, and where in them it stands. Each form is found by one needle."""
    by_needle: defaultdict[bytes, list[tuple[int, bytes]]] = defaultdict(list)
    for form in sorted(forms, key=lambda form: (len(form), form)):
        parts = _parts(form, length)
        needle = next(filter(by_needle.__contains__, parts), None) or _rarest(parts)
        by_needle[needle].append((form.index(needle), form))
    return by_needle


def _parts(form: bytes, length: int) -> list[bytes]:
    """The parts of a form that could be its needle; a form that is no longer than a needle is its own."""
    last = min(len(form) - length, _MOST_PARTS)
    return [form[at : at + length] for at in range(max(0, last) + 1)]


def _rarest(parts: list[bytes]) -> bytes:
    """The part that a text will have least by chance: that of the most different bytes, and of these the last."""
    return max(reversed(parts), key=lambda part: len(set(part)))


def _by_head(forms: frozenset[bytes]) -> Mapping[bytes, list[bytes]]:
    """The forms of more than eight bytes by their first eight, the shortest first."""
    by_head: defaultdict[bytes, list[bytes]] = defaultdict(list)
    for form in sorted(forms, key=len):
        if len(form) > _HEAD:
            by_head[form[:_HEAD]].append(form)
    return by_head


def _short_beginnings(forms: frozenset[bytes]) -> Mapping[bytes, bytes]:
    """For each beginning of fewer than eight bytes the shortest form that goes on."""
    beginnings: dict[bytes, bytes] = {}
    for form in sorted(forms, key=len):
        for length in range(1, min(_HEAD, len(form))):
            beginnings.setdefault(form[:length], form)
    return beginnings
