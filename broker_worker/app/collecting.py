"""How often the garbage collector of a process that serves for long looks for cycles."""

import gc

COLLECT_AFTER = 20_000
"""So many more objects made than freed, instead of 700, cause a look for cycles: requests leave none behind."""


def collect_seldom() -> None:
    """Look seldom, and never at what was imported and composed so far: that lives as long as the process."""
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, 20, 50)
