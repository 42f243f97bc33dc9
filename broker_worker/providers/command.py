"""Programs of the operator's as a provider: what one prints is the value. `exec://command` or `exec://command/name`."""

import asyncio
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from agent_sdk.wire.messages import MAX_VALUE
from broker_worker.core.commands import Command, command_and_name, filled
from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.ports import Fetched, Health
from broker_worker.providers.command_breakers import CommandBreakers
from broker_worker.providers.command_process import Finished, run
from broker_worker.providers.reference import place_of

SCHEME: Final = "exec"
CONCURRENCY: Final = 4
"""Programs that run at once, per command."""
_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
_BY_HAND: Final = "run it by hand as the broker's user, with the environment that broker.yaml gives it"


class CommandProvider:
    """Runs the operator's commands.

    Args:
        commands: by the name that references use.
        environ: the broker's environment. Programs are looked up on its `PATH` now, in absolute folders; of the rest
            they get what their command names.
        monotonic: a clock in seconds that never goes back.
    """

    def __init__(
        self,
        commands: Mapping[str, Command],
        environ: Mapping[str, str],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        path = os.pathsep.join(
            folder for folder in environ.get("PATH", _PATH).split(os.pathsep) if Path(folder).is_absolute()
        )
        programs = {argv[0] for command in commands.values() for argv in _all_of(command)}
        self._commands = commands
        self._programs = {program: _found(program, path) for program in programs}
        self._environs = {
            name: {key: environ[key] for key in ("HOME", *command.env) if key in environ}
            | {"PATH": path, "LANG": "C.UTF-8"}
            for name, command in commands.items()
        }
        self._breakers = CommandBreakers(monotonic)
        self._turns = {name: asyncio.Semaphore(CONCURRENCY) for name in commands}
        self._closed = False

    @property
    def name(self) -> str:
        """`exec`."""
        return SCHEME

    @property
    def leaves_failing_parts_alone(self) -> bool:
        """Yes, command by command; see `ports.PartedProvider`."""
        return True

    async def get_many(self, refs: Sequence[str]) -> Mapping[str, Fetched | ProviderError]:
        """Run a command for each reference; see `ports.Provider.get_many`. Programs tell no versions."""
        async with asyncio.TaskGroup() as group:  # when it is cancelled, it waits until all programs have ended
            tasks = {ref: group.create_task(self._get(ref)) for ref in refs}
        answers = {ref: task.result() for ref, task in tasks.items()}
        failures = [answer for answer in answers.values() if isinstance(answer, ProviderError)]
        if failures and len(failures) == len(answers) and {each.kind for each in failures} == {FailureKind.UNREACHABLE}:
            raise failures[0]
        return answers

    async def put(self, ref: str, value: bytes, *, expected: str | None = None) -> str | None:
        """Run the command that stores, with the value on its standard input; see `ports.Provider.put`."""
        called, command, name = self._meant(ref)
        if expected:
            raise ProviderError(
                FailureKind.CONFLICT, f"command {called} tells no versions, so none can be expected", hint="expect none"
            )
        key, argv = ("put_argv", command.put_argv) if expected is None else ("create_argv", command.create_argv)
        if not argv:
            raise ProviderError(
                FailureKind.READ_ONLY, f"command {called} has no {key}", hint=f"write {key} in broker.yaml"
            )
        self._breakers.check(called, f"{ref} {key}")
        outcome = await self._ended(called, filled(argv, name), value)
        failure = outcome if isinstance(outcome, ProviderError) else None
        if isinstance(outcome, Finished) and outcome.exit_code:
            failure = _failure(called, outcome)
            if expected == "" and outcome.exit_code == command.exists_exit:
                failure = ProviderError(FailureKind.CONFLICT, f"command {called} says that there is one already")
        self._breakers.note(called, f"{ref} {key}", failure)
        if failure is not None:
            raise failure
        return None

    async def health(self) -> Health:
        """Whether all programs are there; see `ports.Provider.health`. None is run."""
        if self._closed:
            return Health(False, "the provider was closed", "restart the broker")
        for called, command in self._commands.items():
            for argv in _all_of(command):
                path = self._programs[argv[0]]
                if path is None or not _is_program(path):
                    return Health(False, *_missing(called))
        return Health(True, f"the programs are there; commands: {', '.join(self._commands)}")

    async def close(self) -> None:
        """Forget the environment, and run nothing more; see `ports.Provider.close`."""
        self._closed = True
        self._environs = {}

    async def _get(self, ref: str) -> Fetched | ProviderError:
        try:
            called, command, name = self._meant(ref)
            self._breakers.check(called, ref)
            answer = await self._printed(called, command, name)
        except ProviderError as error:
            return error
        self._breakers.note(called, ref, answer)
        return answer

    async def _printed(self, called: str, command: Command, name: str | None) -> Fetched | ProviderError:
        """What a command printed, or why that is no value."""
        done = await self._ended(called, filled(command.argv, name))
        if isinstance(done, ProviderError):
            return done
        value = done.output if command.keep_newline else done.output.removesuffix(b"\n")
        if len(value) > MAX_VALUE:
            message = f"command {called} printed more than {MAX_VALUE} bytes"
            return ProviderError(FailureKind.TOO_LARGE, message, hint=_BY_HAND)
        if done.exit_code != 0 and done.exit_code == command.not_found_exit:
            message = f"command {called} says that there is no such secret"
            return ProviderError(FailureKind.NOT_FOUND, message, hint="is the name in secrets.yaml right?")
        if done.exit_code != 0:
            return _failure(called, done)
        if not value:
            return ProviderError(FailureKind.NOT_FOUND, f"command {called} printed nothing", hint=_BY_HAND)
        return Fetched(value)

    async def _ended(self, called: str, argv: Sequence[str], stdin: bytes | None = None) -> Finished | ProviderError:
        try:
            return await self._run(called, argv, stdin)
        except ProviderError as error:
            return error

    def _meant(self, ref: str) -> tuple[str, Command, str | None]:
        """The command and the name of a reference.

        Raises:
            ProviderError: kind `BAD_REFERENCE`.
        """
        called, name = command_and_name(place_of(ref, SCHEME))
        command = self._commands.get(called)
        if command is None or command.takes_name != (name is not None):
            message = "there is no such command" if command is None else "its name is missing, or not meant to be there"
            raise ProviderError(FailureKind.BAD_REFERENCE, message, hint="compare secrets.yaml with broker.yaml")
        return called, command, name

    async def _run(self, called: str, argv: Sequence[str], stdin: bytes | None = None) -> Finished:
        """Run a program within its command's time.

        Raises:
            ProviderError: kind `UNREACHABLE` if it cannot be started, `TIMEOUT` if it took too long.
        """
        program = self._programs[argv[0]]
        if self._closed or program is None:
            message, hint = ("the provider was closed", "") if self._closed else _missing(called)
            raise ProviderError(FailureKind.UNREACHABLE, message, hint=hint)
        timeout = self._commands[called].timeout_seconds
        try:
            async with asyncio.timeout(timeout), self._turns[called]:
                return await run([program, *argv[1:]], self._environs[called], MAX_VALUE + 1, stdin)
        except TimeoutError:
            message = f"command {called} did not end within {timeout} s, and was ended"
            failure = ProviderError(FailureKind.TIMEOUT, message, hint=f"does it wait for somebody? {_BY_HAND}")
        except OSError as error:
            message = f"command {called} cannot be started: {error.strerror}"
            failure = ProviderError(FailureKind.UNREACHABLE, message, hint=_BY_HAND)
        raise failure


def _all_of(command: Command) -> list[tuple[str, ...]]:
    return [argv for argv in (command.argv, command.put_argv, command.create_argv) if argv]


def _found(program: str, path: str) -> str | None:
    return program if Path(program).is_absolute() else shutil.which(program, path=path)


def _is_program(path: str) -> bool:
    return Path(path).is_file() and os.access(path, os.X_OK)


def _missing(called: str) -> tuple[str, str]:
    return (
        f"a program of command {called} is missing or cannot be run",
        "install it, write its absolute path in broker.yaml, or correct the broker's PATH; then restart the broker",
    )


def _failure(called: str, done: Finished) -> ProviderError:
    how = f"with exit code {done.exit_code}" if done.exit_code > 0 else f"by signal {-done.exit_code}"
    message = f"command {called} ended {how}; its {done.messages} bytes of messages are not shown"
    return ProviderError(FailureKind.UNKNOWN, message, hint=_BY_HAND)
