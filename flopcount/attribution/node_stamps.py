"""Which thread made an autograd node? Each numbers its nodes from 0, and a node does not say.

Once a second thread takes part, the nodes of a call are stamped when the call ends. They are the
nodes that its results lead back to, and whose numbers the thread gave during the call. A node
without a stamp may belong to any thread whose log has its number; if several do, nobody knows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from flopcount.attribution.node_log import NodeLog
from flopcount.attribution.tree import Place
from flopcount.torch_private.autograd import NO_SEQUENCE_NR, next_sequence_nr, notes_of
from flopcount.torch_private.tensors import tensors_in


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
