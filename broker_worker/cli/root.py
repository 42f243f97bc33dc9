"""The command group that every subcommand joins, and what all of them share."""

import click


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="secret-broker")
def main() -> None:
    """The desk in front of the vault: agents get exactly the secrets that policy allows."""
