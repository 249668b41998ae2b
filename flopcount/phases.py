"""Which phase does a node of a traced program belong to?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import fx, ops

from flopcount.ledger import BACKWARD, FORWARD, RECOMPUTE

__all__ = ["inner_phases", "phases"]


def phases(graph: fx.Graph) -> dict[fx.Node, str]:
    """The phase of each node.

    The tracer tags what it traced while autograd ran backward. A joint graph returns what its
    forward ops make; a partitioned backward, which has copies of some, returns gradients alone.
    """
    calls = [node for node in graph.nodes if node.op == "call_function"]
    if not any("partitioner_tag" in node.meta for node in calls):
        return _untagged_phases(calls)
    (output,) = graph.find_nodes(op="output")
    returned = set(output.all_input_nodes).intersection(calls)
    first = RECOMPUTE if all(map(_is_backward, returned)) else FORWARD
    return {node: BACKWARD if _is_backward(node) else first for node in calls}


def _is_backward(node: fx.Node) -> bool:
    tag: str = node.meta.get("partitioner_tag", "")
    return tag.endswith("backward")  # is_backward, must_be_in_backward


def _untagged_phases(calls: Iterable[fx.Node]) -> dict[fx.Node, str]:
    """Autograd starts backward from the gradient of the loss by itself, which is one."""
    found, phase = {}, FORWARD
    for node in calls:
        found[node] = phase
        value: Any = node.meta.get("val")
        if node.target is ops.aten.ones_like.default and value.dim() == 0:
            phase = BACKWARD
    return found


def inner_phases(graph: fx.Graph, outer: str) -> dict[fx.Node, str]:
    """The phases of a graph that an op calls."""
    if outer != BACKWARD:
        return dict.fromkeys(graph.nodes, outer)
    tagged = any(map(_is_backward, graph.nodes))
    return {
        node: RECOMPUTE if tagged and not _is_backward(node) else BACKWARD for node in graph.nodes
    }
