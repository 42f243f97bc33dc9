"""The agent's command, `secret-agent`: every subcommand has a module of its own and is joined here."""

from agent_sdk.cli.command_table import CommandTable
from agent_sdk.cli.root import main

main.commands = CommandTable(
    {
        "aws-credentials": "agent_sdk.cli.aws_credentials:aws_credentials",
        "generate": "agent_sdk.cli.generate:generate",
        "get": "agent_sdk.cli.get:get",
        "git-credential": "agent_sdk.cli.git_credential:git_credential",
        "inject": "agent_sdk.cli.inject:inject",
        "list": "agent_sdk.cli.list_names:list_names",
        "mcp": "agent_sdk.cli.mcp:mcp",
        "put": "agent_sdk.cli.put:put",
        "run": "agent_sdk.cli.run:run",
        "headers": "agent_sdk.cli.headers:headers",
        "ssh-agent": "agent_sdk.cli.ssh_agent:ssh_agent",
        "token": "agent_sdk.cli.token:token",
        "scan": "agent_sdk.cli.scan:scan",
        "whoami": "agent_sdk.cli.whoami:whoami",
    }
)

__all__ = ["main"]
