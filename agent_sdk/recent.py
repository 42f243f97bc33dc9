"""What was heard lately: enough to take no notice of it twice, within a bound."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Recent(Generic[T]):
    """A set of bounded size that forgets what was added first.

    Args:
        limit: how much it remembers.
    """

    __slots__ = ("_limit", "_seen")

    def __init__(self, limit: int = 1024) -> None:
        self._limit = limit
        self._seen: OrderedDict[T, None] = OrderedDict()

    def __contains__(self, item: object) -> bool:
        return item in self._seen

    def __len__(self) -> int:
        return len(self._seen)

    def add(self, item: T) -> bool:
        """Remember an item.

        Returns:
            Whether it is new.
        """
        if item in self._seen:
            return False
        self._seen[item] = None
        if len(self._seen) > self._limit:
            self._seen.popitem(last=False)
        return True
