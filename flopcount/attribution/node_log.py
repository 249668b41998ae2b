"""Where each autograd node of a thread was made: places, by the numbers of the nodes."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right

from flopcount.attribution.tree import Place

__all__ = ["NodeLog"]

LOG_LIMIT = 1 << 18
"""Changes of scope that are remembered for each thread; then the older half is forgotten, and
nodes that were made in it are unattributed."""


class NodeLog:
    """Where the autograd nodes of one thread were made, by their numbers."""

    __slots__ = ("last", "places", "starts")

    def __init__(self) -> None:
        self.starts = array("Q", [0])
        self.places: list[Place | None] = [None]  # one for each start
        self.last = 0

    @property
    def is_empty(self) -> bool:
        """Whether nobody ever watched."""
        return len(self.starts) == 1 and self.places[0] is None

    def start(self, place: Place | None, number: int) -> None:
        """Nodes numbered ``number`` and up are made at ``place``; None: nobody watches."""
        starts = self.starts
        if starts[-1] >= number:  # the last stretch made no node
            starts[-1] = number
            self.places[-1] = place
        else:
            self.places.append(place)  # first: another thread may be reading
            starts.append(number)
            if len(starts) >= LOG_LIMIT:
                self.last = 0
                del starts[: LOG_LIMIT // 2]
                del self.places[: LOG_LIMIT // 2]

    def forget(self, start: int) -> None:
        """Nodes numbered ``start`` and up were made nowhere, until the next entry."""
        index = max(1, bisect_left(self.starts, start))
        self.last = 0
        del self.starts[index:]  # first: another thread may be reading
        del self.places[index:]
        self.start(None, start)

    def place(self, number: int) -> Place | None:
        """Where node ``number`` was made, or None if nobody watched."""
        starts = self.starts
        low = self.last - 8  # backward runs from the last node to the first
        if low < 0 or starts[low] > number:
            low = 0
        self.last = index = bisect_right(starts, number, low)
        return self.places[index - 1] if index else None
