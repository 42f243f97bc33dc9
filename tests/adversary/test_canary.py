"""Canaries: values that must be nowhere but in the vault's ciphertext and the agent's own hands.

Everything is done with them that can be done, and then every place is searched: files, logs, the server's whole
dataset and its append-only file, the objects of a worker at work; as they are, and in the usual spellings.
"""

import asyncio
import base64
import gc
import json
import subprocess
import urllib.parse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from broker_home import COMMAND, Home, Processes, running_server
from desk_workbench import until
from fake_vault import FakeVault

from agent_sdk.errors import NotGranted
from agent_sdk.wire import keynames
from agent_sdk.wire.audit import AuditEvent
from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.core.redaction import NOTE
from broker_worker.files.keys import load_broker_keys

CANARY = "canary-5f2a9c31d7e84b06"  # could also be a secret's name
ODD_CANARY = "Zwitsch/er+&\"'\\canary?=%é"
CANARIES = [CANARY, ODD_CANARY]

FILES = {
    "policy": """
        agents:
          claude: {allow: [openai.api_key, anthropic.api_key, github.read_token]}
          codex: {allow: [openai.api_key], limits: {run: {rate: 1/h, burst: 3}}}
          random-script: {allow: []}
    """,
}


def spellings(text: str) -> set[bytes]:
    """The ways in which a value could be written: raw, escaped, hexadecimal, base64 at any offset, percent-encoded."""
    raw = text.encode()
    found = {raw, raw.hex().encode(), raw.hex().upper().encode(), raw[::-1], repr(raw)[2:-1].encode()}
    found |= {json.dumps(text)[1:-1].encode(), json.dumps(text, ensure_ascii=False)[1:-1].encode()}
    found |= {urllib.parse.quote(text, safe="").encode(), urllib.parse.quote_plus(text).encode()}
    found |= {text.encode("utf-16-le"), text.encode("utf-16-be")}
    for offset in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            coded = encode(bytes(offset) + raw)
            found.add(coded[-(-offset * 4 // 3) + 1 : -4])  # without what its neighbours would change
    return {each for each in found if len(each) > 8}


ALL = {spelling for canary in CANARIES for spelling in spellings(canary)}


def sightings(haystack: bytes, needles: Iterable[bytes] = ALL) -> list[bytes]:
    """What of the canaries is in there."""
    return [needle for needle in needles if needle in haystack]


def test_the_search_finds_what_it_looks_for() -> None:
    """Otherwise finding nothing would show nothing."""
    for canary in CANARIES:
        raw = canary.encode()
        for written in (
            b"x" + raw + b"y",
            base64.b64encode(b"ab" + raw + b"cdef"),
            base64.urlsafe_b64encode(b"a" + raw + b"cdef"),
            base64.b64encode(raw + b"cdef"),
            json.dumps({"value": canary}).encode(),
            repr({"value": raw}).encode(),
            urllib.parse.urlencode({"value": canary}).encode(),
            f"0x{raw.hex()}".encode(),
        ):
            assert sightings(written), written


def command(home: Home, *arguments: str, given: str = "") -> str:
    """Run a command to its end and return what it wrote."""
    done = subprocess.run(
        [*COMMAND, "--home", str(home.settings.home), *arguments], input=given.encode(), capture_output=True, check=True
    )
    return (done.stdout + done.stderr).decode()


def dataset(home: Home) -> bytes:
    """Everything that the server holds, by every way of reading it."""
    found: list[bytes] = []
    with home.redis() as redis:
        readers: dict[bytes, Any] = {
            b"none": lambda _: b"",  # it ended in between
            b"string": redis.get,
            b"hash": redis.hgetall,
            b"stream": redis.xrange,
            b"list": lambda key: redis.lrange(key, 0, -1),
            b"set": redis.smembers,
            b"zset": lambda key: redis.zrange(key, 0, -1),
        }
        for key in redis.scan_iter(count=1000):
            content = readers[redis.type(key)](key)
            found += [key, _joined(content), redis.dump(key) or b""]
    assert any(key.startswith(b"sb:rep:") for key in found), "the replies must be among it"
    return b"\n".join(found)


def _joined(content: Any) -> bytes:
    if isinstance(content, bytes):
        return content
    if isinstance(content, dict):
        return b" ".join(_joined(key) + b"=" + _joined(value) for key, value in content.items())
    return b" ".join(_joined(each) for each in content) if content else b""


def files_with_canaries(folder: Path) -> list[str]:
    """The files below a folder in which a canary is, or in whose names."""
    plain = [path for path in folder.rglob("*") if path.is_file()]
    assert len(plain) > 10
    return [str(path) for path in plain if sightings(path.read_bytes()) or sightings(str(path).encode())]


async def use_everything(home: Home) -> list[str]:
    """Agents that ask rightly and wrongly, quote what they got, and flood; returns the errors that they saw."""
    errors: list[str] = []
    async with home.client("claude") as claude, home.client("codex") as codex, home.client("random-script") as script:
        names = ["openai.api_key", "anthropic.api_key"]
        for _ in range(3):
            got = await claude.get_many(names, purpose="an honest purpose")
            assert [secret.reveal() for secret in got.values()] == CANARIES
        while len({(r.worker, r.secret_name) for r in home.records() if r.outcome == "granted"}) < 4:
            await claude.get_many(names, purpose="until both workers hold both values")
        for canary in CANARIES:
            await claude.get("openai.api_key", purpose=f"I have seen {canary}, and tell")
        errors += [repr(got), str(got), f"{got['openai.api_key']!r}"]
        attempts = [
            (claude, CANARY, "as a name"),
            (claude, f"x.{CANARY}.y", "as a part of a name"),
            (script, "openai.api_key", CANARY),
            (claude, "github.read_token", ODD_CANARY),
            *[(codex, "openai.api_key", CANARY)] * 10,
        ]
        for client, name, purpose in attempts:
            try:
                await client.get(name, purpose=purpose)
            except NotGranted as error:
                errors.append(f"{type(error).__name__} {error.code} {error.__context__!r}")
    run = home.run()
    with run.connect() as redis:
        run.write(redis, b"junk", run.seal_bytes(CANARY.encode()), run.sealed("openai.api_key", token=CANARY))
        with home.redis() as broker:
            await until(lambda: not broker.xlen(keynames.requests("claude")))
    return errors


def quoted(records: list[AuditEvent]) -> set[str | None]:
    """What the audit says in place of texts that quoted a value."""
    return {text for record in records for text in (record.purpose, record.secret_name) if text and "redacted" in text}


async def test_a_value_is_nowhere_but_in_the_vault_and_the_agents_hands(
    processes: Processes, embedded_home: Home
) -> None:
    """A whole installation with a real vault and workers that log all they can, used in every way, then searched."""
    home = embedded_home
    home.write(**FILES)
    await asyncio.to_thread(command, home, "vault", "create")
    for name, canary in zip(("openai", "anthropic"), CANARIES, strict=True):
        shown = await asyncio.to_thread(command, home, "vault", "set", name, given=canary)
        assert not sightings(shown.encode())
    async with running_server(home):
        workers = [await processes.start_worker(f"worker-{number}") for number in (1, 2)]
        errors = await use_everything(home)
        held = dataset(home)
        for worker in workers:
            worker.terminate()
            assert await processes.ended(worker) == 0
        held += dataset(home)
    assert files_with_canaries(home.settings.home) == []
    assert sightings(held) == []
    # an agent sees its own words in its errors, and nothing that it did not know
    assert sightings("".join(errors).encode()) == []
    assert list((home.settings.run_dir / "valkey").rglob("*.aof")), "the append-only file must be among the files"
    assert "worker_ready" in processes.log
    assert quoted(home.records()) == {NOTE}
    home.check_audit()


# --- inside a worker ---------------------------------------------------------------------------------------------


def objects_that_show(needles: Iterable[bytes]) -> set[str]:
    """The types of ours whose repr shows a needle, over every object that is alive."""
    shown = set()
    for each in gc.get_objects():
        kind = type(each)
        if str(kind.__module__).partition(".")[0] in ("agent_sdk", "broker_worker"):
            try:
                text = repr(each).encode("utf-8", "backslashreplace")
            except AttributeError:  # it is being made at this moment
                continue
            if sightings(text, needles):
                shown.add(f"{kind.__module__}.{kind.__qualname__}")
    return shown


async def test_no_object_of_a_worker_at_work_shows_a_value_or_a_key(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked at while requests wait, while values are fetched, cached, sealed and sent: no repr tells."""
    home.write(**FILES)
    vault = FakeVault({"local://openai": CANARY.encode(), "local://anthropic": ODD_CANARY.encode()})
    keys = load_broker_keys(home.settings.keys_dir)
    secrets = [keys.identity_seed, keys.intake[0].secret, home.queue_key]
    needles = ALL | {repr(secret)[2:-1].encode() for secret in secrets} | {secret.hex().encode() for secret in secrets}
    shown: set[str] = set()
    async with home.working(vault) as process, home.client() as claude:
        send = process.worker._desk._releaser.carry_out

        def looking(*arguments: Any) -> Any:
            shown.update(objects_that_show(needles))
            return send(*arguments)

        monkeypatch.setattr(process.worker._desk._releaser, "carry_out", looking)
        vault.gate = asyncio.Event()
        waiting = asyncio.create_task(claude.get_many(["openai.api_key", "anthropic.api_key"], purpose=CANARY))
        await until(lambda: vault.calls)
        assert objects_that_show([b"openai.api_key"]), "what may be shown is found"
        shown |= objects_that_show(needles)
        vault.gate.set()
        got = await waiting
        again = await claude.get("openai.api_key")
        shown |= objects_that_show(needles)
        assert (again.reveal(), len(got)) == (CANARY, 2)
    assert shown == set()


@pytest.mark.parametrize(
    "failure",
    [RuntimeError(CANARY), ValueError(ODD_CANARY.encode()), ProviderError(FailureKind.UNKNOWN, "our own words")],
    ids=lambda error: type(error).__name__,
)
async def test_what_a_vault_says_in_an_error_is_not_repeated(
    home: Home, capsys: pytest.CaptureFixture[str], failure: Exception
) -> None:
    """Its text may be the value; log, audit and answer name the kind of error only."""
    home.write(**FILES)
    vault = FakeVault()
    vault.failure = failure
    async with home.working(vault), home.client() as claude:
        with pytest.raises(NotGranted) as caught:
            await claude.get("openai.api_key")
    written = capsys.readouterr()
    for text in (written.out, written.err, str(caught.value), repr(home.records())):
        assert not sightings(text.encode())


async def test_a_defect_in_the_worker_is_logged_without_its_text(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong with a value in hand, the worker lives on and its log does not quote it."""
    home.write(**FILES)
    monkeypatch.setattr("broker_worker.queue.claims.IDLE_MS", 200)
    async with home.working() as process, home.client() as claude:
        resume, broken = process.desk.resume, [RuntimeError(CANARY)]

        def failing(*arguments: Any) -> Any:
            if broken:
                raise broken.pop()
            return resume(*arguments)

        monkeypatch.setattr(process.desk, "resume", failing)
        assert (await claude.get("openai.api_key")).reveal() == "value of openai"
    log = "".join(capsys.readouterr())
    assert "defect" in log
    assert "RuntimeError" in log
    assert not sightings(log.encode())
