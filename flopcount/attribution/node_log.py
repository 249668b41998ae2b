"""Where was an autograd node made? Each thread logs a place for each range of node numbers.

Each thread numbers its nodes from 0, and a node does not say which thread made it. Once a second
thread takes part, the nodes of a call are stamped when the call ends. They are the nodes that its
results lead back to, and whose numbers the thread gave during the call. A node without a stamp may
belong to any thread whose log has its number; if several do, nobody knows.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from typing import Any, NamedTuple

from flopcount.attribution.tree import Place
from flopcount.torch_private.autograd import NO_SEQUENCE_NR, next_sequence_nr, notes_of
from flopcount.torch_private.tensors import tensors_in

LOG_LIMIT = 1 << 18
"""How many changes of scope to remember per thread. At the limit the older half is forgotten, and
the nodes that were made in it are unattributed."""


class NodeLog:
    """Where the autograd nodes of one thread were made."""

    __slots__ = ("last", "places", "starts")

    def __init__(self) -> None:
        self.starts = array("Q", [0])  # the first node number of each stretch, ascending
        self.places: list[Place | None] = [None]  # None: nobody watched
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


class Stamp(NamedTuple):
    """Where a node was made, and the log of the thread that made it; one object for each node."""

    place: Place | None
    node_log: NodeLog


class NodeStamps:
    """Stamps nodes, and reads the stamps."""

    def __init__(self) -> None:
        self._key = object()

    def stamp_of(self, node: Any) -> Stamp | None:
        """The stamp of ``node``, if it has one."""
        stamp: Stamp | None = notes_of(node).get(self._key)
        return stamp

    def stamp(self, node_log: NodeLog, start: int, inputs: Any, results: Any) -> None:
        """Stamp the nodes that a call made between ``inputs`` and ``results``.

        Their numbers are ``start`` or more. If the call made no other nodes, the log forgets
        them, so that no node of another thread is taken for one of them.
        """
        end = next_sequence_nr()
        made: dict[int, list[Any]] = {}  # number -> nodes of this thread or of another
        seen = {tensor.grad_fn for tensor in tensors_in(inputs)}
        waiting = [tensor.grad_fn for tensor in tensors_in(results)]
        while waiting:
            node = waiting.pop()
            if node is None or node in seen or (number := node._sequence_nr()) == NO_SEQUENCE_NR:
                continue
            seen.add(node)
            stamp = self.stamp_of(node)
            if stamp is None and start <= number < end:
                made.setdefault(number, []).append(node)
            if stamp is None or stamp.node_log is not node_log:  # else an earlier call made it
                waiting += [source for source, _ in node.next_functions]
        # if several nodes share a number, at most one is this thread's
        unique = {number: nodes[0] for number, nodes in made.items() if len(nodes) == 1}
        for number, node in unique.items():
            notes_of(node)[self._key] = Stamp(node_log.place(number), node_log)
        if len(unique) == end - start:
            node_log.forget(start)
