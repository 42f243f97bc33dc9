"""The command group that every subcommand joins: the home, logging, and errors that people can act on.

Exit codes:

    0    it worked
    1    something was found wrong (a check, test, verification or doctor that failed)
    2    the command line was not understood
    3    configuration
    4    queue
    5    vault
    6    audit
    7    set-up: keys, folders, modes, missing parts
    130  interrupted

An error is one line `error: …` on stderr and, where it helps, a second one `hint: …`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click

from agent_sdk.cli.error_group import ErrorGroup, leave, show_calls
from agent_sdk.wire.errors import SecretBrokerError
from broker_worker.cli.log import configure_logging
from broker_worker.core.errors import AuditError, BrokerError, ConfigError, ProviderError, QueueError, SetupError
from broker_worker.settings import Settings

FOUND_WRONG = 1
USAGE = 2
_QUEUE_CODE, _SETUP_CODE = 4, 7
_CODES: Sequence[tuple[type[Exception], int]] = (
    (ConfigError, 3),
    (QueueError, _QUEUE_CODE),
    (ProviderError, 5),
    (AuditError, 6),
    (SetupError, _SETUP_CODE),
    (BrokerError, FOUND_WRONG),
    (SecretBrokerError, USAGE),
)
_EPILOG = (
    "Exit codes: 0 ok, 1 something was found wrong, 2 usage, 3 configuration, 4 queue, 5 vault, 6 audit, "
    "7 set-up, 130 interrupted."
)


def fail(error: Exception, *, debug: bool = False) -> NoReturn:
    """Print an exception as people should see it and leave with its exit code.

    Args:
        error: one of ours, or anything that nobody expected; of the latter only the type is shown, because its text
            may repeat what it was given.
        debug: also show the calls that led to it, without any exception's text.
    """
    if debug:
        show_calls(error)
    code = next((code for kind, code in _CODES if isinstance(error, kind)), None)
    message, hint = str(error), getattr(error, "hint", "")
    if code is None and _is_of_the_queue(error):
        code, message, hint = _QUEUE_CODE, f"the queue: {error}", "run `secret-broker doctor`"
    elif code is None and isinstance(error, OSError) and error.strerror:
        code, message = _SETUP_CODE, f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    elif code is None:
        code, message = FOUND_WRONG, f"unexpected {type(error).__name__}"
        hint = "this is a defect; `secret-broker --debug …` shows where it happened"
    leave(message, hint, code)


def _is_of_the_queue(error: Exception) -> bool:
    """Whether an exception is redis-py's; a command that did not load that has none of them."""
    exceptions = sys.modules.get("redis.exceptions")
    return exceptions is not None and isinstance(error, exceptions.RedisError)


class BrokerGroup(ErrorGroup):
    """A click group that turns the project's exceptions into one `error:` line, one `hint:` line and an exit code."""

    fail = staticmethod(fail)


@click.group(
    cls=BrokerGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, epilog=_EPILOG
)
@click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder with configuration, keys, vault and audit (SECRET_BROKER_HOME).",
)
@click.option("--log-json", is_flag=True, help="Log one JSON object a line.")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
@click.option("--debug", is_flag=True, help="Show where an unexpected error happened.")
@click.version_option(package_name="secret-broker", prog_name="secret-broker")
@click.pass_context
def main(ctx: click.Context, home: Path | None, log_json: bool, log_level: str, debug: bool) -> None:
    """The desk in front of the vault: agents get exactly the secrets that policy allows."""
    configure_logging(as_json=log_json, level="debug" if debug else log_level)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8 must not end a command
    ctx.obj = Settings.load(home)
