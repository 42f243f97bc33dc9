"""Reads the audit stream from its beginning to where it ended when the reading began."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from agent_sdk.wire import keynames
from agent_sdk.wire.audit_stream import unpack_segment
from agent_sdk.wire.errors import WireError
from broker_worker.audit.anchors import StreamEntry
from broker_worker.core.errors import QueueError

if TYPE_CHECKING:
    from redis import Redis

_PAGE = 64


def read_stream(client: "Redis") -> Iterator[StreamEntry]:
    """Yield the lines of `sb:audit`, oldest first, behind the event id that the stream states for each.

    An entry that no broker wrote is yielded as its own id and None.

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
            for entry_id, fields in page:
                try:
                    segment = unpack_segment(fields)
                except WireError:
                    yield entry_id.decode("ascii"), None
                else:
                    yield from segment.stated
            if len(page) < _PAGE:
                return
            start = b"(" + page[-1][0]
    except RedisError as error:
        raise QueueError(
            f"cannot read the audit stream: {error}", hint="is the queue running? `secret-broker doctor` tells"
        ) from error
