"""Commands in trouble: each is left alone for itself, and stops no other."""

from pathlib import Path

import pytest
from command_workbench import ENVIRON, MakeScript
from provider_conformance import CANARY, failure_of
from structlog.testing import capture_logs
from vault_workbench import StateNotebook, hardened

from broker_worker.core.commands import Command
from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.core.vault_state import FAILURES_TO_OPEN
from broker_worker.ports import Fetched
from broker_worker.providers.command import CommandProvider
from broker_worker.providers.command_breakers import CommandBreakers
from broker_worker.providers.governor import NotAskedError
from broker_worker.providers.resilient import ResilientProvider


async def test_a_missing_program_costs_other_commands_nothing() -> None:
    """Each reference gets the answer of its own command."""
    provider = CommandProvider({"gone": Command(("no-such-program",)), "it": Command(("printf", "x"))}, ENVIRON)
    answers = await provider.get_many(["exec://gone", "exec://it"])
    assert answers["exec://it"] == Fetched(b"x")
    assert isinstance(answers["exec://gone"], ProviderError)


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
