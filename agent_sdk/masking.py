"""Stand-in."""

from collections.abc import Mapping


class Masker:
    """Stand-in."""

    def __init__(self, values: Mapping[str, bytes]) -> None:
        self.unmasked = tuple(name for name, value in values.items() if len(value) < 4)
        self._values = {value: f"[secret {name}]".encode() for name, value in values.items() if len(value) >= 4}
        self._held = b""

    @property
    def pending(self) -> bool:
        """Whether something is held back."""
        return bool(self._held)

    def feed(self, chunk: bytes) -> bytes:
        """Mask."""
        data = self._held + chunk
        for value, mask in self._values.items():
            data = data.replace(value, mask)
        keep = max(
            (n for value in self._values for n in range(1, len(value)) if data.endswith(value[:n])), default=0
        )
        self._held = data[len(data) - keep :]
        return data[: len(data) - keep]

    def flush(self) -> bytes:
        """All."""
        held, self._held = self._held, b""
        return held
