"""The operator's command, `secret-broker`."""

from broker_worker.cli.root import main

__all__ = ["main"]
