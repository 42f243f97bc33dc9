"""`secret-agent run`: a command with its secrets, and nothing of them in what it writes."""

import errno
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import click

from agent_sdk.cli.asking import PURPOSE, TIMEOUT
from agent_sdk.client import AsyncSecretBroker
from agent_sdk.credential import DESCRIPTOR_VARIABLE, FILE_VARIABLE, RunCredential
from agent_sdk.errors import InvalidRequest, NotGranted
from agent_sdk.run.environment import CREDENTIAL_VARIABLES, Environment, read_environment
from agent_sdk.wire.errors import Code, SecretBrokerError
from agent_sdk.wire.messages import MAX_NAMES, Notice

_FIRST_DESCRIPTOR = 3


class NotStartedError(SecretBrokerError):
    """A value was refused, so nothing was started.

    Args:
        error: what was refused.
        hint: what to do; empty for what helps in general.
    """

    def __init__(self, error: NotGranted, hint: str) -> None:
        super().__init__(f"nothing was started: {error} [{error.code}]", code=error.code)
        self.hint = hint


def _on_revoke(_ctx: click.Context, _param: click.Parameter, text: str) -> str:
    """What a command is told: `end`, `ignore` or a signal (click's callback)."""
    word = text.lower()
    if word in ("end", "ignore"):
        return word
    name = f"SIG{text.upper().removeprefix('SIG')}"
    if name not in signal.Signals.__members__:
        raise click.BadParameter("expected end, ignore or a signal such as TERM, HUP or USR1")
    return name


@click.command(
    context_settings={"allow_interspersed_args": False},
    epilog="Exit code: the command's own, or its signal; 126 if it cannot be executed, 127 if it was not found; "
    "1, 2 and 7 of our own: nothing was started.",
)
@click.option(
    "--env-file",
    "env_files",
    metavar="FILE",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Variables from a file of NAME=value lines; may be repeated, a later one wins.",
)
@click.option("--env", "variables", metavar="NAME=secret://…", multiple=True, help="A variable with a secret's value.")
@click.option(
    "--file",
    "files",
    metavar="NAME=secret://…",
    multiple=True,
    help="A variable with the path of a file with the value.",
)
@PURPOSE
@TIMEOUT
@click.option("--no-masking", is_flag=True, help="Leave the command our own streams: nothing it writes is masked.")
@click.option(
    "--on-revoke",
    metavar="SIGNAL|end|ignore",
    default="end",
    show_default=True,
    callback=_on_revoke,
    help="What the command is told when a value is taken back; end: SIGTERM, and SIGKILL after 10 s.",
)
@click.option("--keep-credential", is_flag=True, help="Let the command ask the broker itself, as this run.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def run(
    ctx: click.Context,
    env_files: Sequence[Path],
    variables: Sequence[str],
    files: Sequence[str],
    purpose: str,
    timeout: float,
    no_masking: bool,
    on_revoke: str,
    keep_credential: bool,
    command: Sequence[str],
) -> None:
    """Start COMMAND with values where its environment has references: `secret-agent run --env-file .env -- npm start`.

    A reference, secret://NAME, in the environment, in an env file or in --env becomes the value, in the command's
    environment only. Values are masked in what the command writes. If one is refused, nothing is started.
    """
    if sys.platform == "win32":
        raise click.UsageError("`run` needs descriptors, signals and terminals of POSIX: use the SDK on Windows", ctx)
    if not command:
        raise click.UsageError("say what to start: secret-agent run [OPTIONS] -- COMMAND", ctx)
    environment = read_environment(os.environ, env_files, variables, files)
    if len(environment.wanted) > MAX_NAMES:
        raise InvalidRequest(f"a command can be given {MAX_NAMES} secrets; found {len(environment.wanted)}")
    if not environment.wanted:
        _become(command, environment, keep_credential=keep_credential)
    status = _supervised(
        command, environment, purpose, timeout, masked=not no_masking, on_revoke=on_revoke, keep=keep_credential
    )
    _leave(status)


