"""The agent's command, `secret-agent`: every subcommand has a module of its own and is joined here."""

from agent_sdk.cli.command_table import CommandTable
from agent_sdk.cli.root import main

main.commands = CommandTable(
    {
        "scan": "agent_sdk.cli.scan:scan",
        "whoami": "agent_sdk.cli.whoami:whoami",
    }
)

__all__ = ["main"]
