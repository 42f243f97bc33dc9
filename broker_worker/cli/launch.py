"""`secret-broker launch`: start an agent with the credential of one run, and be gone.

The key pair of the run exists in this process for a moment; then the command takes the process over, so that signals,
standard streams and the exit code are the command's own. The issuer's key never enters it, nor does anything of the
broker's environment.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NoReturn

import click

from agent_sdk.credential import DESCRIPTOR_VARIABLE, FILE_VARIABLE, MAX_BYTES, RunCredential
from agent_sdk.errors import CredentialInvalid
from broker_worker.cli.minting import RunOrder, mint_run
from broker_worker.core.configuration import Configuration
from broker_worker.core.errors import SetupError
from broker_worker.core.own_variables import credential_variables
from broker_worker.files.configuration import load_configuration
from broker_worker.files.quantities import parse_duration
from broker_worker.private_files import read_private, write_private
from broker_worker.settings import Settings

NOT_EXECUTABLE, NOT_FOUND = 126, 127
_OWN_PREFIX = "SECRET_BROKER_"
_OWN_VARIABLES = frozenset({"REDIS_URL", "OP_SERVICE_ACCOUNT_TOKEN", "OP_CONNECT_TOKEN"})
_FIRST_FREE_DESCRIPTOR = 3


def _ttl(ctx: click.Context, parameter: click.Parameter, text: str | None) -> timedelta | None:
    try:
        return None if text is None else timedelta(seconds=parse_duration(text))
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, parameter) from None


@click.command(
    context_settings={"allow_interspersed_args": False},
    epilog="Exit code: the command's own; 126 if it cannot be executed, 127 if it was not found.",
)
@click.option("--agent", required=True, metavar="ID", help="The agent, as in the policy.")
@click.option("--run", metavar="ID", help="The run; a new unique one if not given.")
@click.option("--ttl", metavar="1h", callback=_ttl, help="How long the run may ask for secrets; an hour by default.")
@click.option("--task", metavar="TEXT", help="What the run is for; recorded in the audit.")
@click.option("--scope", metavar="PATTERN", multiple=True, help="Narrow the policy to these names; may be repeated.")
@click.option(
    "--credential-file",
    metavar="PATH",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Hand the credential over in a file of mode 0600. Without a command it is only written.",
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def launch(
    ctx: click.Context,
    agent: str,
    run: str | None,
    ttl: timedelta | None,
    task: str | None,
    scope: tuple[str, ...],
    credential_file: Path | None,
    command: tuple[str, ...],
) -> None:
    """Start COMMAND as a run of an agent: `secret-broker launch --agent claude -- python agent.py`.

    The run's credential goes through an inherited descriptor, which a process in between must not close; where one
    does, use --credential-file. The command's environment holds none of the broker's own variables.
    """
    settings = ctx.find_object(Settings) or Settings.load()
    if not command and credential_file is None:
        raise click.UsageError("say what to start: secret-broker launch --agent ID -- COMMAND", ctx)
    configuration = load_configuration(settings.config_dir)
    credential = mint_run(settings, configuration, RunOrder(agent, run, ttl, task, scope or None))
    environ = _without_ours(os.environ, configuration)
    if credential_file is not None:
        _write_credential(credential_file, credential)
        environ[FILE_VARIABLE] = str(credential_file.absolute())
    else:
        environ[DESCRIPTOR_VARIABLE] = str(_descriptor(credential))
    if command:
        _become(command, environ)
    until = datetime.fromtimestamp(credential.expires_at / 1000, UTC)
    click.echo(f"{credential_file}: {agent}, run {credential.run_id}, until {until:%Y-%m-%dT%H:%M:%SZ}")


def _without_ours(environ: Mapping[str, str], configuration: Configuration) -> dict[str, str]:
    """The environment without what belongs to the broker: settings, vaults' tokens, passphrases, `env://` values."""
    sealed = configuration.cache.sealed
    ours = {*_OWN_VARIABLES, *_provider_variables(configuration), *(() if sealed is None else (sealed.passphrase_env,))}
    return {name: text for name, text in environ.items() if name not in ours and not name.startswith(_OWN_PREFIX)}


def _provider_variables(configuration: Configuration) -> Iterable[str]:
    for provider in configuration.providers:
        yield from credential_variables(provider)
        for command in provider.commands.values():
            yield from command.env
    for entry in configuration.registry.values():
        scheme, _, name = entry.ref.partition("://")
        if scheme == "env":
            yield name


def _write_credential(path: Path, credential: RunCredential) -> None:
    """Write the file, replacing an earlier credential and nothing else."""
    if path.exists():
        try:
            RunCredential.from_json(read_private(path, "the credential file", MAX_BYTES, hint=""))
        except CredentialInvalid:
            raise SetupError(
                f"{path} exists and is no credential: it is not replaced", hint="name another file"
            ) from None
    write_private(path, credential.to_json().encode())


def _descriptor(credential: RunCredential) -> int:
    """A pipe's end that the command inherits and from which the credential can be read once."""
    if sys.platform == "win32":
        raise SetupError(
            "Windows has no descriptors to inherit", hint="use --credential-file, in a folder only you can read"
        )
    import fcntl  # noqa: PLC0415  # exists on POSIX only

    reading, writing = os.pipe()
    text = credential.to_json().encode()
    os.set_blocking(writing, False)
    if os.write(writing, text) != len(text):
        raise SetupError("the credential does not fit into a pipe", hint="use --credential-file")
    os.close(writing)
    # Not one of the standard streams, even if the caller had closed them; a duplicate made so is inheritable.
    inherited = fcntl.fcntl(reading, fcntl.F_DUPFD, _FIRST_FREE_DESCRIPTOR)
    os.close(reading)
    return inherited


def _become(command: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
    """Let the command take this process over (on Windows: run it and leave with its exit code)."""
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        if sys.platform == "win32":
            sys.exit(subprocess.call(command, env=dict(environ)))  # noqa: S603  # the operator's own command
        for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these, and exec would hand that on
            signal.signal(ignored, signal.SIG_DFL)
        os.execvpe(command[0], list(command), environ)  # noqa: S606  # the operator's own command, without a shell
    except FileNotFoundError:
        click.echo(f"error: {command[0]}: command not found", err=True)
        raise click.exceptions.Exit(NOT_FOUND) from None
    except OSError as error:
        click.echo(f"error: {command[0]}: {error.strerror}", err=True)
        raise click.exceptions.Exit(NOT_EXECUTABLE) from None
