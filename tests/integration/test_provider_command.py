"""Programs as a vault: the contract, on real processes; and all that a program, or a name for it, can do wrong."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import uvloop
from desk_workbench import until
from provider_conformance import BINARY, CANARY, MAX_VALUE, ProviderConformance, Subject, everything_said, failure_of
from structlog.testing import capture_logs
from vault_workbench import StateNotebook, hardened

from broker_worker.core.commands import Command
from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.core.vault_state import FAILURES_TO_OPEN
from broker_worker.ports import Fetched
from broker_worker.providers.command import CONCURRENCY, CommandProvider
from broker_worker.providers.command_breakers import CommandBreakers
from broker_worker.providers.governor import NotAskedError
from broker_worker.providers.resilient import ResilientProvider

ENVIRON = {"PATH": os.environ["PATH"], "HOME": "/home/broker", "TOKEN": f"{CANARY}-token", "OTHER": f"{CANARY}-other"}
COUNT = 500
MakeScript = Callable[[str], str]


@pytest.fixture
def script(tmp_path: Path) -> MakeScript:
    """Makes an executable script and gives its path."""
    made: list[Path] = []

    def make(text: str) -> str:
        path = tmp_path / f"program-{len(made)}"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o700)
        made.append(path)
        return str(path)

    return make


def provider_of(*argv: str, environ: Mapping[str, str] = ENVIRON, **settings: object) -> CommandProvider:
    """A provider with one command, `it`."""
    return CommandProvider({"it": Command(argv, **settings)}, environ)  # type: ignore[arg-type]  # of any setting


async def answer_of(provider: CommandProvider, ref: str = "exec://it") -> Fetched | ProviderError:
    """What one reference is answered with, whether returned or raised; nothing of it shows a value."""
    try:
        answer = (await provider.get_many([ref]))[ref]
    except ProviderError as error:
        answer = error
    assert CANARY not in everything_said(answer)
    return answer


async def kind_of(provider: CommandProvider, ref: str = "exec://it") -> FailureKind:
    """Why there is no value."""
    answer = await answer_of(provider, ref)
    assert isinstance(answer, ProviderError)
    assert answer.hint
    return answer.kind


def processes_of(marker: str) -> list[int]:
    """The processes with a word among their arguments."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                arguments = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:  # it has ended meanwhile
                continue
            if marker.encode() in arguments:
                found.append(int(folder.name))
    return found


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 503 files."""
    folder = tmp_path_factory.mktemp("stored")
    values = {f"entry-{i}": f"{CANARY}-{i}".encode() for i in range(COUNT)}
    values |= {"largest": b"x" * MAX_VALUE + b"\n", "larger": b"x" * (MAX_VALUE + 1), "binary": BINARY}
    for name, value in values.items():
        (folder / name).write_bytes(value)
    return folder


class TestCommand(ProviderConformance):
    """`cat` as the program, and a file for each name."""

    @pytest.fixture
    async def subject(self, stored: Path, tmp_path: Path) -> AsyncIterator[Subject]:
        """A provider over a folder with 503 files, named from the root on."""
        where = f"exec://cat{stored}"
        program = tmp_path / "cat"
        program.symlink_to("/bin/cat")
        provider = CommandProvider({"cat": Command((str(program), "{name}"), not_found_exit=1)}, ENVIRON)
        yield Subject(
            provider,
            {f"{where}/entry-{i}": f"{CANARY}-{i}".encode() for i in range(COUNT)},
            unknown=f"{where}/nothing",
            malformed=(
                "exec://",
                "exec://cat",
                "exec://cat/",
                "exec://other/x",
                "exec://CAT/x",
                "exec://cat/-x",
                "cat",
            ),
            largest=f"{where}/largest",
            too_large=f"{where}/larger",
            binary=f"{where}/binary",
            break_vault=program.unlink,
        )
        await provider.close()


@pytest.mark.parametrize(
    ("printed", "keep", "value"),
    [("x", False, b"x"), ("x\\n", False, b"x"), ("x\\n\\n", False, b"x\n"), ("x\\n", True, b"x\n"), (" ", False, b" ")],
)
async def test_one_line_feed_at_the_end_is_dropped(printed: str, keep: bool, value: bytes) -> None:
    """And nothing else; `keep_newline` keeps it."""
    assert await answer_of(provider_of("printf", printed, keep_newline=keep)) == Fetched(value)


@pytest.mark.parametrize("printed", ["", "\\n"])
async def test_nothing_printed_is_no_value(printed: str) -> None:
    """An empty value is never served."""
    assert await kind_of(provider_of("printf", printed)) is FailureKind.NOT_FOUND


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        (f"echo {CANARY}; echo {CANARY} >&2; exit 3", FailureKind.UNKNOWN, "exit code 3; its 14 bytes of messages"),
        ("exit 4", FailureKind.NOT_FOUND, "there is no such secret"),
        ("kill -9 $$", FailureKind.UNKNOWN, "by signal 9"),
        ("exit 127", FailureKind.UNKNOWN, "exit code 127"),
    ],
)
async def test_an_exit_code_says_no(script: MakeScript, text: str, kind: FailureKind, says: str) -> None:
    """Whatever was printed; only the code that the operator names means that there is no such secret."""
    answer = await answer_of(provider_of(script(text), not_found_exit=4))
    assert isinstance(answer, ProviderError)
    assert answer.kind is kind
    assert says in str(answer)


async def test_messages_do_not_spoil_a_value(script: MakeScript) -> None:
    """What a program that succeeds writes to standard error, however much, is read and dropped."""
    noisy = script(f"head -c 300000 /dev/zero >&2; echo {CANARY}")
    assert await answer_of(provider_of(noisy)) == Fetched(CANARY.encode())


async def test_output_without_an_end_is_cut_off(script: MakeScript) -> None:
    """The program is ended as soon as it printed too much, not at its deadline."""
    async with asyncio.timeout(45):
        assert await kind_of(provider_of(script("exec cat /dev/zero"), timeout_seconds=90)) is FailureKind.TOO_LARGE


async def test_a_program_that_hangs_is_ended_with_all_that_it_started(script: MakeScript) -> None:
    """Also where it ended itself and left a child behind that holds its output open."""
    texts = ("sleep 4711 & exec sleep 4711", "sleep 4711 & exit 0", "trap '' TERM; sleep 4711")
    kinds = await asyncio.gather(*(kind_of(provider_of(script(text), timeout_seconds=1)) for text in texts))
    assert kinds == [FailureKind.TIMEOUT] * len(texts)
    await until(lambda: not processes_of("4711"))


async def test_cancelling_ends_the_program(script: MakeScript) -> None:
    """With all that it started, whether it runs or waits for its turn."""
    provider = provider_of(script("sleep 4712 & exec sleep 4712"))
    call = asyncio.create_task(provider.get_many(["exec://it"]))
    await until(lambda: len(processes_of("4712")) == 2)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert call.cancelled()
    await until(lambda: not processes_of("4712"))


async def test_few_programs_run_at_once(script: MakeScript, tmp_path: Path) -> None:
    """A command has four turns; another command does not wait for them."""
    slow = script("exec sleep 4713")
    commands = {"slow": Command((slow, "{name}"), timeout_seconds=10), "quick": Command(("printf", "x"))}
    provider = CommandProvider(commands, ENVIRON)
    call = asyncio.create_task(provider.get_many([f"exec://slow/n{i}" for i in range(3 * CONCURRENCY)]))
    await until(lambda: len(processes_of("4713")) == CONCURRENCY)
    assert await answer_of(provider, "exec://quick") == Fetched(b"x")
    assert len(processes_of("4713")) == CONCURRENCY
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)


async def test_waiting_for_a_turn_counts(script: MakeScript) -> None:
    """So a slow command delays a call by no more than its own time, and what came in time is served."""
    provider = CommandProvider({"it": Command((script('sleep "$1"; echo x'), "{name}"), timeout_seconds=2)}, ENVIRON)
    refs = [
        *(f"exec://it/4{i}" for i in range(CONCURRENCY - 1)),
        "exec://it/0",
        "exec://it/0.0",
        "exec://it/50",
        "exec://it/51",
    ]
    async with asyncio.timeout(30):
        answers = await provider.get_many(refs)
    served = [ref for ref in refs if isinstance(answers[ref], Fetched)]
    assert served == ["exec://it/0", "exec://it/0.0"]


@pytest.mark.parametrize("program", ["no-such-program-here", "/nowhere/program", "text", "/tmp"])
async def test_a_program_that_is_not_there_is_a_health_problem(program: str, tmp_path: Path) -> None:
    """It is missing, no program, or a folder: the provider says so, and the vault as a whole fails."""
    (tmp_path / "text").touch(0o600)
    provider = provider_of(str(tmp_path / program) if program == "text" else program)
    health = await provider.health()
    assert not health.ok
    assert "command it" in health.detail
    error = await failure_of(provider.get_many(["exec://it"]))
    assert error.kind is FailureKind.UNREACHABLE


@pytest.mark.parametrize("text", ["#!/nowhere/interpreter\n", "no program\n"])
async def test_a_program_that_cannot_be_started_says_why(text: str, tmp_path: Path) -> None:
    """It looked like one until it was run."""
    program = tmp_path / "program"
    program.write_text(text)
    program.chmod(0o700)
    error = await failure_of(provider_of(str(program)).get_many(["exec://it"]))
    assert error.kind is FailureKind.UNREACHABLE
    assert "command it cannot be started: " in str(error)
    assert str(tmp_path) not in everything_said(error)


async def test_a_missing_program_costs_other_commands_nothing() -> None:
    """Each reference gets the answer of its own command."""
    provider = CommandProvider({"gone": Command(("no-such-program",)), "it": Command(("printf", "x"))}, ENVIRON)
    answers = await provider.get_many(["exec://gone", "exec://it"])
    assert answers["exec://it"] == Fetched(b"x")
    assert isinstance(answers["exec://gone"], ProviderError)


@pytest.mark.parametrize("path", [".", ""])
async def test_programs_are_looked_up_in_absolute_folders_only(
    path: str, tmp_path: Path, script: MakeScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder in which the broker happens to stand is no place for programs."""
    monkeypatch.chdir(tmp_path)
    program = Path(script("echo x"))
    assert await kind_of(provider_of(program.name, environ={"PATH": path})) is FailureKind.UNREACHABLE
    found = provider_of(program.name, environ={"PATH": f"{path}{os.pathsep}{tmp_path}"})
    assert await answer_of(found) == Fetched(b"x")


