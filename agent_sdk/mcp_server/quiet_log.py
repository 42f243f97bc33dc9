"""What the process writes to its log: one line a record, masked, and of an exception only its type."""

import logging
import sys

from agent_sdk.mcp_server.held_values import HeldValues


class MaskedFormatter(logging.Formatter):
    """Formats records of any library so that no value can stand in them.

    Args:
        held: what is masked.
    """

    def __init__(self, held: HeldValues) -> None:
        super().__init__()
        self._held = held

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line = f"{record.levelname.lower()}: {record.name}: {record.getMessage()}"
        if record.exc_info and record.exc_info[0] is not None:
            line += f" ({record.exc_info[0].__name__})"
        shown = self._held.mask_text(line)
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown)


def log_to_stderr(held: HeldValues) -> None:
    """Send warnings and errors of every library to standard error, masked; less is not logged."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(MaskedFormatter(held))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
