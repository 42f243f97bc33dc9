"""Clients that are used where they cannot work: from a second event loop, from their own thread, from a signal."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from agent_sdk import AsyncSecretBroker, ClientClosed, CredentialInvalid, InvalidRequest, Notice, Secret, SecretBroker
from agent_sdk.testing import FakeAsyncSecretBroker, FakeDesk, FakeSecretBroker

LONG = 30.0


def test_a_client_says_that_it_belongs_to_another_event_loop() -> None:
    """One client over two calls of asyncio.run(): the second says what to do, and closing it there does no harm."""
    broker = FakeAsyncSecretBroker({"a": "x"})

    async def got() -> Secret:
        return await broker.get("a")

    assert asyncio.run(got()).reveal() == "x"
    with pytest.raises(InvalidRequest, match=r"belongs to the event loop that used it first.*each asyncio\.run\(\)"):
        asyncio.run(got())
    asyncio.run(broker.close())
    with pytest.raises(ClientClosed):
        asyncio.run(got())


async def test_a_client_is_not_used_by_the_loop_of_another_thread() -> None:
    """Its answers would arrive on this one, and wake nobody there; nor does closing it there end what waits here."""
    async with FakeAsyncSecretBroker({"a": "x"}) as broker:
        for call in (lambda: broker.get("a"), broker.close):
            with pytest.raises(InvalidRequest, match="belongs to the event loop that used it first"):
                await asyncio.to_thread(asyncio.run, call())
        assert (await broker.get("a")).reveal() == "x"


@pytest.mark.parametrize("use", [lambda broker: broker.get("a"), lambda broker: broker.close()])
def test_a_callback_that_uses_its_client_is_told_and_stops_nobody(use: Callable[[SecretBroker], Any]) -> None:
    """It would wait for its own thread without end, and every other thread with it."""
    told = threading.Event()
    errors: list[InvalidRequest] = []

    def on_notice(_: Notice) -> None:
        try:
            use(broker)
        except InvalidRequest as error:
            errors.append(error)
        finally:
            told.set()

    broker = FakeSecretBroker({"a": "x"}, on_notice=on_notice)
    broker.get("a")
    broker.desk.rotate("a", "y")
    assert told.wait(LONG)
    assert "on_notice runs on the client's own thread" in str(errors[0])
    assert broker.get("a").reveal() == "y"
    broker.close()


@pytest.mark.parametrize("closes", [True, False])
def test_a_signals_handler_may_use_a_client_that_is_being_made(closes: bool) -> None:
    """Connecting takes a moment; a handler that runs in it closes, or asks, on the very thread that holds the lock."""
    desk = FakeDesk({"a": "x"})
    interrupts: list[Callable[[], object]] = [lambda: broker.close() if closes else broker.get("a")]

    def made() -> AsyncSecretBroker:
        while interrupts:
            interrupts.pop()()
        return FakeAsyncSecretBroker(desk=desk)

    broker: SecretBroker = SecretBroker(client=made)
    outcome: list[object] = []

    def ask() -> None:
        try:
            outcome.append(broker.get("a").reveal())
        except ClientClosed as error:
            outcome.append(type(error))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(LONG)
    assert outcome == [ClientClosed if closes else "x"]
    broker.close()
    assert [each for each in threading.enumerate() if each.name == "secret-broker"] == []


def test_a_source_works_in_a_child_that_was_forked_while_a_thread_asked() -> None:
    """The lock of the thread that asks in the parent is held for ever in the child."""
    code = """
import os, signal, threading
from agent_sdk.testing import FakeSecretBroker
broker = FakeSecretBroker({"a": "x"})
broker.desk.silent = True
asking = threading.Event()
source = broker.source("a", timeout=20)
get = source._get
source._get = lambda: asking.set() or get()
threading.Thread(target=source, daemon=True).start()
asking.wait()
child = os.fork()
if not child:
    signal.alarm(50)
    broker.desk.silent = False
    os._exit(7 if source() == "x" else 1)
os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 7


@pytest.mark.parametrize("client", [AsyncSecretBroker, SecretBroker])
@pytest.mark.parametrize("credential", ["{}", {}, 0])
def test_what_is_no_credential_is_said_to_be_none(client: Callable[[Any], object], credential: Any) -> None:
    """Also what counts as empty: nothing else is taken in its place."""
    with pytest.raises(CredentialInvalid, match="a RunCredential is expected; got"):
        client(credential)


def test_a_wrong_timeout_does_not_use_up_the_credential(monkeypatch: pytest.MonkeyPatch) -> None:
    """It can be taken once, so what is wrong with the call is said first."""
    monkeypatch.setenv("SECRET_BROKER_CREDENTIAL", FakeDesk().credential().to_json())
    made: tuple[Callable[..., object], ...] = (
        AsyncSecretBroker,
        AsyncSecretBroker.from_environment,
        SecretBroker,
        SecretBroker.from_environment,
    )
    for client in made:
        with pytest.raises(InvalidRequest, match="a timeout is a positive number"):
            client(timeout=0)
    SecretBroker.from_environment()
