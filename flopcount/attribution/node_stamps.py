"""Which thread made an autograd node? Each numbers its nodes from 0, and a node does not say.

Once a second thread takes part, the nodes of a call are stamped when it ends: they are those that
its results lead back to, by the numbers that the thread gave meanwhile. What cannot be stamped
may have been made wherever a thread's log has that number; if these are several places, nobody
knows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from flopcount.attribution.node_log import NodeLog
from flopcount.attribution.tree import Place
from flopcount.torch_private.autograd import NO_SEQUENCE_NR, next_sequence_nr, notes_of
from flopcount.torch_private.tensors import tensors_in

__all__ = ["NodeStamps", "Stamp"]


class Stamp(NamedTuple):
    """Where a node was made, and the log of the thread that made it; each node has its own."""

    place: Place | None
    node_log: NodeLog


class NodeStamps:
    """Stamps nodes, and reads the stamps."""

    def __init__(self) -> None:
        self._key = object()

    def stamp_of(self, node: Any) -> Stamp | None:
        """The stamp of ``node``, if it has one."""
        found: Stamp | None = notes_of(node).get(self._key)
        return found

    def stamp(self, node_log: NodeLog, start: int, inputs: Any, results: Any) -> None:
        """Stamp what a call made of ``inputs`` since its thread's number ``start``.

        If that is all that it made, the log need not tell of it any more, so that no node of
        another thread is taken for one of these.
        """
        end = next_sequence_nr()
        found: dict[int, list[Any]] = {}
        seen = {tensor.grad_fn for tensor in tensors_in(inputs)}
        waiting = [tensor.grad_fn for tensor in tensors_in(results)]
        while waiting:
            node = waiting.pop()
            if node is None or node in seen or (number := node._sequence_nr()) == NO_SEQUENCE_NR:
                continue
            seen.add(node)
            stamp = self.stamp_of(node)
            if stamp is None and start <= number < end:
                found.setdefault(number, []).append(node)
            if stamp is None or stamp.node_log is not node_log:  # else it is of an earlier call
                waiting += [source for source, _ in node.next_functions]
        for number, nodes in found.items():
            if len(nodes) == 1:  # of several all but one are another thread's
                notes_of(nodes[0])[self._key] = Stamp(node_log.place(number), node_log)
        if sum(len(nodes) == 1 for nodes in found.values()) == end - start:
            node_log.forget(start)
