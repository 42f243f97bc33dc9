"""The operator's command, `secret-broker`: every subcommand has a module of its own and is joined here."""

from broker_worker.cli.completion import completion
from broker_worker.cli.policy import policy
from broker_worker.cli.root import main
from broker_worker.cli.vault import vault

main.add_command(completion)
main.add_command(policy)
main.add_command(vault)

__all__ = ["main"]
