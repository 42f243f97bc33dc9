"""The composition root: the only place where adapters are made and wired."""

from broker_worker.app.serve import serve
from broker_worker.app.supervisor import Supervisor

__all__ = ["Supervisor", "serve"]
