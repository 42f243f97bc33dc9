"""How many approvals a run has waiting, on the queue: what one worker opens, all of them count."""

from importlib.resources import files

from broker_worker.core.errors import QueueError
from broker_worker.ports import OpenAsk
from broker_worker.queue.connection import Command

_SCRIPT = files("broker_worker.queue").joinpath("open_approvals.lua").read_bytes()


def open_command(ask: OpenAsk) -> Command:
    """What the queue is asked; people are asked rarely, so the script goes along each time."""
    known = [part for place in ask.known.items() for part in place]
    return ("EVAL", _SCRIPT, 1, ask.key, ask.now, ask.limit, ask.until, len(ask.known), *known, *ask.wanted)


def how_many(ask: OpenAsk, reply: object) -> int:
    """Read the answer: how many of the wanted approvals count from now on.

    Raises:
        QueueError: if it is not what the script says.
    """
    if isinstance(reply, Exception):
        raise QueueError(f"the queue refuses to count approvals: {reply}") from reply
    if type(reply) is not int or not 0 <= reply <= len(ask.wanted):
        raise QueueError("the queue's answer does not fit the number of approvals that were to be opened")
    return reply


def close_command(key: str, approval_id: str) -> Command:
    """Have an approval count no more.

    Args:
        key: `keynames.open_approvals` of its run.
        approval_id: 16 hexadecimal digits.
    """
    return ("ZREM", key, approval_id)
