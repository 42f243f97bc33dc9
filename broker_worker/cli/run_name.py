"""A run as people name it: AGENT/RUN, as every list prints it, or RUN alone."""

import click


def of_agent(agent: str | None, run: str | None) -> tuple[str | None, str | None]:
    """The agent and the run that `--agent` and `--run` mean.

    Args:
        agent: what `--agent` says.
        run: what `--run` says.

    Raises:
        click.UsageError: if the two name different agents.
    """
    whose, slash, name = (run or "").rpartition("/")
    if not slash:
        return agent, run
    if agent not in {None, whose}:
        raise click.UsageError(f"--run {run} is none of --agent {agent}")
    return whose, name
