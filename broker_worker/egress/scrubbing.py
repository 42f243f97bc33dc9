"""What the upstream says, without the value: an answer that repeats it would hand it to the agent."""

import base64

from broker_worker.core.egress import Route, Send

MARK = b"[secret]"


class Scrubber:
    """TEMPORARY naive version until the masker is there."""

    def __init__(self, forms: tuple[bytes, ...]) -> None:
        self._forms = sorted(forms, key=len, reverse=True)
        self._rest = b""
        self._most = max(map(len, forms))

    def feed(self, chunk: bytes) -> bytes:
        data = self._rest + chunk
        for form in self._forms:
            data = data.replace(form, MARK)
        keep = 0
        for form in self._forms:
            for n in range(min(len(form) - 1, len(data)), keep, -1):
                if data.endswith(form[:n]):
                    keep = n
                    break
        self._rest = data[len(data) - keep :]
        return data[: len(data) - keep]

    def flush(self) -> bytes:
        rest, self._rest = self._rest, b""
        return rest

    def replace(self, text: str) -> str:
        data = text.encode("utf-8", "surrogateescape")
        for form in self._forms:
            data = data.replace(form, MARK)
        return data.decode("utf-8", "surrogateescape")


def forms_of(send: Send, value: str) -> tuple[bytes, ...]:
    """The value, and what it is a part of in the request, which an upstream could repeat as well."""
    if send.kind == "basic":
        return (value.encode(), base64.b64encode(f"{send.name}:{value}".encode()))
    return (value.encode(),)


def scrubber_for(route: Route, value: str) -> Scrubber:
    """A scrubber for one answer of a route."""
    return Scrubber(forms_of(route.send, value))