async def test_a_program_gets_of_the_environment_what_is_named() -> None:
    """`PATH`, `HOME`, `LANG` and the variables of its command; nothing that the broker has beside."""
    answer = (await provider_of("env", env=("TOKEN", "UNSET")).get_many(["exec://it"]))["exec://it"]
    assert isinstance(answer, Fetched)
    found = dict(line.split("=", 1) for line in answer.value.decode().splitlines())
    assert found == {"PATH": ENVIRON["PATH"], "HOME": "/home/broker", "LANG": "C.UTF-8", "TOKEN": f"{CANARY}-token"}


async def test_a_program_has_nothing_to_read_and_no_files_of_the_broker(script: MakeScript) -> None:
    """Its standard input is empty, it stands in the root folder, and only its three streams are open."""
    answer = await answer_of(provider_of(script("cat; pwd; ls /proc/$$/fd | tr '\\n' ' '")))
    assert isinstance(answer, Fetched)
    where, open_files = answer.value.decode().splitlines()
    assert where == "/"
    assert set(open_files.split()) <= {"0", "1", "2", "10"}, "10 is the script that the shell itself reads"


BAD_NAMES = (
    "a b",
    "a;id",
    "$(id)",
    "`id`",
    "a\nb",
    "--flag",
    "-x",
    "a/-x",
    "../x",
    "a/../b",
    "a/./b",
    ".hidden",
    "/etc/passwd",
    "a//b",
    "a/",
    "@file",
    "a=b",
    "a'b",
    'a"b',
    "a\\b",
    "a|b",
    "a&b",
    "a>b",
    "~root",
    "a*",
    "a%00b",
    "a\x00b",
    "é",
    "op://-x",
    "op://a//b",
    "",
)


