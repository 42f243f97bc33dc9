"""Every value that this process holds or once held, and the search for them in what is about to leave it."""

from collections.abc import Mapping

from agent_sdk.masking import Masker

_ROOM = 8
"""How much longer than a value one of its written forms can be: `\\u00e9` for one byte, and some room."""


class HeldValues:
    """What must not leave the process, by name. Nothing is ever taken out: an expired value is still a value."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}
        self._masker = Masker({})

    def add(self, name: str, value: bytes) -> bool:
        """Search for a value from now on.

        Args:
            name: what is shown in its place.
            value: the bytes; several values may have one name, as when a secret is rotated.

        Returns:
            Whether it can be found: a value of a few bytes, or one that stands in nearly every text, cannot.
        """
        known = next((label for label, each in self._values.items() if each == value), None)
        if known is not None:
            return known not in self._masker.unmasked
        label, count = name, 1
        while label in self._values:
            count += 1
            label = f"{name}#{count}"
        self._values[label] = value
        self._masker = Masker(self._values)
        return label not in self._masker.unmasked

    @property
    def margin(self) -> int:
        """Longest form, in bytes, in which one of the values could stand: what a cut must leave away."""
        return _ROOM * max(map(len, self._values.values()), default=0)

    def mask(self, data: bytes) -> bytes:
        """The bytes with every value replaced by its name."""
        return self._masker.replace(data)

    def mask_text(self, text: str) -> str:
        """The text with every value replaced by its name."""
        return self.mask(text.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")

    def finds(self, data: bytes) -> bool:
        """Whether one of the values is in the bytes."""
        return bool(self._masker.finds(data))

    def mask_tree(self, node: object) -> object:
        """A JSON value with every text in it masked, keys included.

        Args:
            node: what `json.loads` returns.
        """
        if isinstance(node, str):
            return self.mask_text(node)
        if isinstance(node, Mapping):
            return {self.mask_text(key): self.mask_tree(each) for key, each in node.items()}
        if isinstance(node, list):
            return [self.mask_tree(each) for each in node]
        return node
