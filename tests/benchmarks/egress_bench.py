"""What the proxy costs a call: the same call to the same TLS upstream, directly and by the proxy, in turns.

    python tests/benchmarks/egress_bench.py

The upstream and the proxy are processes of their own; the client keeps one connection to each. The value is remembered,
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

import click
import uvloop

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))
_ANSWER = b'{"id": "chatcmpl-1", "choices": [{"message": {"role": "assistant", "content": "' + b"word " * 200 + b'"}}]}'
_ASKS = b'{"model": "m", "messages": [{"role": "user", "content": "' + b"word " * 400 + b'"}]}'
_PATH = "/v1/chat/completions"


@click.command()
@click.option("--rounds", default=3000, show_default=True, help="Calls each way, in turns.")
@click.option("--part", type=click.Choice(["upstream", "proxy"]), hidden=True)
@click.option("--folder", type=click.Path(path_type=Path), hidden=True)
@click.option("--port", type=int, hidden=True)
def main(rounds: int, part: str | None, folder: Path | None, port: int | None) -> None:
    """Time calls directly and by the proxy, and print medians and what lies between them."""
    if part is not None and folder is not None:
        serve = _upstream(folder) if part == "upstream" else _proxy(folder, port or 0)
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


def _start(*arguments: str) -> tuple[subprocess.Popen[str], list[str]]:
    process = subprocess.Popen([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().split()


def _compare(folder: Path, rounds: int) -> None:
    upstream, (port,) = _start("--part", "upstream", "--folder", str(folder))
    proxy, (own, token) = _start("--part", "proxy", "--folder", str(folder), "--port", port)
    try:
        context = ssl.create_default_context(cafile=folder / "ca.pem")
        directly = http.client.HTTPSConnection("localhost", int(port), context=context)
        proxied = http.client.HTTPConnection("127.0.0.1", int(own))
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        straight: list[float] = []
        through: list[float] = []
        for number in range(rounds + 200):
            first, second = _time(directly, _PATH, headers), _time(proxied, f"/openai{_PATH}", headers)
            if number >= 200:
                straight.append(first)
                through.append(second)
    finally:
        proxy.kill()
        upstream.kill()
    more = sorted(b - a for a, b in zip(straight, through, strict=True))
    print(f"calls each way, in turns    {rounds}")
    for name, times in (("directly", sorted(straight)), ("by the proxy", sorted(through)), ("more, in pairs", more)):
        print(f"{name:<20} median {statistics.median(times):7.3f} ms   p95 {times[len(times) * 95 // 100]:7.3f} ms")


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
