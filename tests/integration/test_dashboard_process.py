"""The dashboard as a process: its port, its links, its end."""

import asyncio
import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from broker_home import COMMAND, Home
from desk_workbench import until

DEADLINE = 60.0
LINK = re.compile(r"dashboard: (http://localhost:(\d+))/login\?token=([\w-]{43})")


def listening_on(port: int) -> list[str]:
    """The addresses on which somebody listens on a port, as Linux writes them."""
    tables = [Path(name).read_text().splitlines()[1:] for name in ("/proc/net/tcp", "/proc/net/tcp6")]
    lines = [line.split() for table in tables for line in table]
    return [line[1] for line in lines if line[1].endswith(f":{port:04X}") and line[3] == "0A"]


class Served:
    """Commands on one home; all are ended in the end."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._started: list[subprocess.Popen[bytes]] = []

    @property
    def output(self) -> Path:
        """What the newest process says."""
        return self._home.settings.home / f"{len(self._started)}.out"

    @property
    def first_output(self) -> Path:
        """What the first process says."""
        return self._home.settings.home / "1.out"

    def start(self, *arguments: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        """Start `secret-broker dashboard ARGUMENTS`."""
        home = self._home.settings
        environ = os.environ | {"REDIS_URL": str(home.redis_url)}
        command = [*COMMAND, "--home", str(home.home), "dashboard", *arguments]
        self._started.append(None)  # type: ignore[arg-type]  # names the output file
        with self.output.open("wb") as file:
            process = subprocess.Popen(command, env=environ, stdin=stdin, stdout=file, stderr=subprocess.STDOUT)
        self._started[-1] = process
        return process

    async def until_says(self, found: Callable[[str], object]) -> str:
        """Wait until the newest process said something."""
        await until(lambda: found(self.output.read_text()) or self._started[-1].poll() is not None, DEADLINE)
        text = self.output.read_text()
        assert found(text), text
        return text

    def end(self, process: "subprocess.Popen[bytes]", number: int = signal.SIGTERM) -> int:
        """Ask a process to end; its exit code."""
        process.send_signal(number)
        return process.wait(DEADLINE)

    def close(self) -> None:
        """End what still runs."""
        for process in self._started:
            process.kill()
            process.wait()


@pytest.fixture
def served(home: Home) -> Iterator[Served]:
    """Dashboards of an installation."""
    made = Served(home)
    yield made
    made.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, valkey_socket: Path) -> Iterator[Served]:
    """An installation whose dashboard runs, for tests that leave it as it was."""
    made = Served(Home(tmp_path_factory.mktemp("running") / "home", f"unix://{valkey_socket}"))
    made.start("--port", "0")
    asyncio.run(made.until_says(LINK.search))
    yield made
    made.close()


async def test_the_printed_link_logs_in(served: Served, home: Home) -> None:
    """`dashboard` says where it is; its link opens the pages once, and SIGTERM ends it with its marks removed."""
    process = served.start("--port", "0")
    found = LINK.search(await served.until_says(LINK.search))
    assert found is not None
    async with httpx.AsyncClient(base_url=found[1], headers={"Origin": found[1]}) as browser:
        assert (await browser.post("/login", data={"token": found[3]})).status_code == 303
        assert (await browser.get("/session")).status_code == 204
        assert "approvals" in (await browser.get("/approvals")).text
        assert (await browser.get("/")).status_code == 503  # there is no ledger yet
        async with browser.stream("GET", "/approvals/stream?after=0") as stream:
            assert stream.status_code == 200
            assert served.end(process) == 0
    assert not (home.settings.state_dir / "dashboard" / "address").exists()


async def test_another_link_for_the_one_that_runs(running: Served) -> None:
    """`dashboard link` prints a fresh link that the running process takes."""
    running.start("link")
    text = await running.until_says(lambda text: "token=" in text)
    origin, _, token = text.strip().partition("/login?token=")
    async with httpx.AsyncClient(base_url=origin, headers={"Origin": origin}) as browser:
        assert (await browser.post("/login", data={"token": token})).status_code == 303


async def test_no_link_without_a_dashboard(served: Served) -> None:
    """A link that nothing would take is not printed."""
    process = served.start("link")
    assert process.wait(DEADLINE) == 7
    assert "no dashboard of" in served.output.read_text()
    assert not served.output.with_name("state").exists()


async def test_one_dashboard_an_installation(running: Served) -> None:
    """A second one says that one is running, and how to log into it."""
    second = running.start("--port", "0")
    assert second.wait(DEADLINE) == 7
    assert "another dashboard of this installation is running" in running.output.read_text()


async def test_a_port_that_is_taken_is_named(served: Served) -> None:
    """Nothing is served beside another program on the same port."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert served.start("--port", str(port)).wait(DEADLINE) == 7
    assert f"port {port} of 127.0.0.1 cannot be used: Address already in use" in served.output.read_text()


async def test_it_listens_on_this_host_only(running: Served) -> None:
    """Both addresses of `localhost` are its own, and no other."""
    found = LINK.search(running.first_output.read_text())
    assert found is not None
    listening = listening_on(int(found[2]))
    assert {address.rpartition(":")[0] for address in listening} <= {"0100007F", f"{'0' * 24}01000000"}
    assert listening


async def test_under_a_supervisor_no_link_is_printed(served: Served) -> None:
    """What a supervisor keeps of the output lets nobody in; the process ends with its supervisor."""
    reader, writer = os.pipe()
    process = served.start("--port", "0", "--until-stdin-ends", stdin=reader)
    os.close(reader)
    text = await served.until_says(lambda text: "dashboard_ready" in text)
    os.close(writer)
    assert process.wait(DEADLINE) == 0
    assert "token=" not in text + served.output.read_text()
