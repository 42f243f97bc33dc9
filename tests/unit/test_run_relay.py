"""A relay: everything arrives, masked, in order, and nothing keeps it from ending."""

import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from agent_sdk.masking import Masker
from agent_sdk.run.pages import Pages
from agent_sdk.run.relay import Relay

KEY = b"sk-live-0123456789abcdef"


class Way:
    """Two pipes with a relay between them."""

    def __init__(self, values: Mapping[str, bytes]) -> None:
        self.ended = threading.Event()
        source, self.writing = os.pipe()
        self.reading, self._target = os.pipe()
        self.relay = Relay(source, self._target, Masker(values), 65536, self.ended.set)
        self._open = [self.writing, self.reading, self._target]

    def shut(self, descriptor: int) -> None:
        self._open.remove(descriptor)
        os.close(descriptor)

    def rest(self) -> bytes:
        """All that comes, after the relay has ended."""
        assert self.ended.wait(10)
        self.shut(self._target)
        return b"".join(iter(lambda: os.read(self.reading, 65536), b""))

    def close(self) -> None:
        for descriptor in self._open:
            with suppress(OSError):
                os.close(descriptor)


@pytest.fixture
def way() -> Iterator[Way]:
    way = Way({"a.key": KEY})
    yield way
    way.close()


def test_a_value_is_masked_wherever_it_is_cut(way: Way) -> None:
    """Whatever the writes were."""
    for byte in b"<" + KEY + b">":
        os.write(way.writing, bytes([byte]))
    way.shut(way.writing)
    assert way.rest() == b"<[masked a.key]>"


def test_a_prompt_does_not_wait_for_what_may_follow(way: Way) -> None:
    """What may be the beginning of a value is shown after a pause, and the rest of the value is masked all the same."""
    os.write(way.writing, b"name? s")
    assert os.read(way.reading, 100) == b"name? "
    assert os.read(way.reading, 100) == b"s"
    os.write(way.writing, KEY[1:] + b"\n")
    way.shut(way.writing)
    assert KEY[1:] not in way.rest()


def test_a_pause_gives_no_value_away(way: Way) -> None:
    """The most of a value that has come is not shown, however long nothing follows."""
    os.write(way.writing, KEY[:-1])
    shown = os.read(way.reading, 100)
    os.write(way.writing, KEY[-1:])
    way.shut(way.writing)
    assert KEY[:8] not in shown + way.rest()


def test_nobody_who_holds_the_stream_keeps_the_relay_when_the_command_has_ended(way: Way) -> None:
    """What was written before is out; the writing end is open still."""
    os.write(way.writing, b"last words " + KEY)
    way.relay.command_ended()
    assert way.rest() == b"last words [masked a.key]"


def test_somebody_who_writes_on_and_on_does_not_either(way: Way) -> None:
    """No more is taken than there can have been when the command ended."""
    stop = threading.Event()

    def chatter() -> None:
        with suppress(OSError):
            while not stop.is_set():
                os.write(way.writing, b"x" * 4096)

    writer = threading.Thread(target=chatter)
    writer.start()
    reader = threading.Thread(target=lambda: list(iter(lambda: os.read(way.reading, 65536), b"")))
    reader.start()
    way.relay.command_ended()
    ended = way.ended.wait(10)
    stop.set()
    writer.join(10)  # its last write fails, as the relay has closed its end
    way.shut(way._target)
    reader.join(10)
    assert ended


def test_a_reader_that_has_gone_is_told_to_the_command(way: Way) -> None:
    """Its next write fails, as if it had written there itself."""
    way.shut(way.reading)
    os.write(way.writing, b"x")
    assert way.ended.wait(10)
    with pytest.raises(BrokenPipeError):
        os.write(way.writing, b"x")


def test_a_target_that_does_not_block_loses_nothing(way: Way) -> None:
    """Somebody who shares our standard output may have made it so."""
    os.set_blocking(way._target, False)
    sent = os.urandom(300_000)

    def send() -> None:
        rest = memoryview(sent)
        while rest:
            rest = rest[os.write(way.writing, rest) :]
        way.shut(way.writing)

    writer = threading.Thread(target=send)
    writer.start()
    got = b""
    while len(got) < len(sent):
        got += os.read(way.reading, 65536)
    writer.join(10)
    assert got == sent


def test_settling_waits_for_what_was_written(way: Way) -> None:
    """Before a stop, the terminal shows what the command had written."""
    os.write(way.writing, b"so far")
    way.relay.settle()
    os.set_blocking(way.reading, False)
    assert os.read(way.reading, 100) == b"so far"


def test_settling_does_not_wait_for_a_reader_that_does_not_read(way: Way) -> None:
    """Who suspends a pipeline gets the prompt back."""
    writer = threading.Thread(target=lambda: os.write(way.writing, b"x" * 300_000), daemon=True)
    writer.start()
    settled = threading.Event()

    def settle() -> None:
        way.relay.settle()
        settled.set()

    threading.Thread(target=settle, daemon=True).start()
    assert settled.wait(10)
    got = 0
    while got < 300_000:
        got += len(os.read(way.reading, 65536))


def test_what_needs_no_mask_is_passed_on_as_it_is(way: Way) -> None:
    """Much more than a pipe keeps, with values here and there, arrives whole and in order."""
    clean = bytes(range(256)) * 4096
    text = b"".join((clean, KEY, clean[:70_001], b"sk-live-", clean, KEY))
    arrived: list[bytes] = []

    def read() -> None:
        while part := os.read(way.reading, 65536):
            arrived.append(part)

    reader = threading.Thread(target=read)
    reader.start()
    rest = memoryview(text)
    while rest:
        rest = rest[os.write(way.writing, rest) :]
    way.shut(way.writing)
    assert way.ended.wait(10)
    way.shut(way._target)
    reader.join()
    assert b"".join(arrived) == text.replace(KEY, b"[masked a.key]")


def test_only_between_pipes_pages_are_passed_on(tmp_path: Path) -> None:
    """A file, or a terminal, is written to."""
    reading, writing = os.pipe()
    try:
        pages = Pages.of(reading, writing, 65536)
        assert (pages is not None) == (sys.platform == "linux")
        if pages is not None:
            with pytest.raises(BlockingIOError):
                pages.look()
            pages.close()
        with (tmp_path / "out").open("wb") as file:
            assert Pages.of(reading, file.fileno(), 65536) is None
            assert Pages.of(file.fileno(), writing, 65536) is None
    finally:
        os.close(reading)
        os.close(writing)
