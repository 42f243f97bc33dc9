"""From bytes that a program or a server wrote to text that a model may read: masked first, then shortened."""

from typing import Final

from agent_sdk.mcp_server.held_values import HeldValues

SHOWN: Final = 16 * 1024
"""Most bytes of one text that are shown: its first half and its last."""
READ: Final = 256 * 1024
"""Most bytes that are kept of what is read."""


def shown(data: bytes, total: int, held: HeldValues) -> tuple[str, int]:
    """What a model sees of some output.

    Masking comes before any cut, as half a value is not found. Where reading was cut, as much is left away as a value
    could reach over the cut.

    Args:
        data: the first bytes, at most `READ`.
        total: how many there were.
        held: the values that must not be in it.

    Returns:
        The text, and how many bytes it leaves out.
    """
    masked = held.mask(data)
    if total > len(data):
        masked = masked[: max(0, len(masked) - held.margin)]
    left_out = total - len(data)
    if len(masked) > SHOWN:
        half, cut = SHOWN // 2, len(masked) - SHOWN
        masked = masked[:half] + f"\n[{cut + left_out} bytes left out]\n".encode() + masked[-half:]
        left_out += cut
    return masked.decode("utf-8", "replace"), left_out
