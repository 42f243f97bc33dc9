"""The clients over a real server: the answers of the in-memory desk, and a queue that misbehaves."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import pytest
from redis.asyncio import Redis
from sdk_responder import REQUESTS, Responder, responding, stream_of

from agent_sdk import (
    AsyncSecretBroker,
    BrokerNotTrusted,
    ClientClosed,
    Code,
    Denied,
    InvalidRequest,
    LeaseExpired,
    Notice,
    RateLimited,
    RunCredential,
    SecretBroker,
    SeveralRefused,
    Unavailable,
)
from agent_sdk.exchange import WINDOW
from agent_sdk.queue_connection import QueueConnection
from agent_sdk.testing import FakeAsyncSecretBroker, FakeDesk
from agent_sdk.wire import keynames
from broker_worker.queue.acl import agent_rules

LONG = 45.0


@pytest.fixture
def desk() -> FakeDesk:
    return FakeDesk({"a.key": "value-a", "b.key": "value-b"}, rate_limited={"slow.key": 1.5})


@pytest.fixture
def run(desk: FakeDesk, valkey_url: str) -> RunCredential:
    return desk.credential("claude", queue_url=valkey_url)


@pytest.fixture
async def responder(valkey_url: str, desk: FakeDesk) -> AsyncIterator[Responder]:
    async with responding(valkey_url, desk) as responder:
        yield responder


@pytest.fixture(params=["in memory", "over valkey"])
async def client(request: pytest.FixtureRequest, desk: FakeDesk) -> AsyncIterator[AsyncSecretBroker]:
    """The same client over the two transports: what a user tests with the first holds with the second."""
    if request.param == "in memory":
        async with FakeAsyncSecretBroker(desk=desk, agent_id="claude") as fake:
            yield fake
        return
    url = request.getfixturevalue("valkey_url")
    credential = desk.credential("claude", queue_url=url)
    async with responding(url, desk), AsyncSecretBroker(credential, clock=desk.clock) as real:
        yield real


async def until(condition: Callable[[], Awaitable[Any] | Any], seconds: float = LONG) -> Any:
    """Poll until the condition holds."""
    end = time.monotonic() + seconds
    while True:
        result = condition()
        if isinstance(result, Awaitable):
            result = await result
        if result:
            return result
        assert time.monotonic() < end, "not in time"
        await asyncio.sleep(0.005)


class TestConformance:
    """What holds over both transports."""

    async def test_a_granted_secret_can_be_revealed(self, client: AsyncSecretBroker) -> None:
        """The whole way there and back."""
        secret = await client.get("a.key", purpose="a test")
        assert (secret.reveal(), secret.source, f"{secret}") == ("value-a", "provider", "[secret a.key]")

    async def test_several_names_go_in_one_request(self, client: AsyncSecretBroker, desk: FakeDesk) -> None:
        """One that is named twice is asked for once, and the order is kept."""
        secrets = await client.get_many(["b.key", "a.key", "b.key"], purpose="p", ttl=60)
        assert [(name, secret.reveal()) for name, secret in secrets.items()] == [
            ("b.key", "value-b"),
            ("a.key", "value-a"),
        ]
        assert [(r.names, r.purpose, r.ttl) for r in desk.requests] == [(("b.key", "a.key"), "p", 60)]

    async def test_an_unknown_name_is_denied(self, client: AsyncSecretBroker) -> None:
        """The error names it and has the stable code."""
        with pytest.raises(Denied, match="unknown") as caught:
            await client.get("unknown")
        assert (caught.value.code, caught.value.names) == (Code.DENIED, ("unknown",))

    async def test_a_limit_says_when_to_ask_again(self, client: AsyncSecretBroker) -> None:
        """In seconds."""
        with pytest.raises(RateLimited) as caught:
            await client.get("slow.key")
        assert caught.value.retry_after == 1.5

    async def test_a_partly_refused_request_raises_and_releases_nothing(self, client: AsyncSecretBroker) -> None:
        """By default all or nothing; the error names every refused one."""
        with pytest.raises(SeveralRefused, match=r"not released: slow\.key \(rate_limited\), no\.key \(denied\)"):
            await client.get_many(["a.key", "slow.key", "no.key"])

    async def test_partial_returns_both_parts(self, client: AsyncSecretBroker) -> None:
        """On request the caller sorts it out."""
        resolution = await client.get_many(["a.key", "no.key"], partial=True)
        assert resolution.secrets["a.key"].reveal() == "value-a"
        assert [(r.name, r.code) for r in resolution.refusals] == [("no.key", Code.DENIED)]

    async def test_the_names_that_a_run_may_have_are_listed(self, client: AsyncSecretBroker) -> None:
        """Names, not values."""
        assert await client.list_names() == ("a.key", "b.key")

    async def test_a_broker_that_is_silent_is_unavailable_at_the_deadline(
        self, client: AsyncSecretBroker, desk: FakeDesk
    ) -> None:
        """The caller's own timeout ends the wait."""
        desk.silent = True
        with pytest.raises(Unavailable, match="no answer in time: the request is on the queue, but no worker answered"):
            await client.get("a.key", timeout=0.1)

    async def test_a_secret_ends_when_its_time_is_over(self, client: AsyncSecretBroker, desk: FakeDesk) -> None:
        """The shorter of what the broker grants and what was asked for."""
        secret = await client.get("a.key", ttl=timedelta(seconds=30))
        desk.advance(timedelta(seconds=31))
        with pytest.raises(LeaseExpired):
            secret.reveal()

    async def test_many_requests_at_once_each_get_their_own_answer(
        self, client: AsyncSecretBroker, desk: FakeDesk
    ) -> None:
        """More than the window, so some wait for room."""
        desk.values.update({f"k{number}": f"v{number}" for number in range(WINDOW + 100)})
        secrets = await asyncio.gather(*(client.get(f"k{number}") for number in range(WINDOW + 100)))
        assert [secret.reveal() for secret in secrets] == [f"v{number}" for number in range(WINDOW + 100)]

    @pytest.mark.parametrize(
        ("names", "arguments", "expected"),
        [
            ([], {}, "a request has 1 to 64 names; got 0"),
            ([f"n{i}" for i in range(65)], {}, "a request has 1 to 64 names; got 65"),
            ("a.key", {}, "get_many takes several names; for one name use get"),
            (["A.key"], {}, "this secret name is not in canonical form"),
            (["a..key"], {}, "not in canonical form"),
            (["ключ"], {}, "not in canonical form"),
            (["a.key"], {"purpose": "x" * 257}, "a purpose has at most 256 characters; got 257"),
            (["a.key"], {"ttl": 0}, "a ttl is 1 to 2592000 s; got 0"),
            (["a.key"], {"timeout": 0}, "a timeout is a positive number of seconds; got 0"),
            (["a.key"], {"timeout": float("nan")}, "a timeout is a positive number of seconds; got nan"),
        ],
    )
    async def test_a_wrong_argument_is_refused_before_anything_is_sent(
        self, client: AsyncSecretBroker, desk: FakeDesk, names: Any, arguments: dict[str, Any], expected: str
    ) -> None:
        """The error says what was found and what is expected."""
        with pytest.raises(InvalidRequest, match=expected):
            await client.get_many(names, **arguments)
        assert desk.requests == []


