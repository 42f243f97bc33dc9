"""A worker's connection to the queue, on the real server that the tests of this process share."""

from collections.abc import AsyncIterator

import pytest

from broker_worker.queue.connection import QueueConnection


@pytest.fixture
async def connection(valkey_url: str) -> AsyncIterator[QueueConnection]:
    """An open connection to an empty server."""
    opened = QueueConnection(valkey_url, "test")
    await opened.open()
    yield opened
    await opened.close()
