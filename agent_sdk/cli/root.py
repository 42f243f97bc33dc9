"""The command group that every subcommand of `secret-agent` joins: errors that people can act on, and exit codes.

Exit codes:

    0    it worked
    1    refused, or not answered: nothing was released
    2    the command line was not understood
    7    the run's credential is missing or cannot be used
    130  interrupted

`run` leaves with the exit code of its command; 126 if that cannot be executed, 127 if it was not found.

An error is one line `error: …` on stderr and, where it helps, a second one `hint: …`.
"""

from typing import NoReturn

import click

from agent_sdk.cli.error_group import ErrorGroup, leave, show_calls
from agent_sdk.errors import CredentialInvalid, CredentialMissing, InvalidRequest
from agent_sdk.wire.errors import Code, SecretBrokerError

REFUSED = 1
USAGE = 2
NO_CREDENTIAL = 7
_LAUNCH = (
    "start it with `secret-broker launch --agent ID -- …`, and with `--credential-file PATH` where several commands ask"
)
_START_AGAIN = "start the run again: `secret-broker launch --agent ID -- …`"
_HINTS = {
    Code.DENIED: ("`secret-agent list` shows what this run may ask for, and how; the policy's owner can allow more"),
    Code.APPROVAL_PENDING: "give people more time with --timeout; what they approve is served to the same request",
    Code.APPROVAL_EXPIRED: "ask again, and tell those who may approve",
    Code.EXPIRED: _START_AGAIN,
    Code.UNAUTHENTICATED: _START_AGAIN,
    Code.REVOKED: "ask the broker's operator why; `secret-broker revocations` shows it there",
    Code.UNAVAILABLE: "is the broker running? `secret-broker doctor` on its host says what is wrong",
    Code.AUDIT_UNAVAILABLE: "tell the broker's operator; `secret-broker doctor` on its host says what is wrong",
    Code.CONFLICT: "name the version that is to be replaced with --replaces, if the policy lets this run replace it",
}
_FORMS = "`--help` of the command says what it takes; a recipe makes 128 random bits at least"
_EPILOG = "Exit codes: 0 ok, 1 refused or not answered, 2 usage, 7 no usable credential, 130 interrupted."


def fail(error: Exception, *, debug: bool = False) -> NoReturn:
    """Print an exception as people should see it and leave with its exit code.

    Args:
        error: one of ours, or anything that nobody expected; of the latter only the type is shown, because its text
            may repeat what it was given.
        debug: also show the calls that led to it, without any exception's text.
    """
    if debug:
        show_calls(error)
    message, hint = str(error), getattr(error, "hint", "")
    if isinstance(error, CredentialMissing | CredentialInvalid):
        code, hint = NO_CREDENTIAL, _LAUNCH
    elif isinstance(error, InvalidRequest):
        code, hint = USAGE, hint or (_FORMS if error.refusals else "")
    elif isinstance(error, SecretBrokerError):
        code, hint = getattr(error, "exit_code", REFUSED), hint or _HINTS.get(error.code, "")
    elif isinstance(error, OSError) and error.strerror:
        code, message = REFUSED, f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    else:
        code, message = REFUSED, f"unexpected {type(error).__name__}"
        hint = "this is a defect; `secret-agent --debug …` shows where it happened"
    leave(message, hint, code)


class AgentGroup(ErrorGroup):
    """A click group that turns the SDK's exceptions into one `error:` line, one `hint:` line and an exit code."""

    fail = staticmethod(fail)


@click.group(
    cls=AgentGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, epilog=_EPILOG
)
@click.option("--debug", is_flag=True, help="Show where an unexpected error happened.")
@click.version_option(package_name="secret-broker", prog_name="secret-agent")
def main(debug: bool) -> None:
    """Bring secrets to programs, and not to prompts, files, logs or shell histories."""
