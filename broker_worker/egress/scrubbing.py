"""What the upstream says, without the value: an answer that repeats it would hand it to the agent."""

import copy
import os
from hashlib import blake2b
from weakref import WeakValueDictionary

from multidict import CIMultiDict

from agent_sdk.masking import Masker
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

    def whole(self, headers: CIMultiDict[str], body: bytes) -> tuple[CIMultiDict[str], bytes]:
        """A complete answer without the value."""
        raw = b"%b\n\n%b" % (_raw(headers), body)  # one search finds nothing in nearly all answers
        if self._masker.replace(raw) == raw:
            return headers, body
        return self.headers(headers), self._masker.replace(body)

    def headers(self, headers: CIMultiDict[str]) -> CIMultiDict[str]:
        """Headers without the value; those that hold it in a name are left out."""
        raw = _raw(headers)
        if self._masker.replace(raw) == raw:
            return headers
        kept = ((name, self._text(value)) for name, value in headers.items() if self._text(name) == name)
        return CIMultiDict(kept)

    def _text(self, text: str) -> str:
        return self._masker.replace(text.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")


class Scrubbers:
    """Has one scrubber for each value, shared by all runs that are lent it: to make one takes milliseconds.

    None outlives the last loan of its value.
    """

    def __init__(self) -> None:
        self._key = os.urandom(32)  # nothing outside of this process can be compared with what stands for a value here
        self._made: WeakValueDictionary[bytes, Scrubber] = WeakValueDictionary()

    def known(self, name: str, value: str) -> Scrubber | None:
        """The scrubber of a value, if it was made."""
        return self._made.get(self._mark(name, value))

    def make(self, name: str, value: str) -> Scrubber:
        """The scrubber of a value, made if it was not.

        Raises:
            Refusal: if the value cannot be kept out of answers.
        """
        return self._made.setdefault(self._mark(name, value), Scrubber(name, value))

    def _mark(self, name: str, value: str) -> bytes:
        return blake2b(f"{name}\0{value}".encode("utf-8", "surrogateescape"), key=self._key).digest()


def _raw(headers: CIMultiDict[str]) -> bytes:
    text = "\n".join(f"{name}\n{value}" for name, value in headers.items())
    return text.encode("utf-8", "surrogateescape")
