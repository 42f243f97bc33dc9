"""`secret-agent mcp --http`: who reaches it, clients of both protocol eras, and what is left when it ends."""

import asyncio
import signal
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from mcp_house import CANARY, House, Person, call, client, house, python, text_of

pytestmark = pytest.mark.asyncio(loop_scope="module")
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
MODERN = "2026-07-28"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def home(valkey_socket: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with house(valkey_socket, tmp_path_factory.mktemp("mcp")) as made:
        options = ("--http", "--port", "0", "--token-file", str(made.token_file))
        process = await made.start(*options, "--dashboard-url", "https://desk.example")
        assert process.stdout
        assert process.stderr
        line = (await process.stdout.readline()).decode()
        assert line.startswith("listening on "), (await process.stderr.read()).decode()
        made.url = line.removeprefix("listening on ").partition(";")[0]
        async with client(made.http()) as served:  # so that there is something to look at, whichever tests run here
            await call(served, "run_command", **python("pass", env={"K": "secret://openai.api_key"}))
        yield made
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
        made.wire.extend(await process.stdout.read() + await process.stderr.read())
        made.check_wire()
        assert [each for each in made.desk.requests if each.operation == "release"], "nothing was given back"


async def test_the_token_is_this_users_alone(home: House) -> None:
    """The file was made by the server, with a token that cannot be guessed."""
    status = home.token_file.stat()
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert len(home.token_file.read_text().strip()) >= 43


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": ""}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Host": "evil.example"}, 421),
        ({"Host": "127.0.0.1"}, 421),
        ({"Origin": "http://localhost"}, 403),
        ({"Origin": "https://evil.example"}, 403),
    ],
)
async def test_others_are_turned_away(home: House, headers: dict[str, str], status: int) -> None:
    """Other users lack the token, web pages have an origin, and rebound names are not ours."""
    own = {
        "Authorization": f"Bearer {home.token_file.read_text().strip()}",
        "Accept": "application/json, text/event-stream",
    }
    async with home.http_client(**{**own, **headers}) as web:
        assert (await web.post(home.url, json=PING)).status_code == status


async def test_more_connections_than_it_serves_are_told_so(home: House) -> None:
    """And when they have gone, the next client is served."""
    address = urlsplit(home.url)
    own = {
        "Authorization": f"Bearer {home.token_file.read_text().strip()}",
        "Accept": "application/json, text/event-stream",
    }
    opened = [await asyncio.open_connection(address.hostname, address.port) for _ in range(260)]
    try:
        async with home.http_client(**own) as web:
            assert (await web.post(home.url, json=PING)).status_code == 503
    finally:
        for _, writer in opened:
            writer.close()
            await writer.wait_closed()
    async with asyncio.timeout(10), home.http_client(**own) as web:
        while (await web.post(home.url, json=PING)).status_code == 503:  # noqa: ASYNC110  # a process of its own
            await asyncio.sleep(0.01)


async def test_it_listens_on_loopback_only(home: House) -> None:
    """The address that is printed is the only one."""
    assert home.url.startswith("http://127.0.0.1:")


@pytest.mark.parametrize("mode", ["legacy", MODERN])
async def test_a_command_has_the_value_and_the_wire_does_not(home: House, mode: str) -> None:
    """In both eras of the protocol; the fixture looks at every byte in the end."""
    async with client(home.http(), mode) as served:
        arguments = python(
            "import os; print(len(os.environ['K']), os.environ['K'])", env={"K": "secret://openai.api_key"}
        )
        result = await call(served, "run_command", **arguments)
        assert result.structured_content["stdout"] == f"{len(CANARY)} [masked openai.api_key]\n"


@pytest.mark.parametrize("mode", ["legacy", MODERN])
async def test_a_client_that_shows_no_links_gets_one_to_hand_on(home: House, mode: str) -> None:
    """The call does not wait; with the same words, and the person's decision, the next one is granted."""
    async with client(home.http(), mode) as served:
        arguments = {"names": ["prod.deploy_key"], "purpose": f"release for {mode}"}
        result = await call(served, "request_access", **arguments)
        (refused,) = result.structured_content["refused"]
        assert refused["link"] == f"https://desk.example/approvals#matter-{refused['approval']}"
        assert "make the same call again" in refused["advice"]
        home.desk.approve()
        again = await call(served, "request_access", **arguments)
        assert [each["name"] for each in again.structured_content["granted"]] == ["prod.deploy_key"]


async def test_a_call_waits_as_long_as_it_says(home: House) -> None:
    """Whoever has no links can still wait; the client hears that it goes on."""
    heard: list[str | None] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append(message)
        home.desk.approve()

    async with client(home.http()) as served:
        arguments = {"names": ["prod.deploy_key"], "purpose": "waited for", "wait_seconds": 30}
        result = await served.call_tool("request_access", arguments, progress_callback=hear)
    assert result.structured_content["granted"][0]["name"] == "prod.deploy_key"
    assert heard[0] is not None
    assert heard[0].startswith("waiting for people to approve ")


@pytest.mark.parametrize("mode", ["legacy", MODERN])
@pytest.mark.parametrize("answer", ["accept", "decline"])
async def test_a_person_is_shown_where_to_approve(home: House, mode: str, answer: str) -> None:
    """The server asks while the call runs; since 2026-07-28 the client makes the call again (SEP-2322)."""

    def decide() -> str:
        if answer == "accept":
            home.desk.approve()
        return answer

    person = Person(decide)
    async with client(home.http(), mode, person) as served:
        arguments = {"names": ["prod.deploy_key"], "purpose": f"release with {answer} in {mode}"}
        result = await call(served, "request_access", **arguments)
    (shown,) = person.shown
    assert shown.url == f"https://desk.example/approvals#matter-{home.desk.approvals[-1].approval_id}"
    assert result.is_error == (answer == "decline")


async def test_a_write_that_people_approve(home: House) -> None:
    """The same holds for what is stored: the link, then the same call again."""
    home.desk.needs_approval.add("agents.guarded")
    async with client(home.http()) as served:
        arguments = {"name": "agents.guarded", "recipe": "hex:32", "purpose": "guarded"}
        result = await call(served, "generate_secret", **arguments)
        assert "agents.guarded (approval_pending)" in text_of(result)
        assert "https://desk.example/approvals#matter-" in text_of(result)
        home.desk.approve()
        assert (await call(served, "generate_secret", **arguments)).structured_content["name"] == "agents.guarded"


async def test_an_unknown_tool_is_an_error_of_the_protocol(home: House) -> None:
    """It is the client's mistake, not a tool's result."""
    async with client(home.http()) as served:
        with pytest.raises(Exception, match="there is no such tool"):
            await call(served, "get_secret", name="openai.api_key")