def _supervised(
    command: Sequence[str],
    environment: Environment,
    purpose: str,
    timeout: float,
    *,
    masked: bool,
    on_revoke: str,
    keep: bool,
) -> int:
    from agent_sdk.run.supervision import Order, supervise  # noqa: PLC0415  # needs POSIX

    path = os.environ.get(FILE_VARIABLE)
    credential = RunCredential.load()
    extra = _handed_on(credential, path) if keep else {}

    def connect(on_notice: Callable[[Notice], None]) -> AsyncSecretBroker:
        return AsyncSecretBroker(credential, on_notice=on_notice)

    told = on_revoke if on_revoke in ("end", "ignore") else signal.Signals[on_revoke]
    order = Order(command, environment, purpose, timeout, masked, told, extra)  # type: ignore[arg-type]  # checked above
    try:
        return supervise(order, connect)
    except InvalidRequest:
        raise
    except NotGranted as error:
        raise NotStartedError(error, _why(error, credential, environment, purpose)) from None


def _why(error: NotGranted, credential: RunCredential, environment: Environment, purpose: str) -> str:
    """How to learn why a name is refused in the way that the command wants it: agents are told only that it is."""
    denied = next((refusal.name for refusal in error.refusals if refusal.code == Code.DENIED), None)
    if denied is None:
        return ""
    asked = [f"--agent {credential.agent_id}", f"--run {credential.run_id}", f"--secret {denied}"]
    asked += [f"--deliver {environment.wanted[denied]}", *([f"--purpose {shlex.quote(purpose)}"] if purpose else [])]
    return (
        "`secret-agent list` shows what this run may ask for, and how; "
        f"why: `secret-broker policy explain {' '.join(asked)}` on the broker's host"
    )


def _handed_on(credential: RunCredential, path: str | None) -> dict[str, str]:
    """The variable by which the command finds the credential: the same file, or a descriptor that can be read once."""
    if path is not None:
        return {FILE_VARIABLE: path}
    import fcntl  # noqa: PLC0415  # exists on POSIX only

    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    os.write(writing, credential.to_json().encode())  # fits: a pipe holds 64 KiB, and a credential at most that
    os.close(writing)
    inherited = fcntl.fcntl(reading, fcntl.F_DUPFD, _FIRST_DESCRIPTOR)
    os.close(reading)
    return {DESCRIPTOR_VARIABLE: str(inherited)}


def _become(command: Sequence[str], environment: Environment, *, keep_credential: bool) -> NoReturn:
    """Let a command that refers to no secret take this process over."""
    from agent_sdk.run.child import attempts, failure  # noqa: PLC0415  # needs POSIX
    from agent_sdk.run.signals import reset  # noqa: PLC0415  # needs POSIX

    environ = environment.filled({}, {})
    if keep_credential:
        environ |= {os.fsencode(n): os.fsencode(os.environ[n]) for n in CREDENTIAL_VARIABLES & os.environ.keys()}
    elif (number := os.environ.get(DESCRIPTOR_VARIABLE, "")).isdecimal():
        _close_on_exec(int(number))
    reset()
    error = OSError()
    for path, arguments in attempts(command, environ):
        try:
            os.execve(path, list(arguments), environ)  # noqa: S606  # the user's own command, without a shell
        except OSError as failed:
            error = failed
        if error.errno != errno.ENOEXEC:
            break
    raise failure(command[0], path, error.errno or errno.EIO)


def _close_on_exec(descriptor: int) -> None:
    try:
        os.set_inheritable(descriptor, False)
    except OSError:
        return  # it is not open


def _leave(status: int) -> NoReturn:
    """End as the command ended."""
    from agent_sdk.run.signals import die_by  # noqa: PLC0415  # needs POSIX

    if os.WIFSIGNALED(status):
        die_by(os.WTERMSIG(status))
        raise click.exceptions.Exit(128 + os.WTERMSIG(status))
    raise click.exceptions.Exit(os.WEXITSTATUS(status))
