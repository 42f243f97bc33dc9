"""What `secret-agent` and `secret-broker` do with an error: one line for people, a hint, an exit code."""

import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import click

INTERRUPTED = 130


class ErrorGroup(click.Group):
    """A click group that turns exceptions into one `error:` line, one `hint:` line and an exit code."""

    fail: Callable[..., NoReturn]
    """Prints an exception as people should see it and leaves; each command's own."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Read the command line, which prints what `--help` and `--version` say (click's protocol)."""
        try:
            return super().make_context(*args, **extra)
        except BrokenPipeError:
            raise
        except OSError as error:  # of a standard output that takes nothing
            type(self).fail(error)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the chosen subcommand (click's protocol)."""
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.ClickException, BrokenPipeError):
            raise
        except click.Abort as error:  # a question was answered with no, or had no answer; or, inside of it, Ctrl-C
            if not isinstance(error.__context__, KeyboardInterrupt):
                raise
            _interrupted()
        except KeyboardInterrupt:
            _interrupted()
        except Exception as error:  # noqa: BLE001  # the last line of defence: no traceback for people
            type(self).fail(error, debug=bool(ctx.params.get("debug")))


def _interrupted() -> NoReturn:
    click.echo("interrupted", err=True)
    raise click.exceptions.Exit(INTERRUPTED) from None


def leave(message: str, hint: str, code: int) -> NoReturn:
    """Print an error as people should see it and leave with its exit code."""
    click.echo(f"error: {printable(message)}", err=True)
    if hint:
        click.echo(f"hint: {printable(hint)}", err=True)
    raise click.exceptions.Exit(code) from None


def show_calls(error: Exception) -> None:
    """Print the calls that led to an error, without any exception's text, which may repeat what it was given."""
    click.echo("".join(traceback.format_tb(error.__traceback__)), err=True, nl=False)


def printable(text: str) -> str:
    """The text on one line, with control characters written as escapes: a server's words may end up in it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