@pytest.mark.parametrize("name", BAD_NAMES)
async def test_a_name_that_is_not_plain_starts_nothing(name: str, script: MakeScript, tmp_path: Path) -> None:
    """No shell, no option, no path upwards; refused before a program is started, and not repeated."""
    provider = provider_of(script(f"touch {tmp_path}/started; echo x"), "{name}")
    answer = await answer_of(provider, f"exec://it/{name}")
    assert isinstance(answer, ProviderError)
    assert answer.kind is FailureKind.BAD_REFERENCE
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize(
    "name", ["x", "Team/GitHub", "op://Agents/OpenAI/credential", "user@host", "a:b:c", "v1.2_x+y"]
)
async def test_a_name_is_one_argument(name: str, script: MakeScript) -> None:
    """As it stands in the reference, in its own place, whatever else there is."""
    provider = provider_of(script('printf "%s|" "$@"'), "get", "{name}", "--raw", "{.data}")
    assert await answer_of(provider, f"exec://it/{name}") == Fetched(f"get|{name}|--raw|{{.data}}|".encode())


async def test_a_value_is_stored_by_standard_input(script: MakeScript, tmp_path: Path) -> None:
    """Never as an argument; of any size; and the program says whether that worked."""
    read, put = script(f"exec cat {tmp_path}/$1"), script(f"exec cat >{tmp_path}/$1")
    provider = provider_of(read, "{name}", put_argv=(put, "{name}"))
    value = os.urandom(MAX_VALUE - len(CANARY)) + CANARY.encode()
    assert await provider.put("exec://it/new", value) is None
    assert await answer_of(provider, "exec://it/new") == Fetched(value)


