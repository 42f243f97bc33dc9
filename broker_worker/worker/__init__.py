"""The loops that move batches: read, run them through the desk, write; claim what a dead worker left; drain."""

from broker_worker.worker.worker import Worker

__all__ = ["Worker"]
