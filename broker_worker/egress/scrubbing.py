"""What the upstream says, without the value: an answer that repeats it would hand it to the agent."""

import copy

from multidict import CIMultiDict

from broker_worker.egress._masker_for_now import Masker
from broker_worker.egress.problems import Refusal


class Scrubber:
    """Takes one value out of answers, in the forms that docs/masking.md lists.

    Args:
        name: the secret's name, which stands in the value's place.
        value: the value.

    Raises:
        Refusal: if it is so short or so common a word that it cannot be told from other text.
    """

    def __init__(self, name: str, value: str) -> None:
        self._masker = Masker({name: value.encode()})
        if self._masker.unmasked:
            detail = "the stored value is too short or too common a word to be kept out of answers"
            raise Refusal(502, "value_unusable", detail)

    def stream(self) -> Masker:
        """What takes the value out of one stream of bytes; all streams share the forms that are looked for."""
        return copy.copy(self._masker)

    def whole(self, body: bytes) -> bytes:
        """A complete body without the value."""
        return self._masker.replace(body)

    def headers(self, headers: CIMultiDict[str]) -> CIMultiDict[str]:
        """Headers without the value; those that hold it in a name are left out."""
        text = "\n".join(f"{name}\n{value}" for name, value in headers.items())
        raw = text.encode("utf-8", "surrogateescape")
        if self._masker.replace(raw) == raw:
            return headers
        kept = ((name, self._text(value)) for name, value in headers.items() if self._text(name) == name)
        return CIMultiDict(kept)

    def _text(self, text: str) -> str:
        return self._masker.replace(text.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")
