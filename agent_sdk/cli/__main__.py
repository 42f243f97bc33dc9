"""`python -m agent_sdk.cli`."""

from agent_sdk.cli import main

main(prog_name="secret-agent")
