"""What the process does so that its memory is harder to read: no core dumps, no tracing by the same user."""

import ctypes
import sys

import structlog

_PR_SET_DUMPABLE = 4  # linux/prctl.h
_log = structlog.get_logger(__name__)


def harden() -> None:
    """Switch off core dumps and, on Linux, `ptrace` and /proc/PID/mem for others of this user.

    Values live briefly in ordinary memory; Python cannot promise to overwrite them. What cannot be switched off is
    logged, not fatal.
    """
    if sys.platform == "win32":
        return
    import resource  # noqa: PLC0415  # does not exist on Windows

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux" and ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        _log.warning("not_hardened", what="PR_SET_DUMPABLE")
