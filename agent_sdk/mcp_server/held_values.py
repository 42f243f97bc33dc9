"""Every value that this process holds or once held, and the search for them in what is about to leave it."""

from collections.abc import Iterator, Mapping

from agent_sdk.masking import Masker
from agent_sdk.masking.forms import can_be_masked

_ROOM = 8
"""How much longer than a value one of its written forms can be: `\\u00e9` for two bytes, and some room."""


class HeldValues:
    """What must not leave the process, by name. Nothing is ever taken out: an expired value is still a value."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}
        self._masker: Masker | None = None

    def add(self, name: str, value: bytes) -> bool:
        """Search for a value from now on.

        Args:
            name: what is shown in its place.
            value: the bytes; several values may have one name, as when a secret is rotated.

        Returns:
            Whether it can be found: a value of a few bytes, or one that stands in nearly every text, cannot.
        """
        if value not in self._values.values():
            label, count = name, 1
            while label in self._values:
                count += 1
                label = f"{name}#{count}"
            self._values[label] = value
            self._masker = None
        return can_be_masked(value)

    @property
    def margin(self) -> int:
        """Longest form, in bytes, in which one of the values could stand: what a cut must leave away."""
        return _ROOM * max(map(len, self._values.values()), default=0)

    def mask(self, data: bytes) -> bytes:
        """The bytes with every value replaced by its name."""
        return self._current().replace(data)

    def mask_text(self, text: str) -> str:
        """The text with every value replaced by its name."""
        return self.mask(_encoded(text)).decode("utf-8", "surrogatepass")

    def finds_in(self, node: object) -> bool:
        """Whether one of the values stands in a JSON value: in a text, a key or a number of it.

        Args:
            node: what `json.loads` returns.
        """
        return bool(self._current().finds(b"\0".join((*map(_encoded, _scalars(node)), b""))))

    def mask_tree(self, node: object) -> object:
        """A JSON value with every text in it masked, keys included; itself if no value stands in it.

        Args:
            node: what `json.loads` returns.
        """
        return self._masked(node) if self.finds_in(node) else node

    def _masked(self, node: object) -> object:
        if isinstance(node, str):
            return self.mask_text(node)
        if isinstance(node, Mapping):
            return {self.mask_text(key): self._masked(each) for key, each in node.items()}
        if isinstance(node, list):
            return [self._masked(each) for each in node]
        return node

    def _current(self) -> Masker:
        """The masker of all values; made when it is needed, as that takes longer the more there are."""
        if self._masker is None:
            self._masker = Masker(self._values)
        return self._masker


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _scalars(node: object) -> Iterator[str]:
    """Every text, key and number of a JSON value."""
    if isinstance(node, Mapping):
        for key, each in node.items():
            yield key
            yield from _scalars(each)
    elif isinstance(node, list):
        for each in node:
            yield from _scalars(each)
    elif node is not None:
        yield str(node)