class TestOverValkey:
    """What only a real queue can do to a client."""

    async def test_the_doorbell_rings_with_the_first_request_and_not_with_each(
        self, run: RunCredential, responder: Responder
    ) -> None:
        """Workers that do not watch this agent wake up; those that do are left alone."""
        bell = responder.redis.pubsub()
        await bell.subscribe(keynames.doorbell("claude"))
        async with AsyncSecretBroker(run) as client:
            await asyncio.gather(*(client.get("a.key") for _ in range(20)))
            await client.get("a.key")
        messages = [m async for m in _received(bell)]
        assert [m["data"] for m in messages if m["type"] == "message"] == [b"1"]
        await bell.aclose()

    async def test_a_worker_can_begin_before_all_callers_have_sealed(
        self, run: RunCredential, responder: Responder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of callers that ask in one turn of the loop, each eight are written when they are ready, then the rest."""
        written: list[int] = []
        send = QueueConnection.send

        def noting(connection: QueueConnection, packed: bytes, replies: int) -> None:
            written.append(packed.count(b"XADD"))
            send(connection, packed, replies)

        async with AsyncSecretBroker(run) as client:
            await client.get("a.key")
            monkeypatch.setattr(QueueConnection, "send", noting)
            await asyncio.gather(*(client.get("a.key") for _ in range(20)))
        assert [count for count in written if count] == [8, 8, 4]

    async def test_requests_that_the_socket_does_not_take_at_once_follow(
        self, run: RunCredential, desk: FakeDesk, responder: Responder
    ) -> None:
        """Large requests, many at once: each arrives whole, in its turn."""
        names = [f"{number:03}.{'k' * 120}" for number in range(64)]
        desk.values.update(dict.fromkeys(names, "value"))
        async with AsyncSecretBroker(run) as client:
            answers = await asyncio.gather(*(client.get_many(names) for _ in range(200)))
        assert {len(answer) for answer in answers} == {64}

    async def test_an_agents_own_rights_on_the_queue_are_enough(self, run: RunCredential, responder: Responder) -> None:
        """The client uses no command and no key beyond the ACL of an agent."""
        await responder.redis.execute_command(
            "ACL", "SETUSER", "agent-claude", "reset", "on", ">pw", *agent_rules("claude")
        )
        run.queue_url = run.queue_url.replace("unix://", "unix://agent-claude:pw@")
        try:
            async with AsyncSecretBroker(run) as client:
                assert (await client.get("a.key")).reveal() == "value-a"
        finally:
            await responder.redis.execute_command("ACL", "DELUSER", "agent-claude")

    async def test_a_queue_that_does_not_know_the_run_fails_at_once_without_its_password(
        self, run: RunCredential
    ) -> None:
        """Nobody waits for a deadline, and the password is not in the error."""
        run.queue_url = run.queue_url.replace("unix://", "unix://agent-claude:hunter2@")
        async with AsyncSecretBroker(run) as client:
            with pytest.raises(
                Unavailable, match=r"^the queue at unix://agent-claude:\*\*\*@.* \(AuthenticationError"
            ) as caught:
                await client.get("a.key", timeout=LONG)
        assert "hunter2" not in str(caught.value)

    async def test_a_queue_that_refuses_a_write_fails_that_request(
        self, run: RunCredential, responder: Responder
    ) -> None:
        """The server's reason reaches the caller, and the next request works."""
        async with AsyncSecretBroker(run) as client:
            await client.get("a.key")
            await responder.redis.rename(REQUESTS, "kept")
            await responder.redis.set(REQUESTS, "no stream")
            with pytest.raises(Unavailable, match=r"the queue refused the request .*WRONGTYPE"):
                await client.get("a.key", timeout=LONG)

    async def test_junk_and_copies_on_the_reply_stream_change_nothing(
        self, run: RunCredential, responder: Responder
    ) -> None:
        """Whoever owns the queue can put anything there: honest answers still arrive, each once."""
        stream = stream_of(run.run_public_key)

        async def noisy(envelope: bytes) -> None:
            reply = responder.desk.answer(envelope, "claude")
            assert reply is not None
            for junk in (b"", b"\xc1", reply[:-1], FakeDesk().notice(Notice("run_revoked", 0), run), envelope):
                await responder.redis.xadd(stream, {keynames.MESSAGE_FIELD: junk})
            await responder.redis.xadd(stream, {b"other": b"field", b"m": b"x"})
            for _ in range(3):
                await responder.redis.xadd(stream, {keynames.MESSAGE_FIELD: reply})

        responder.respond = noisy
        async with AsyncSecretBroker(run) as client:
            for _ in range(3):
                assert (await client.get("a.key", timeout=LONG)).reveal() == "value-a"
            ignored = client._exchange._channel.ignored
            await until(lambda: ignored.garbage >= 12)
            assert ignored.untrusted == 3

    async def test_answers_of_a_stranger_only_mean_that_the_broker_is_not_trusted(
        self, run: RunCredential, responder: Responder
    ) -> None:
        """The request is not failed by them, but its timeout says what was seen."""

        async def forge(envelope: bytes) -> None:
            await responder.write(FakeDesk().notice(Notice("run_revoked", 0), run), envelope)

        responder.respond = forge
        async with AsyncSecretBroker(run) as client:
            with pytest.raises(BrokerNotTrusted, match="were not signed by the broker that this run's credential pins"):
                await client.get("a.key", timeout=0.3)

    async def test_a_certificate_out_of_date_blames_the_clock(
        self, run: RunCredential, responder: Responder, desk: FakeDesk
    ) -> None:
        """The error says where to look."""
        async with AsyncSecretBroker(run) as client:
            await client.get("a.key")  # it is connected
            desk.advance(timedelta(days=3))
            with pytest.raises(Unavailable, match="outside its validity: compare this host's clock"):
                await client.get("a.key", timeout=0.3)

    async def test_processes_of_one_run_share_its_reply_stream(self, run: RunCredential, responder: Responder) -> None:
        """Answers to the other's requests are not taken."""
        async with AsyncSecretBroker(run) as one, AsyncSecretBroker(run) as other:
            answers = await asyncio.gather(
                *(client.get(name) for _ in range(20) for client, name in ((one, "a.key"), (other, "b.key")))
            )
        assert [answer.reveal() for answer in answers] == ["value-a", "value-b"] * 20

    async def test_answers_from_before_are_not_read_again(self, run: RunCredential, responder: Responder) -> None:
        """A process that starts later begins at the end of the stream."""
        async with AsyncSecretBroker(run) as client:
            await client.get("a.key")
        async with AsyncSecretBroker(run) as client:
            with patch.object(client._exchange, "deliver", wraps=client._exchange.deliver) as deliver:
                await client.get("a.key")
        assert [len(call.args[0]) for call in deliver.call_args_list] == [1]

    async def test_a_reply_stream_that_was_recreated_is_found(
        self, run: RunCredential, responder: Responder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After a queue forgot everything its ids may begin below where reading stopped."""
        monkeypatch.setattr("agent_sdk.reply_cursor.BLOCK_MILLISECONDS", 50)
        stream = stream_of(run.run_public_key)
        await responder.redis.xadd(stream, {"m": "x"}, id="9999999999999-0")
        async with AsyncSecretBroker(run) as client:
            await until(lambda: client._exchange._transport.problem is None)
            await responder.redis.delete(stream)
            assert (await client.get("a.key", timeout=LONG)).reveal() == "value-a"

    async def test_a_cancelled_request_leaves_nothing_behind(
        self, run: RunCredential, responder: Responder, desk: FakeDesk
    ) -> None:
        """Its answer, should it come, finds nobody; its room is free again."""
        desk.silent = True
        async with AsyncSecretBroker(run) as client:
            task = asyncio.create_task(client.get("a.key"))
            await until(lambda: desk.requests)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert client._exchange._pending == {}

    async def test_the_window_bounds_what_is_in_flight(self, run: RunCredential, desk: FakeDesk) -> None:
        """What has no room waits, no longer than its deadline or the client's end, and is not sent."""
        async with AsyncSecretBroker(run) as client, Redis.from_url(run.queue_url) as redis:
            tasks = [asyncio.create_task(client.get("a.key", timeout=LONG)) for _ in range(WINDOW)]
            await until(lambda: len(client._exchange._pending) == WINDOW)
            with pytest.raises(Unavailable, match=f"{WINDOW} requests were in flight until the deadline"):
                await client.get("a.key", timeout=0.05)
            await until(lambda: redis.xlen(REQUESTS))
            assert len(client._exchange._pending) == WINDOW
            tasks.append(asyncio.create_task(client.get("a.key", timeout=LONG)))
            await asyncio.sleep(0)
            await client.close()
            assert all(isinstance(e, ClientClosed) for e in await asyncio.gather(*tasks, return_exceptions=True))
            assert await redis.xlen(REQUESTS) <= WINDOW

    async def test_each_request_ends_at_its_own_deadline(self, run: RunCredential) -> None:
        """One timer serves all of them, whatever order they come in."""
        async with AsyncSecretBroker(run) as client:
            order: list[float] = []

            async def ask(seconds: float) -> None:
                with pytest.raises(Unavailable, match="no answer in time"):
                    await client.get("a.key", timeout=seconds)
                order.append(seconds)

            await asyncio.gather(*(ask(seconds) for seconds in (0.3, 0.1, 0.4, 0.2)))
            assert order == [0.1, 0.2, 0.3, 0.4]
            await ask(0.05)

    async def test_what_waited_for_room_is_sent_when_another_gave_up(self, run: RunCredential) -> None:
        """Room that a cancelled request leaves is used at once, also where the next one in line gave up as well."""
        async with AsyncSecretBroker(run) as client:
            tasks = [asyncio.create_task(client.get("a.key", timeout=LONG)) for _ in range(WINDOW + 2)]
            await until(lambda: len(client._exchange._pending) == WINDOW)
            last = list(client._exchange._waiting)[-1]
            tasks[WINDOW].cancel()
            tasks[0].cancel()
            await until(lambda: last in client._exchange._pending)
            assert not client._exchange._waiting
            await client.close()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def test_the_blocking_client_works_over_the_queue(self, run: RunCredential, responder: Responder) -> None:
        """From a thread of its own, with real connections."""

        def use() -> str:
            with SecretBroker(run) as client:
                return client.get("a.key").reveal()

        assert await asyncio.to_thread(use) == "value-a"


async def _received(bell: Any) -> AsyncIterator[dict[str, Any]]:
    while (message := await bell.get_message(timeout=0.05)) is not None:
        yield message