@pytest.mark.parametrize(
    ("text", "stored"), [("exit 0", True), ("exec <&-; sleep 0.05", True), ("cat >&2; exit 1", False)]
)
async def test_a_program_that_does_not_read_the_value_decides_by_its_exit_code(
    script: MakeScript, caplog: pytest.LogCaptureFixture, text: str, stored: bool
) -> None:
    """A pipe that nobody reads is no failure of ours; what a failing program says of the value is not repeated."""
    provider = provider_of("true", put_argv=(script(text),))
    value = CANARY.encode() * 10_000
    if stored:
        assert await provider.put("exec://it", value) is None
    else:
        error = await failure_of(provider.put("exec://it", value))
        assert error.kind is FailureKind.UNKNOWN
        assert CANARY not in everything_said(error)
    assert caplog.text == ""


async def test_a_command_that_only_creates_says_so_by_its_exit_code(script: MakeScript, tmp_path: Path) -> None:
    """Create-only needs a command of its own: the first of two wins, and an expected version is never there."""
    create = script(f"set -C; cat >{tmp_path}/$1 || exit 17")
    provider = provider_of("cat", "{name}", create_argv=(create, "{name}"), exists_exit=17)
    assert await provider.put("exec://it/new", b"first", expected="") is None
    for expected in ("", "1"):
        error = await failure_of(provider.put("exec://it/new", b"second", expected=expected))
        assert error.kind is FailureKind.CONFLICT
    assert (tmp_path / "new").read_bytes() == b"first"
    assert (await failure_of(provider.put("exec://it/new", b"third"))).kind is FailureKind.READ_ONLY


def open_files_and_children() -> tuple[int, set[str]]:
    """How many files this process has open, and its children, those among them that ended and were not reaped."""
    children = {
        child for task in Path("/proc/self/task").iterdir() for child in (task / "children").read_text().split()
    }
    return sum(1 for _ in Path("/proc/self/fd").iterdir()), children


async def test_what_ended_is_reaped_and_closed(script: MakeScript) -> None:
    """Neither processes nor open pipes pile up, whichever way a run ends."""
    before = open_files_and_children()
    slow = provider_of(script("exec sleep 4714"), timeout_seconds=1)
    for provider in (provider_of("printf", "x"), provider_of("false"), provider_of("no-such"), slow):
        await asyncio.gather(*(answer_of(provider) for _ in range(5)))
    assert open_files_and_children() == before


def test_on_the_loop_of_a_worker(script: MakeScript) -> None:
    """uvloop does the same: values, deadlines, stored values."""

    async def use() -> None:
        assert await answer_of(provider_of("printf", "x")) == Fetched(b"x")
        assert await kind_of(provider_of(script("sleep 4715 & sleep 4715"), timeout_seconds=1)) is FailureKind.TIMEOUT
        assert (
            await provider_of("true", put_argv=(script("exec cat >/dev/null"),)).put("exec://it", b"x" * MAX_VALUE)
            is None
        )
        await until(lambda: not processes_of("4715"))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(use())


