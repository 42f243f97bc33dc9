"""Answers of upstreams as bytes: what is read, what is refused, and when a connection can go on."""

import contextlib
import gc
import weakref

import pytest

from broker_worker.egress.reading import AnswerBroken, AnswerReader

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


def read(raw: bytes, step: int = 0, *, to_head: bool = False) -> tuple[AnswerReader, bytes]:
    """A reader that was fed with all of it at once, or so many bytes at a time, and the body that it found."""
    reader, body = AnswerReader(to_head=to_head), b""
    for at in range(0, len(raw), step or len(raw)):
        reader.feed(raw[at : at + (step or len(raw))])
        body += reader.take()
    return reader, body


WHOLE = {
    "length": (OK + b"Content-Length: 5\r\n\r\nhello", b"hello"),
    "no body": (OK + b"Content-Length: 0\r\n\r\n", b""),
    "chunks": (CHUNKED + b"2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nX-Trailer: 1\r\n\r\n", b"hello"),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "304": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b""),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    "interim": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 E\r\nX: no\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nhi",
        b"hi",
    ),
    "1.0 that stays": (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi", b"hi"),
}


@pytest.mark.parametrize("step", [0, 1, 3])
@pytest.mark.parametrize("name", WHOLE)
def test_answers_are_read_wherever_they_are_cut(name: str, step: int) -> None:
    """Each kind of body ends where its framing says, and the connection can carry another call."""
    raw, body = WHOLE[name]
    reader, found = read(raw, step)
    assert (found, reader.is_whole, reader.is_clean) == (body, True, True)
    assert reader.head is not None
    assert "X" not in reader.head.headers
    assert "X-Trailer" not in reader.head.headers


LAST = {
    "close": (OK + b"Connection: close\r\nContent-Length: 5\r\n\r\nhello", False),
    "1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", False),
    "no length": (OK + b"\r\nhello", True),
    "1.0 with chunks": (
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        False,
    ),
    "1.0 without length": (b"HTTP/1.0 200 OK\r\n\r\nhello", True),
}


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize("name", LAST)
def test_answers_after_which_the_connection_ends(name: str, step: int) -> None:
    """Of HTTP/1.0 and 1.1: the body is whole when its length has come, or else when the connection ends."""
    raw, needs_end = LAST[name]
    reader, found = read(raw, step)
    assert (found, reader.is_whole) == (b"hello", not needs_end)
    reader.end()
    assert (reader.is_whole, reader.is_clean) == (True, False)


CUT = {
    "nothing": b"",
    "half a head": OK + b"Content-Le",
    "half a body": OK + b"Content-Length: 5\r\n\r\nhel",
    "chunks without end": CHUNKED + b"5\r\nhello\r\n",
    "half a chunk": CHUNKED + b"5\r\nhel",
    "half a trailer": CHUNKED + b"0\r\nX: 1",
    "interim only": b"HTTP/1.1 100 Continue\r\n\r\n",
}


@pytest.mark.parametrize("name", CUT)
def test_what_is_not_whole_is_broken(name: str) -> None:
    """A connection that ends within a head, a length or chunks does not end an answer."""
    reader = AnswerReader()
    if CUT[name]:
        reader.feed(CUT[name])
    with pytest.raises(AnswerBroken):
        reader.end()
    assert not reader.is_whole


BROKEN = {
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "a request": b"GET / HTTP/1.1\r\n\r\n",
    "HTTP/0.9": b"HTTP/0.9 200 OK\r\nContent-Length: 0\r\n\r\n",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "a status of two digits": b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
    "a status of four digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
    "a bare LF": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "a bare LF in a header": OK + b"X: 1\nContent-Length: 0\r\n\r\n",
    "a bare CR": OK + b"X: 1\rY: 2\r\nContent-Length: 0\r\n\r\n",
    "a folded line": OK + b"X: 1\r\n 2\r\nContent-Length: 0\r\n\r\n",
    "a space before the colon": OK + b"Content-Length : 0\r\n\r\n",
    "a NUL": OK + b"X: a\0b\r\nContent-Length: 0\r\n\r\n",
    "a control character": OK + b"X: a\x01b\r\nContent-Length: 0\r\n\r\n",
    "no name": OK + b": 1\r\nContent-Length: 0\r\n\r\n",
    "a bad name": OK + b"X(A): 1\r\nContent-Length: 0\r\n\r\n",
    "two lengths": OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nhi",
    "the same length twice": OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nhi",
    "a list of lengths": OK + b"Content-Length: 2, 2\r\n\r\nhi",
    "a signed length": OK + b"Content-Length: +2\r\n\r\nhi",
    "a hexadecimal length": OK + b"Content-Length: 0x2\r\n\r\nhi",
    "an empty length": OK + b"Content-Length:\r\n\r\nhi",
    "a huge length": OK + b"Content-Length: 99999999999999999999\r\n\r\nhi",
    "length and chunks": OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": OK + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
    "a chunk size that is none": CHUNKED + b"zz\r\nhi\r\n0\r\n\r\n",
    "a signed chunk size": CHUNKED + b"+2\r\nhi\r\n0\r\n\r\n",
    "a chunk that is too long": CHUNKED + b"2\r\nhihi\r\n0\r\n\r\n",
    "a chunk with LF": CHUNKED + b"2\nhi\n0\n\n",
    "a space after a chunk size": CHUNKED + b"2 \r\nhi\r\n0\r\n\r\n",
    "a huge chunk size": CHUNKED + b"f" * 17 + b"\r\nhi\r\n0\r\n\r\n",
    "a long header": OK + b"X: " + b"a" * 17_000 + b"\r\n\r\n",
    "a long name": OK + b"X" * 17_000 + b": 1\r\n\r\n",
    "many headers": OK + b"X: 1\r\n" * 201 + b"\r\n",
    "a head that is too large": OK + (b"X: " + b"a" * 1000 + b"\r\n") * 70 + b"Content-Length: 9\r\n\r\nhi",
    "a header without end": OK + b"X: " + b"a" * 70_000,
    "interim answers without end": b"HTTP/1.1 100 Continue\r\n\r\n" * 3000,
    "an interim answer with a length": b"HTTP/1.1 110 X\r\nContent-Length: 2\r\n\r\nhi"
    + OK
    + b"Content-Length: 0\r\n\r\n",
    "an interim answer with chunks": b"HTTP/1.1 199 X\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "trailers without end": CHUNKED + b"2\r\nhi\r\n0\r\n" + b"X: abcdefghijkl\r\n" * 6_000,
}


