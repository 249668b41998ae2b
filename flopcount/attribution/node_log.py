"""Where each autograd node of a thread was made: a place for each range of node numbers."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right

from flopcount.attribution.tree import Place

LOG_LIMIT = 1 << 18
"""How many changes of scope to remember per thread. At the limit the older half is forgotten, and
the nodes that were made in it are unattributed."""


class NodeLog:
    """Where the autograd nodes of one thread were made.

    Attributes:
        starts: the first node number of each stretch, ascending.
        places: the place of each stretch; None where nobody watched.
    """

    __slots__ = ("last", "places", "starts")

    def __init__(self) -> None:
        self.starts = array("Q", [0])
        self.places: list[Place | None] = [None]
        self.last = 0  # the index after the stretch that was looked up last

    @property
    def is_empty(self) -> bool:
        """Whether nothing was ever logged."""
        return len(self.starts) == 1 and self.places[0] is None

    def start(self, place: Place | None, number: int) -> None:
        """Log that nodes from ``number`` on are made at ``place``; None: nobody watches."""
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
        """Forget the places of nodes from ``start`` on, until the next entry."""
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