class Turnable:
    """A clock that stands still until it is turned."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def of_commands(clock: Turnable, **commands: Command) -> ResilientProvider:
    """A provider as the broker wraps it."""
    return hardened(CommandProvider(commands, ENVIRON, clock))


async def failed(provider: ResilientProvider, ref: str) -> ProviderError:
    """Why there is no value."""
    try:
        answer = (await provider.get_many([ref]))[ref]
    except ProviderError as error:
        answer = error
    assert isinstance(answer, ProviderError)
    return answer


async def test_a_command_that_cannot_be_started_stops_no_other() -> None:
    """It is left alone for longer and longer, and says for how long; the others are run as before."""
    clock, states = Turnable(), StateNotebook()
    inner = CommandProvider({"gone": Command(("no-such",)), "it": Command(("printf", "x"))}, ENVIRON, clock)
    provider = hardened(inner, states)
    while (waiting := await failed(provider, "exec://gone")).retry_after is None:
        assert waiting.kind is FailureKind.UNREACHABLE
    for wait in (1, 2, 4, 8, 16, 32, 60, 60):
        assert (await failed(provider, "exec://gone")).retry_after == wait * 1_000
        clock.now += wait
        assert "is missing" in str(await failed(provider, "exec://gone"))  # it was tried
    assert (await provider.get_many(["exec://it"]))["exec://it"] == Fetched(b"x")
    assert states.breaker("exec") == "closed"


async def test_a_command_that_hangs_stops_no_other(script: MakeScript) -> None:
    """Also where both are asked for together, time after time."""
    clock = Turnable()
    slow = Command((script("sleep 4716"),), timeout_seconds=1)
    provider = CommandProvider({"slow": slow, "it": Command(("printf", "x"))}, ENVIRON, clock)
    refs = [f"exec://{name}" for name in ("slow", "it")]
    answers = await provider.get_many(refs)
    assert answers["exec://it"] == Fetched(b"x")
    breakers = CommandBreakers(clock)
    for _ in range(FAILURES_TO_OPEN):
        breakers.check("slow", "exec://slow/a")
        breakers.note("slow", "exec://slow/a", answers["exec://slow"])
    with pytest.raises(NotAskedError, match="command slow did not end within 1 s, and was ended; it is not run again"):
        breakers.check("slow", "exec://slow/b")
    breakers.check("it", "exec://it")


async def test_a_command_that_always_fails_is_told_once_and_run_rarely(script: MakeScript, tmp_path: Path) -> None:
    """The log has a line when it begins and when it ends, and no word of the program's; another name is served."""
    fails = script(f"echo run >>{tmp_path}/runs; [ -e {tmp_path}/$1 ] && echo x || {{ echo {CANARY} >&2; exit 3; }}")
    clock = Turnable()
    (tmp_path / "there").touch()
    provider = of_commands(clock, it=Command((fails, "{name}")))
    with capture_logs() as log:
        for _ in range(FAILURES_TO_OPEN + 3):
            error = await failed(provider, "exec://it/gone")
        assert error.retry_after == 1_000
        assert (tmp_path / "runs").read_text().count("run") == FAILURES_TO_OPEN
        assert (await provider.get_many(["exec://it/there"]))["exec://it/there"] == Fetched(b"x")
        clock.now += 1
        (tmp_path / "gone").touch()
        assert (await provider.get_many(["exec://it/gone"]))["exec://it/gone"] == Fetched(b"x")
    assert [(line["event"], line["command"]) for line in log] == [
        ("command_failed", "it"),
        ("command_serves_again", "it"),
    ]
    assert CANARY not in str(log)
    assert "exit code 3" in log[0]["error"]


async def test_a_store_that_fails_does_not_stop_reading(script: MakeScript) -> None:
    """They are two programs; a failed write is not counted against the others either."""
    states = StateNotebook()
    command = Command(("printf", "x"), put_argv=(script("exit 2"),))
    provider = hardened(CommandProvider({"it": command}, ENVIRON, Turnable()), states)
    for _ in range(2 * FAILURES_TO_OPEN):
        error = await failure_of(provider.put("exec://it", b"v"))
    assert (error.kind, error.retry_after) == (FailureKind.UNKNOWN, 1_000)
    assert (await provider.get_many(["exec://it"]))["exec://it"] == Fetched(b"x")
    assert states.breaker("exec") == "closed"


async def test_exit_codes_that_would_be_lost_are_no_success() -> None:
    """Where whoever started the broker ignores SIGCHLD, nothing is run: a failure could not be told from a success."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert await kind_of(provider_of("printf", "x")) is FailureKind.UNREACHABLE
    finally:
        signal.signal(signal.SIGCHLD, before)
