"""An upstream's answer as its bytes come: HTTP/1.1 to the letter, and within bounds.

llhttp reads it in its strict mode (RFC 9112): two lengths, a length beside chunks, folded lines, bare line ends and bad
chunks are errors, so nobody else can take the answer's end for another place than we do.
"""

from dataclasses import dataclass

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser
from multidict import CIMultiDict

_MAX_LINE, _MAX_LINES = 16 * 1024, 200
_MAX_HEAD = 64 * 1024
"""How many bytes all headers may have, with trailers and what is said before the answer. As many may come that bring no
piece of the body, such as chunk extensions."""
_SWITCHING, _FINAL = 101, 200
_VERSIONS = frozenset({"1.0", "1.1"})


class AnswerBroken(Exception):  # noqa: N818  # it says what the answer is
    """What came is no answer, or not the whole of one. It repeats nothing of it."""


@dataclass(frozen=True, slots=True)
class Head:
    """What stands before an answer's body.

    Args:
        status: a number of up to three digits; 101 and less than 100 are no answers.
        headers: as they came, text that is not UTF-8 in surrogates.
        length: of the body in bytes, as `Content-Length` says.
        keeps: whether the upstream keeps the connection for another call.
    """

    status: int
    headers: CIMultiDict[str]
    length: int | None
    keeps: bool


class AnswerReader:
    """Reads one answer.

    Args:
        to_head: whether it answers HEAD, and so has no body whatever it says (RFC 9112, section 6.3).
    """

    def __init__(self, *, to_head: bool = False) -> None:
        self.head: Head | None = None
        """None until it has come."""
        self.is_whole = False
        self.has_surplus = False
        """Whether something came behind it that nobody asked for."""
        self.waiting = 0
        """How many bytes of the body wait to be taken."""
        self._to_head = to_head
        self._lines: list[tuple[str, str]] = []
        self._pieces: list[bytes] = []
        self._framing = self._said = 0
        self._parser: HttpResponseParser | None = HttpResponseParser(self)

    @property
    def is_clean(self) -> bool:
        """Whether the connection can carry another call: this answer was read to its end, and nothing came behind."""
        is_read = self.is_whole and not self.waiting and not self.has_surplus
        return is_read and self.head is not None and self.head.keeps

    def feed(self, data: bytes) -> None:
        """Take what came.

        Raises:
            AnswerBroken: if it is no answer, or one out of bounds.
        """
        parser = self._parser
        if parser is None or self.is_whole:
            self.has_surplus = True
            return
        self._framing += len(data)
        try:
            parser.feed_data(data)
            is_broken = self._framing > _MAX_HEAD and not self.is_whole
        except (HttpParserError, HttpParserUpgrade):
            is_broken = not self.is_whole
            self.has_surplus = True
        if is_broken or self.is_whole:
            self.close()
        if is_broken:
            raise AnswerBroken  # out here, away from an exception that could quote the answer

    def end(self) -> None:
        """Take that the connection has ended: so do bodies that have no other end.

        Raises:
            AnswerBroken: if the answer is not whole.
        """
        if self.is_whole:
            return
        self.close()
        if self.head is None or self.head.length is not None or "Transfer-Encoding" in self.head.headers:
            raise AnswerBroken
        self.is_whole = True

    def close(self) -> None:
        """Read no more. The parser and this refer to each other, which only the garbage collector would find."""
        self._parser = None

    def take(self) -> bytes:
        """What came of the body since; nothing if there is none."""
        pieces = self._pieces
        found = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self.waiting = 0
        return found

    def on_message_begin(self) -> None:
        """Notice a second answer (called by the parser, as are all below)."""
        self.has_surplus = self.has_surplus or self.is_whole

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a line of the head, but no trailer."""
        size = len(name) + len(value)
        self._said += size
        if size > _MAX_LINE or self._said > _MAX_HEAD or len(self._lines) >= _MAX_LINES:
            raise AnswerBroken
        if self.head is not None:
            return
        text = value.decode("utf-8", "surrogateescape").strip(" \t")
        self._lines.append((name.decode("ascii"), text))

    def on_headers_complete(self) -> None:
        """Pass over what is said before the answer (RFC 9110, section 15.2), but for another protocol."""
        parser = self._parser
        if self.head is not None or parser is None:
            return
        status = parser.get_status_code()
        if 100 <= status < _FINAL and status != _SWITCHING:
            self._lines.clear()
            return
        version = parser.get_http_version()
        if version not in _VERSIONS:
            raise AnswerBroken
        headers = CIMultiDict(self._lines)
        length = headers.get("Content-Length")
        is_clear = version != "1.0" or "Transfer-Encoding" not in headers  # RFC 9112, section 6.1
        keeps = is_clear and parser.should_keep_alive()
        self.head = Head(status, headers, None if length is None else int(length), keeps)
        self._framing = 0
        self.is_whole = self._to_head

    def on_body(self, piece: bytes) -> None:
        """Keep a piece of the body. What is said before the answer has none, though llhttp reads one behind some."""
        if self.head is None:
            raise AnswerBroken
        if self.is_whole:
            self.has_surplus = True
            return
        self._framing = 0
        self.waiting += len(piece)
        self._pieces.append(piece)

    def on_message_complete(self) -> None:
        """Notice the end."""
        self.is_whole = self.head is not None
