"""The composition root: the only place where adapters are made and wired."""

from broker_worker.app.serve import on_end_of_stdin, serve
from broker_worker.app.supervisor import Supervisor

__all__ = ["Supervisor", "on_end_of_stdin", "serve"]