@pytest.mark.parametrize("step", [0, 97])
@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_answer_is_refused(name: str, step: int) -> None:
    """What two programs could read in two ways, and what is out of bounds, ends in an error that repeats nothing."""
    with pytest.raises(AnswerBroken) as error:
        read(BROKEN[name], step)
    assert (str(error.value), error.value.__cause__, error.value.__context__) == ("", None, None)


def test_a_chunk_extension_has_an_end() -> None:
    """What brings no piece of the body may not go on for ever, in however many reads it comes."""
    with pytest.raises(AnswerBroken):
        read(CHUNKED + b"2;" + b"a" * 200_000, 16_384)


def test_many_small_chunks_are_no_long_framing() -> None:
    """A body in single bytes has more framing than body, and no bound but that of the body."""
    _, body = read(CHUNKED + b"1;x=y\r\n!\r\n" * 20_000 + b"0\r\n\r\n", 1000)
    assert body == b"!" * 20_000


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize(
    ("raw", "to_head"),
    [
        (OK + b"Content-Length: 2\r\n\r\nhi" + OK + b"Content-Length: 3\r\n\r\nbad", False),
        (OK + b"Content-Length: 2\r\n\r\nhi, and more", False),
        (CHUNKED + b"2\r\nhi\r\n0\r\n\r\nmore", False),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nhi", False),
        (OK + b"Content-Length: 2\r\n\r\nhi", True),
        (CHUNKED + b"2\r\nhi\r\n0\r\n\r\n", True),
        (OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nhi, and more", False),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nraw", False),
    ],
)
def test_what_nobody_asked_for_ends_the_connection(raw: bytes, to_head: bool, step: int) -> None:
    """What stands behind an answer is not part of it, nor the beginning of the next one."""
    reader, body = read(raw, step, to_head=to_head)
    assert body in {b"hi", b""}
    assert (reader.is_whole, reader.is_clean) == (True, False)


def test_an_answer_to_head_has_no_body() -> None:
    """It ends with its head, whatever length that tells of."""
    reader, body = read(OK + b"Content-Length: 12345\r\n\r\n", to_head=True)
    assert (body, reader.is_whole, reader.is_clean) == (b"", True, True)
    assert reader.head is not None
    assert reader.head.length == 12345


def test_a_body_that_was_not_taken_keeps_the_connection_from_going_on() -> None:
    """Whoever stops in the middle of an answer leaves nothing of it to the next call."""
    reader = AnswerReader()
    reader.feed(OK + b"Content-Length: 2\r\n\r\nhi")
    assert (reader.waiting, reader.is_clean) == (2, False)
    assert reader.take() == b"hi"
    assert (reader.waiting, reader.is_clean) == (0, True)


@pytest.mark.parametrize("name", ["length", "chunks", "close", "a bare LF"])
def test_a_reader_is_gone_when_it_was_used(name: str) -> None:
    """The garbage collector, which seldom looks, has nothing to find, whether the answer was good or bad."""
    gc.disable()
    try:
        reader = AnswerReader()
        with contextlib.suppress(AnswerBroken):
            reader.feed({**BROKEN, **{key: raw for key, (raw, _) in {**WHOLE, **LAST}.items()}}[name])
        seen = weakref.ref(reader)
        del reader
        assert seen() is None
    finally:
        gc.enable()
