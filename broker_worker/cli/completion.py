"""`secret-broker completion`: the script that teaches a shell our commands."""

import click
from click.shell_completion import get_completion_class

_SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a SHELL.

    For bash: `eval "$(secret-broker completion bash)"` in ~/.bashrc.
    """
    completer = get_completion_class(shell)
    if completer is None:
        raise click.UsageError(f"no completion for {shell}; known are {', '.join(_SHELLS)}")
    click.echo(completer(ctx.find_root().command, {}, "secret-broker", "_SECRET_BROKER_COMPLETE").source())
