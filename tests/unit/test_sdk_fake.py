"""The blocking client, and the scripted desk that users test their agents with."""

import asyncio
import gc
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from agent_sdk import (
    ClientClosed,
    Code,
    CredentialInvalid,
    CredentialMissing,
    Denied,
    Expired,
    Notice,
    SecretBroker,
    Unavailable,
)
from agent_sdk.testing import FakeAsyncSecretBroker, FakeDesk, FakeSecretBroker


@pytest.fixture
def broker() -> Iterator[FakeSecretBroker]:
    with FakeSecretBroker({"a.key": "value-a", "b.key": b"\xff"}) as broker:
        yield broker


def _wait_for(condition: object, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]  # any callable
        assert time.monotonic() < end
        time.sleep(0.002)


def test_the_blocking_client_gets_lists_and_refuses(broker: FakeSecretBroker) -> None:
    """All calls of the asynchronous client are there."""
    assert broker.get("a.key").reveal() == "value-a"
    assert broker.get_many(["a.key", "b.key"])["b.key"].reveal_bytes() == b"\xff"
    assert [refusal.name for refusal in broker.get_many(["a.key", "c"], partial=True).refusals] == ["c"]
    assert broker.list_names() == ("a.key", "b.key")
    assert broker.list_ways() == dict.fromkeys(("a.key", "b.key"), ("value", "env", "file", "proxy"))
    with pytest.raises(Denied):
        broker.get("c")


def test_one_blocking_client_serves_many_threads(broker: FakeSecretBroker) -> None:
    """Answers find the thread that asked."""
    broker.desk.values.update({f"k{number}": f"v{number}" for number in range(50)})
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda number: broker.get(f"k{number}").reveal(), range(50)))
    assert got == [f"v{number}" for number in range(50)]


def test_the_thread_is_made_at_the_first_request_and_ends_at_close() -> None:
    """A client that is never used costs nothing; a closed one leaves nothing behind."""
    before = threading.active_count()
    broker = FakeSecretBroker({"a": "x"})
    assert threading.active_count() == before
    broker.get("a")
    assert threading.active_count() == before + 1
    broker.close()
    broker.close()
    assert threading.active_count() == before


def test_a_closed_blocking_client_says_so(broker: FakeSecretBroker) -> None:
    """Use after close is a clear error, also if it was never opened."""
    broker.close()
    with pytest.raises(ClientClosed, match="the client was closed: make a new one"):
        broker.get("a.key")


def test_close_ends_the_requests_of_other_threads(broker: FakeSecretBroker) -> None:
    """A thread that waits for an answer is woken with ClientClosed."""
    broker.desk.silent = True
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(broker.get, "a.key") for _ in range(4)]
        _wait_for(lambda: len(broker.desk.requests) == 4)
        broker.close()
        for future in waiting:
            with pytest.raises(ClientClosed, match="closed while the request was in flight"):
                future.result(5)


def test_a_notice_reaches_the_blocking_clients_callback() -> None:
    """on_notice is called, on the client's own thread."""
    seen: list[Notice] = []
    with FakeSecretBroker({"a": "x"}, on_notice=seen.append) as broker:
        broker.get("a")
        broker.desk.notify(Notice("secret_rotated", broker.desk.clock(), name="a"))
        _wait_for(lambda: seen)
    assert seen[0].event == "secret_rotated"


def test_a_callback_that_fails_does_not_stop_the_client(caplog: pytest.LogCaptureFixture) -> None:
    """The user's error is logged, and answers go on arriving."""

    def fails(notice: Notice) -> None:
        raise RuntimeError("broken callback")

    with FakeSecretBroker({"a": "x"}, on_notice=fails) as broker:
        broker.get("a")
        broker.desk.notify(Notice("run_revoked", 0))
        assert broker.get("a").reveal() == "x"
    assert "on_notice failed for run_revoked" in caplog.text


def test_a_client_made_before_a_fork_works_in_parent_and_child() -> None:
    """A pre-forking server can make its client once; each process gets a thread and connections of its own."""
    code = """
import os, sys
from agent_sdk.testing import FakeSecretBroker
broker = FakeSecretBroker({"a": "x"})
assert broker.get("a").reveal() == "x"
child = os.fork()
assert broker.get("a").reveal() == "x"
if not child:
    broker.close()
    os._exit(7)
_, status = os.waitpid(child, 0)
assert broker.get("a").reveal() == "x"
broker.close()
sys.exit(os.waitstatus_to_exitcode(status))
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 7


def test_a_client_that_is_not_closed_does_not_keep_the_process() -> None:
    """The thread is a daemon: forgetting close() does not hang an agent."""
    code = "from agent_sdk.testing import FakeSecretBroker as F; print(F({'a': 'x'}).get('a'))"
    done = subprocess.run([sys.executable, "-c", code], timeout=120, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[secret a]"


def test_a_blocking_client_refuses_a_bad_credential_when_it_is_made() -> None:
    """Not at the first request, when the agent is half-way through its work."""
    with pytest.raises(CredentialInvalid, match="has options that are not known"):
        SecretBroker(FakeDesk().credential(queue_url="redis://localhost?nonsense=1"))
    with pytest.raises(CredentialMissing):
        SecretBroker()


def test_the_desk_records_what_was_asked(broker: FakeSecretBroker) -> None:
    """Users can assert on names, purpose and ttl."""
    broker.get("a.key", purpose="summarise the ticket", ttl=timedelta(minutes=1))
    request = broker.desk.requests[0]
    assert (request.operation, request.names, request.purpose, request.ttl) == (
        "resolve",
        ("a.key",),
        "summarise the ticket",
        60,
    )
    assert "value-a" not in repr(broker.desk)


def test_the_desk_simulates_each_way_of_not_getting_a_secret(broker: FakeSecretBroker) -> None:
    """Limits, a vault that is down, codes of choice, and silence."""
    desk = broker.desk
    desk.rate_limited["a.key"] = 3.0
    desk.unavailable.add("b.key")
    desk.refused["c.key"] = Code.APPROVAL_PENDING
    refusals = broker.get_many(["a.key", "b.key", "c.key"], wait_for_approval=False, partial=True).refusals
    assert [(r.code, r.retry_after) for r in refusals] == [
        (Code.RATE_LIMITED, 3.0),
        (Code.UNAVAILABLE, None),
        (Code.APPROVAL_PENDING, None),
    ]
    desk.silent = True
    with pytest.raises(Unavailable, match="no answer in time"):
        broker.get("a.key", timeout=0.05)


def test_the_desks_clock_ends_secrets_and_runs(broker: FakeSecretBroker) -> None:
    """Users can test what their agent does when its time is over."""
    secret = broker.get("a.key")
    broker.desk.advance(timedelta(minutes=6))
    assert secret.expired
    broker.desk.advance(timedelta(hours=1))
    with pytest.raises(Expired, match="this run's token is over"):
        broker.get("a.key")


async def test_a_client_that_is_garbage_leaves_no_warning() -> None:
    """Warnings are errors here: nothing is left unawaited or unclosed."""
    async with FakeAsyncSecretBroker({"a": "x"}) as broker:
        await asyncio.gather(*(broker.get("a") for _ in range(20)))
    del broker
    gc.collect()
