"""Orders on a real queue: what stands on the control stream is what the file has, and nothing else is believed."""

import asyncio
import json
from pathlib import Path

import nacl.bindings as sodium
import pytest
from broker_home import Home
from click.testing import CliRunner
from redis import Redis

from agent_sdk.wire import keynames
from agent_sdk.wire.errors import WireError
from broker_worker.cli import main
from broker_worker.core.control import decode_control
from broker_worker.core.revocations import open_revocation
from broker_worker.files.keys import CONTROL, QUEUE, load_seed
from broker_worker.people import announcing
from broker_worker.people.revoking import NotAnnouncedError, orders_of, reinstate, revoke, revoke_all
from broker_worker.queue.acl import broker_url
from broker_worker.settings import Settings


@pytest.fixture
async def home(tmp_path: Path, valkey_url: str) -> Home:
    """An installation whose users are on the queue."""
    home = Home(tmp_path / "home", valkey_url)
    await home.set_users()
    return home


def control_public(settings: Settings) -> bytes:
    return sodium.crypto_sign_seed_keypair(load_seed(settings.keys_dir / CONTROL))[0]


def on_the_stream(settings: Settings) -> list[bytes]:
    url = broker_url(settings.queue_address, load_seed(settings.keys_dir / QUEUE))
    with Redis.from_url(url) as client:
        found: list[tuple[bytes, dict[bytes, bytes]]] = client.xrange(keynames.CONTROL)
    messages = [decode_control(fields[keynames.MESSAGE_FIELD]) for _, fields in found]
    assert {message.kind for message in messages} <= {"revocation"}
    return [message.body for message in messages]


async def test_order_stands_in_the_file_and_on_the_stream(home: Home) -> None:
    """Both say the same, and any worker with the public half of the control key believes it."""
    settings = home.settings
    given = [
        await revoke(settings, "agent", "claude", reason="gone mad", by="maria"),
        await reinstate(settings, "agent", "claude", reason="well again", by="tom"),
    ]
    public = control_public(settings)
    assert [open_revocation(raw, public) for raw in on_the_stream(settings)] == given
    assert len(settings.revocations_file.read_bytes().splitlines()) == 2
    assert orders_of(settings).is_empty


async def test_command_says_that_the_queue_took_it(home: Home) -> None:
    """With a queue there is no note, and scripts see that it was announced."""
    arguments = ["--home", str(home.settings.home), "revoke", "agent", "claude", "--reason", "gone mad", "--json"]
    environment = {"REDIS_URL": home.settings.redis_url or ""}
    result = await asyncio.to_thread(CliRunner(env=environment).invoke, main, arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["announced"] is True
    assert result.stderr == ""


async def test_wiped_queue_undoes_nothing(home: Home) -> None:
    """The file has the order, whatever became of the stream."""
    await revoke(home.settings, "secret", "db.root", reason="leaked", by="maria")
    with Redis.from_url(home.settings.redis_url or "") as client:
        client.flushall()
    assert [each.label for each in orders_of(home.settings)] == ["secret:db.root"]


async def test_queue_that_is_away_leaves_the_order_in_force(home: Home, tmp_path: Path) -> None:
    """The caller learns that other hosts were not told, and has the order in hand."""
    away = Settings(home=home.settings.home, redis_url=f"unix://{tmp_path}/none.sock")
    with pytest.raises(NotAnnouncedError, match="in force on this host") as caught:
        await revoke(away, "run", "claude/run-1", reason="gone mad", by="maria")
    assert tuple(orders_of(away)) == (caught.value.revocation,) == caught.value.revocations
    assert home.queue_key.hex() not in str(caught.value)


async def test_queue_that_refuses_is_quoted_without_the_order(home: Home) -> None:
    """A person reads why, and not the bytes that were written."""
    with Redis.from_url(home.settings.redis_url or "") as client:
        client.set(keynames.CONTROL, b"no stream")
    with pytest.raises(NotAnnouncedError, match=r"did not take it to others \(WRONGTYPE") as caught:
        await revoke(home.settings, "agent", "claude", reason="gone mad", by="maria")
    assert "gone mad" not in str(caught.value)


async def test_queue_that_does_not_answer_is_given_up(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that hangs holds nobody up for ever."""
    monkeypatch.setattr(announcing, "_QUEUE_SECONDS", 0.05)
    with Redis.from_url(home.settings.redis_url or "") as client:
        client.client_pause(300)
        try:
            with pytest.raises(NotAnnouncedError):
                await revoke(home.settings, "agent", "claude", reason="gone mad", by="maria")
        finally:
            client.client_unpause()
    assert not orders_of(home.settings).is_empty


async def test_queue_that_knows_no_console_user_leaves_the_order_in_force(tmp_path: Path, valkey_url: str) -> None:
    """A server whose users were never set refuses us; the order holds on this host."""
    home = Home(tmp_path / "home", valkey_url)
    with Redis.from_url(valkey_url) as client:
        client.acl_deluser("console")
    with pytest.raises(NotAnnouncedError, match="did not take it"):
        await revoke(home.settings, "agent", "claude", reason="gone mad", by="maria")
    assert not orders_of(home.settings).is_empty


async def test_many_leases_are_revoked_at_once(home: Home) -> None:
    """All leases of a leaked secret end by one write; nothing to end is no error; one slip, and none ends."""
    leases = [f"{number:032x}" for number in range(20)]
    given = await revoke_all(home.settings, "lease", leases, reason="leaked", by="maria")
    assert [each.subject for each in given] == leases
    assert [each.subject for each in orders_of(home.settings)] == leases
    assert len(on_the_stream(home.settings)) == 20
    assert list(await revoke_all(home.settings, "lease", [], reason="leaked", by="maria")) == []
    with pytest.raises(WireError):
        await revoke_all(home.settings, "lease", ["f" * 32, "x"], reason="leaked", by="maria")
    assert len(list(orders_of(home.settings))) == 20


async def test_subject_that_could_not_be_reaches_neither_file_nor_queue(home: Home) -> None:
    """What is not canonical is refused before anything is written."""
    with pytest.raises(WireError):
        await revoke(home.settings, "agent", "Claude", reason="gone mad", by="maria")
    assert on_the_stream(home.settings) == []
    assert not home.settings.revocations_file.exists()


async def test_orders_of_several_at_once_all_stand(home: Home) -> None:
    """Two operators and a dashboard that order at the same moment lose none of it."""
    agents = [f"agent-{number}" for number in range(6)]
    await asyncio.gather(*(revoke(home.settings, "agent", agent, reason="r", by="b") for agent in agents))
    assert sorted(each.subject for each in orders_of(home.settings)) == agents
    assert len(on_the_stream(home.settings)) == 6
