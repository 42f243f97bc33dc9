"""Values are in this process's memory: the user's other processes are kept from reading it, as far as that goes."""

import ctypes
import sys
from typing import Final

_PR_SET_DUMPABLE: Final = 4  # linux/prctl.h


def keep_memory_private() -> None:
    """Switch off core files of this process, and tracing by the same user (Linux). What it starts has its own say."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
