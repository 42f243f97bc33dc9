"""`run_command`: an allowed program with secrets in its environment, or in files of its own, and in nothing else."""

import asyncio
import os
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from agent_sdk.errors import InvalidRequest
from agent_sdk.mcp_server.access import Access, Ways
from agent_sdk.mcp_server.allowed_commands import AllowedCommands
from agent_sdk.mcp_server.arguments import RunCommand
from agent_sdk.mcp_server.asking import Asking
from agent_sdk.mcp_server.child import Finished, run_child
from agent_sdk.mcp_server.clipping import shown
from agent_sdk.mcp_server.held_values import HeldValues
from agent_sdk.mcp_server.results import CommandResult, ToolRefused, refused_names
from agent_sdk.references import referenced_name
from agent_sdk.secret import Secret
from agent_sdk.wire.errors import Code
from agent_sdk.wire.messages import MAX_NAMES, OwnDelivery

INHERITED: Final = (
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TERM", "TMPDIR", "SSL_CERT_FILE",
    "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
    "SYSTEMROOT", "PATHEXT", "TEMP", "TMP", "USERPROFILE", "APPDATA", "LOCALAPPDATA",
)  # fmt: skip
"""What a program gets of the server's environment; `--pass-env` adds to it. Nothing of the broker's is ever passed."""
_AT_ONCE: Final = 8
"""How many commands run at once; others wait."""


class Commands:
    """Runs allowed programs.

    Args:
        access: where secrets come from.
        held: what must not be in their output.
        allowed: which programs.
        root: the folder that they run in, or below.
        pass_env: further variables of the server's environment that they get.
        environ: the server's environment.
    """

    def __init__(
        self,
        access: Access,
        held: HeldValues,
        allowed: AllowedCommands,
        root: Path,
        pass_env: Sequence[str] = (),
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._access = access
        self._held = held
        self._allowed = allowed
        self._root = root.resolve()
        self._turn = asyncio.Semaphore(_AT_ONCE)
        kept = (*INHERITED, *pass_env)
        self._environ = {
            name: value for name, value in environ.items() if name in kept and not name.startswith("SECRET_BROKER_")
        }

    @property
    def described(self) -> str:
        """What may be run, as a model reads it; empty for nothing."""
        return self._allowed.described

    async def run(self, call: RunCommand, asking: Asking) -> CommandResult:
        """Run one command.

        Raises:
            ToolRefused: if it is not allowed, or the broker did not answer.
            RefusedNames: if a secret was not granted; nothing was started.
            InputNeeded: if the client has to be asked by the call's result.
        """
        in_env, in_files = _referenced(call.env), _referenced(call.files)
        if both := in_env.keys() & in_files.keys():
            raise InvalidRequest(f"{', '.join(sorted(both))} stands in env and in files: choose one")
        ways = _ways(in_env.values(), in_files.values())
        program, cwd = self._program(call.argv, in_env | in_files), self.place(call.cwd)
        async with self._turn:
            secrets = await self._have(ways, call, asking)
            with (
                _files({variable: secrets[name] for variable, name in in_files.items()}) as paths,
                self._access.watched(secrets.values()) as revoked,
            ):
                texts = {variable: _as_text(secrets[name]) for variable, name in in_env.items()}
                environ = self._environ | paths | texts
                stdin = call.stdin.encode("utf-8", "surrogatepass")
                finished = await run_child(program, call.argv, environ, cwd, stdin, call.timeout_seconds, revoked)
        return self._result(finished)

    async def output_of(self, argv: Sequence[str], seconds: float) -> bytes:
        """What an allowed program prints; for storing, so no model sees any of it.

        Raises:
            ToolRefused: if it is not allowed.
            InvalidRequest: if it failed.
        """
        with self._access.watched(()) as revoked:
            program = self._program(argv, {})
            finished = await run_child(program, argv, self._environ, self._root, b"", seconds, revoked)
        if finished.ended or finished.exit_code:
            how = "took too long" if finished.ended else f"left with exit code {finished.exit_code}"
            raise InvalidRequest(f"the command {how}; nothing was stored, and its output is not shown")
        return bytes(finished.stdout.data)

    def place(self, path: str) -> Path:
        """A file or folder within the server's own.

        Raises:
            InvalidRequest: if it is elsewhere, or not there.
        """
        try:
            found = (self._root / path).resolve(strict=True)
        except (OSError, ValueError, RuntimeError):
            raise InvalidRequest("there is no such file or folder within the server's own") from None
        if not found.is_relative_to(self._root):
            raise InvalidRequest("this path leads out of the server's folder")
        return found

    def _program(self, argv: Sequence[str], references: Mapping[str, str]) -> str:
        program = self._allowed.resolve(argv, references)
        if program is None:
            allowed = self._allowed.described or "none"
            raise ToolRefused(
                Code.DENIED,
                f"this command is not allowed{' with these variables' if references else ''}",
                f"allowed are: {allowed}. Do not work around it: if another one is needed, tell the user",
            )
        return program

    async def _have(self, ways: Ways, call: RunCommand, asking: Asking) -> Mapping[str, Secret]:
        obtained = await self._access.obtain(ways, call.purpose, asking, call.wait_seconds, whole=True)
        if obtained.refusals:
            raise refused_names(obtained.refusals, asking.link)
        return obtained.secrets

    def _result(self, finished: Finished) -> CommandResult:
        stdout, stdout_left = shown(bytes(finished.stdout.data), finished.stdout.total, self._held)
        stderr, stderr_left = shown(bytes(finished.stderr.data), finished.stderr.total, self._held)
        exit_code = None if finished.ended == "timeout" else finished.exit_code
        return CommandResult(exit_code, stdout, stderr, finished.ended, stdout_left + stderr_left)


def _referenced(references: Mapping[str, str]) -> dict[str, str]:
    """The names that variables refer to."""
    names = {}
    for variable, reference in references.items():
        name = referenced_name(reference)
        if name is None:
            raise InvalidRequest(f"{variable} must be a reference, such as secret://github.read_token")
        names[variable] = name
    return names


def _ways(in_env: Collection[str], in_files: Collection[str]) -> Ways:
    """How each value reaches the command; one that is wanted in both ways is asked for once, for both."""
    ways: dict[str, OwnDelivery] = {name: "env,file" if name in in_files else "env" for name in in_env}
    ways |= {name: "file" for name in in_files if name not in in_env}
    if len(ways) > MAX_NAMES:
        raise InvalidRequest(f"a command has at most {MAX_NAMES} secrets; got {len(ways)}")
    return ways


def _as_text(secret: Secret) -> str:
    text = os.fsdecode(secret.reveal_bytes())
    if "\0" in text:
        raise InvalidRequest(f"{secret.name} holds a zero byte, so it cannot stand in a variable: use files")
    return text


@contextmanager
def _files(secrets: Mapping[str, Secret]) -> Iterator[dict[str, str]]:
    """Each secret in a file of its own, that only this user can read and that is gone afterwards."""
    if not secrets:
        yield {}
        return
    memory = os.environ.get("XDG_RUNTIME_DIR")  # where there is one, it is no disk
    with tempfile.TemporaryDirectory(prefix="secret-agent-", dir=memory) as folder:
        paths = {}
        for variable, secret in secrets.items():
            path = Path(folder) / variable
            path.touch(mode=0o600)
            path.write_bytes(secret.reveal_bytes())
            paths[variable] = str(path)
        yield paths
