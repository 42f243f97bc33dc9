"""Which agents a worker blocks on: those that were active lately.

A blocking read over n streams costs the server time that grows with n, for every wake-up. So a worker watches the
agents that wrote lately; a doorbell and a slow sweep tell it of the others.
"""

from collections.abc import Iterable

NOBODY = "-"
"""Stands for no agent, and cannot be the id of one: a read needs a stream to block on."""
KEEP_MS = 12_000
"""How long an agent stays watched after its last message; clients ring again after 5 s of silence at the latest."""


class HotSet:
    """The agents that are watched.

    Args:
        agents: all agents that may write.
    """

    def __init__(self, agents: Iterable[str]) -> None:
        self._last: dict[str, int] = {}
        self._agents = frozenset(agents)
        self._current: tuple[str, ...] = ()
        self._is_stale = True

    @property
    def agents(self) -> frozenset[str]:
        """All agents that may write."""
        return self._agents

    def replace(self, agents: Iterable[str]) -> None:
        """Change who may write; those that are gone are no longer watched."""
        self._agents = frozenset(agents)
        self._last = {agent: at for agent, at in self._last.items() if agent in self._agents}
        self._is_stale = True

    def touch(self, agent: str, now: int) -> bool:
        """Note that an agent is active at `now` (ms); True if it is watched only from now on."""
        if agent not in self._agents:
            return False
        is_new = agent not in self._last
        self._last[agent] = now
        self._is_stale |= is_new
        return is_new

    def cool(self, now: int) -> None:
        """Stop watching agents that have been silent for `KEEP_MS`."""
        kept = {agent: at for agent, at in self._last.items() if now - at < KEEP_MS}
        if len(kept) != len(self._last):
            self._last, self._is_stale = kept, True

    def watched(self) -> tuple[str, ...]:
        """The agents to block on, or `NOBODY` if none was active lately."""
        if self._is_stale:
            self._current = tuple(sorted(self._last)) or (NOBODY,)
            self._is_stale = False
        return self._current

    def unwatched(self) -> list[str]:
        """The agents that only the sweep looks at."""
        return sorted(self._agents.difference(self._current))
