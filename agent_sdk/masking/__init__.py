"""Masking: live secret values are found in what a program prints, and `[masked NAME]` stands in their place.

A seat belt and no wall: it sees the forms in which values leave a program by accident (docs/masking.md), and nobody
who means to get a value out is kept from that.
"""

from agent_sdk.masking.masker import Masker

__all__ = ["Masker"]
