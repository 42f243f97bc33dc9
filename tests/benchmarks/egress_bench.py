"""What the proxy costs a call: the same call to the same TLS upstream, directly and by each of two proxies, in turns.

    python tests/benchmarks/egress_bench.py

The null proxy is the floor: it copies bytes from one kept connection to another, and looks at none of them. Upstream
and proxies are processes of their own; the client keeps one connection to each. The value is remembered,
as it is for all calls of a run but the first within a minute; calls are recorded at a desk in the proxy's process, so
what the queue and the broker's disk take is not in the figures: no call waits for them.
"""

import asyncio
import http.client
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import cast

import click
import uvloop

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))
_ANSWER = b'{"id": "chatcmpl-1", "choices": [{"message": {"role": "assistant", "content": "' + b"word " * 200 + b'"}}]}'
_ASKS = b'{"model": "m", "messages": [{"role": "user", "content": "' + b"word " * 400 + b'"}]}'
_PATH = "/v1/chat/completions"
_WARM = 200


@click.command()
@click.option("--rounds", default=3000, show_default=True, help="Calls each way, in turns.")
@click.option("--part", type=click.Choice(["upstream", "proxy", "null"]), hidden=True)
@click.option("--folder", type=click.Path(path_type=Path), hidden=True)
@click.option("--port", type=int, hidden=True)
def main(rounds: int, part: str | None, folder: Path | None, port: int | None) -> None:
    """Time calls directly and by proxies; print medians, what lies between them, and the proxies' processor time."""
    if part is not None and folder is not None:
        serve = _upstream(folder) if part == "upstream" else (_proxy if part == "proxy" else _null)(folder, port or 0)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve)
        return
    with tempfile.TemporaryDirectory() as name:
        _compare(Path(name), rounds)


async def _upstream(folder: Path) -> None:
    from egress_upstream import Authority, Upstream, answer  # noqa: PLC0415  # needs the path from above

    authority = Authority(folder)
    async with Upstream(authority.server("localhost")) as upstream:
        upstream.says(_PATH, answer(_ANSWER, "Content-Type: application/json"))
        print(upstream.port, flush=True)
        await asyncio.Event().wait()


async def _proxy(folder: Path, port: int) -> None:
    import structlog  # noqa: PLC0415  # as below
    from egress_workbench import ROUTE, SECRET, VALUE  # noqa: PLC0415  # needs the path from above

    from agent_sdk.testing import FakeAsyncSecretBroker, FakeDesk  # noqa: PLC0415  # as above
    from broker_worker.app.collecting import collect_seldom  # noqa: PLC0415  # as above
    from broker_worker.egress.serving import Egress  # noqa: PLC0415  # as above

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(20))
    desk = FakeDesk({SECRET: VALUE})
    file = folder / "egress.yaml"
    text = ROUTE.format(port=port, ca=folder / "ca.pem") + "      rate: 1000000/s\n"
    file.write_text(text)
    egress = Egress(
        file,
        desk.credential("egress"),
        port=0,
        connect=lambda _: FakeAsyncSecretBroker(desk=desk, agent_id="egress"),
    )
    token = desk.credential("claude").token
    collect_seldom()
    await egress.run(lambda address: print(address.rpartition(":")[2], token, flush=True))


class _Copying(asyncio.Protocol):
    """Writes what comes to another connection."""

    def __init__(self, to: asyncio.WriteTransport | None = None) -> None:
        self.to = to

    def data_received(self, data: bytes) -> None:
        assert self.to is not None
        self.to.write(data)


async def _null(folder: Path, port: int) -> None:
    loop = asyncio.get_running_loop()
    tls = ssl.create_default_context(cafile=folder / "ca.pem")
    upstream, back = await loop.create_connection(_Copying, "localhost", port, ssl=tls)

    class There(_Copying):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            back.to = cast("asyncio.WriteTransport", transport)  # uvloop's are no subclasses

    server = await loop.create_server(lambda: There(upstream), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


def _start(*arguments: str) -> tuple[subprocess.Popen[str], list[str]]:
    process = subprocess.Popen([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().split()


def _compare(folder: Path, rounds: int) -> None:
    upstream, (port,) = _start("--part", "upstream", "--folder", str(folder))
    null, (copying,) = _start("--part", "null", "--folder", str(folder), "--port", port)
    proxy, (own, token) = _start("--part", "proxy", "--folder", str(folder), "--port", port)
    try:
        context = ssl.create_default_context(cafile=folder / "ca.pem")
        ways = {
            "directly": (http.client.HTTPSConnection("localhost", int(port), context=context), _PATH),
            "by the null proxy": (http.client.HTTPConnection("127.0.0.1", int(copying)), _PATH),
            "by the proxy": (http.client.HTTPConnection("127.0.0.1", int(own)), f"/openai{_PATH}"),
        }
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        times: dict[str, list[float]] = {name: [] for name in ways}
        used = [0.0, 0.0]
        for number in range(rounds + _WARM):
            if number == _WARM:
                used = [_processor(null), _processor(proxy)]
            for name, (connection, path) in ways.items():
                times[name].append(_time(connection, path, headers))
        used = [(_processor(process) - before) / rounds for process, before in zip((null, proxy), used, strict=True)]
    finally:
        for process in (proxy, null, upstream):
            process.kill()
    print(f"calls each way, in turns    {rounds}")
    straight = times["directly"][_WARM:]
    for name, found in times.items():
        _say(name, found[_WARM:])
    for name in ("by the null proxy", "by the proxy"):
        _say(f"more {name}, in pairs", [b - a for a, b in zip(straight, times[name][_WARM:], strict=True)])
    print(f"processor a call             null proxy {used[0]:.0f} µs, proxy {used[1]:.0f} µs")


def _say(name: str, found: list[float]) -> None:
    p95 = sorted(found)[len(found) * 95 // 100]
    print(f"{name:<28} median {statistics.median(found):7.3f} ms   p95 {p95:7.3f} ms")


def _processor(process: subprocess.Popen[str]) -> float:
    """The processor time that a process's main thread has used, in microseconds; not a number but on Linux."""
    file = Path(f"/proc/{process.pid}/schedstat")
    return int(file.read_text().split()[0]) / 1000 if file.exists() else float("nan")


def _time(connection: http.client.HTTPConnection, path: str, headers: dict[str, str]) -> float:
    begun = time.perf_counter()
    connection.request("POST", path, body=_ASKS, headers=headers)
    response = connection.getresponse()
    body = response.read()
    elapsed = (time.perf_counter() - begun) * 1000
    assert (response.status, body) == (200, _ANSWER)
    return elapsed


if __name__ == "__main__":
    main()
