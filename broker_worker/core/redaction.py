"""The second net under "no value in the audit": texts that agents choose are searched for live values.

The first net is that events have no field for a value. But an agent that was given a value can write it into
`purpose`, or ask for it as if it were a name. A worker knows the values that it holds itself; for those that another
worker handed out, or that have ended, there is a third net: what looks like a key is not recorded either.
"""

import re

MIN_LENGTH = 4
"""Shorter values are not looked for: they occur in ordinary words by chance."""
NOTE = "[redacted: it contained a live secret value]"
KEY_LIKE_NOTE = "[redacted: it contained what looks like a key]"
_KEY_LIKE = re.compile(r"(?=[A-Za-z]*[0-9])(?=[0-9]*[A-Za-z])[A-Za-z0-9]{16,}", re.ASCII)
"""16 letters and digits in a row, with both among them: keys, tokens and hashes; not words, numbers, dates or UUIDs."""
_MEMO = 1024


def repeats(value: bytes, *texts: str) -> bool:
    """Whether one of some texts contains a value."""
    value_alone = LiveValues()
    value_alone.add(value)
    return any(value_alone.redact(text) == NOTE for text in texts)


class LiveValues:
    """The values that are live at the moment, indexed by how they start.

    Looking through a text of n bytes costs n look-ups, however many values are live.
    """

    def __init__(self) -> None:
        self._by_start: dict[bytes, list[bytes]] = {}
        self._clean: set[str] = set()

    def __repr__(self) -> str:
        return f"LiveValues({sum(map(len, self._by_start.values()))} values)"

    def add(self, value: bytes) -> None:
        """Look for `value` from now on."""
        if len(value) >= MIN_LENGTH:
            self._by_start.setdefault(value[:MIN_LENGTH], []).append(value)
            self._clean.clear()

    def discard(self, value: bytes) -> None:
        """Stop looking for one occurrence of `value`."""
        start = value[:MIN_LENGTH]
        values = self._by_start.get(start, [])
        if value in values:
            values.remove(value)
            if not values:
                del self._by_start[start]

    def redact(self, text: str) -> str:
        """The text itself, or a note in its place if a live value or what looks like a key is part of it."""
        if text in self._clean:
            return text
        data = text.encode("utf-8", "surrogatepass")
        for at in range(len(data) - MIN_LENGTH + 1):
            values = self._by_start.get(data[at : at + MIN_LENGTH])
            if values is not None and any(data.startswith(value, at) for value in values):
                return NOTE
        if _KEY_LIKE.search(text) is not None:
            return KEY_LIKE_NOTE
        if len(self._clean) >= _MEMO:
            self._clean.clear()
        self._clean.add(text)
        return text
