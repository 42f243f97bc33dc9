"""Reads the audit stream from its beginning to where it ended when the reading began."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from agent_sdk.wire import keynames
from broker_worker.audit.anchors import StreamEntry
from broker_worker.core.errors import QueueError

if TYPE_CHECKING:
    from redis import Redis

_PAGE = 1000


def read_stream(client: "Redis") -> Iterator[StreamEntry]:
    """Yield the entries of `sb:audit`, oldest first; one that is none of ours has empty parts.

    Args:
        client: a client of the queue that returns bytes.

    Raises:
        QueueError: if the queue cannot be read.
    """
    try:
        last: Any = client.xrevrange(keynames.AUDIT, count=1)
        if not last:
            return
        start, end = b"-", last[0][0]
        while True:
            page: Any = client.xrange(keynames.AUDIT, start, end, count=_PAGE)
            for _, fields in page:
                yield fields.get(b"e", b"").decode("ascii", "replace"), fields.get(b"d", b"")
            if len(page) < _PAGE:
                return
            start = b"(" + page[-1][0]
    except RedisError as error:
        raise QueueError(
            f"cannot read the audit stream: {error}", hint="is the queue running? `secret-broker doctor` tells"
        ) from error
