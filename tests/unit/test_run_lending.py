"""What a command is lent: told when it is taken back, ended if it does not end, given back."""

import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from agent_sdk.run.lending import Connect, Lending, OnRevoke
from agent_sdk.testing import FakeAsyncSecretBroker, FakeDesk
from agent_sdk.wire.messages import Notice


class Command:
    """A command that only keeps what it is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, bool]] = []
        self.heard = threading.Condition()

    def send(self, number: int, *, to_all: bool = False) -> None:
        with self.heard:
            self.sent.append((number, to_all))
            self.heard.notify_all()

    def resume(self, *, in_foreground: bool) -> None:
        raise AssertionError("nobody stopped it")

    def wait_for(self, count: int) -> None:
        with self.heard:
            assert self.heard.wait_for(lambda: len(self.sent) >= count, 10), self.sent


@pytest.fixture
def desk() -> FakeDesk:
    return FakeDesk({"a.key": "A", "b.key": "B"})


@pytest.fixture
def connect(desk: FakeDesk) -> Connect:
    def connect(on_notice: Callable[[Notice], None]) -> FakeAsyncSecretBroker:
        return FakeAsyncSecretBroker(desk=desk, on_notice=on_notice)

    return connect


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def lending(connect: Connect, told: list[str]) -> Iterator[Lending]:
    lending = Lending(connect, told.append)
    lending.fetch({"a.key": "env", "b.key": "env"}, "", 5)
    yield lending
    lending.close()


def test_a_command_that_does_not_end_is_killed(
    lending: Lending, desk: FakeDesk, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its time, with all of its group; several revocations are one end."""
    monkeypatch.setattr("agent_sdk.run.lending.GRACE_SECONDS", 0.02)
    command = Command()
    lending.keep(command, "end")
    desk.revoke("a.key")
    desk.revoke("b.key")
    command.wait_for(2)
    assert command.sent == [(signal.SIGTERM, True), (signal.SIGKILL, True)]
    assert told[0].startswith("a.key was revoked; the command is told to end (SIGTERM), and killed after")


@pytest.mark.parametrize(
    ("on_revoke", "sent", "words"),
    [(signal.SIGHUP, [(signal.SIGHUP, False)], "the command is told (SIGHUP)"), ("ignore", [], "the command goes on")],
)
def test_a_command_is_told_as_was_chosen(
    lending: Lending, desk: FakeDesk, told: list[str], on_revoke: OnRevoke, sent: list[object], words: str
) -> None:
    """People are told in any case."""
    command = Command()
    lending.keep(command, on_revoke)
    desk.revoke("a.key")
    lending._run(_turn())
    assert command.sent == sent
    assert told == [f"a.key was revoked; {words}"]


def test_what_was_taken_back_before_the_command_ran_is_told_as_well(
    lending: Lending, desk: FakeDesk, told: list[str]
) -> None:
    """Between the fetch and the start."""
    desk.revoke("a.key")
    lending._run(_turn())
    lending.keep(Command(), "ignore")
    assert told == ["a.key was revoked; the command goes on"]


def test_everything_is_given_back_at_the_end(connect: Connect, desk: FakeDesk, told: list[str]) -> None:
    """Whether or not a command was started."""
    lending = Lending(connect, told.append)
    lending.fetch({"a.key": "env", "b.key": "file"}, "", 5)
    lending.close()
    assert [lease.ended for lease in desk.leases] == ["released", "released"]
    assert told == []


async def _turn() -> None:
    """Whatever was on its way has arrived."""
