"""Which phase does a node of a traced program belong to?"""

from __future__ import annotations

from typing import Any

from torch import fx, ops

from flopcount.attribution.phase import BACKWARD, FORWARD, RECOMPUTE
from flopcount.torch_private.compiler import GRADIENTS

__all__ = ["inner_phases", "phases"]


def phases(graph: fx.Graph) -> dict[fx.Node, str]:
    """The phase of each node."""
    calls = [node for node in graph.nodes if node.op == "call_function"]
    tagged = any(map(_tag, graph.nodes))
    backward = _backward(graph) if tagged else _untagged_backward(calls)
    if tagged and _is_backward_alone(graph, backward):
        return {node: BACKWARD if node in backward else RECOMPUTE for node in calls}
    backward.update(filter(_is_gradient, calls))
    return {node: BACKWARD if node in backward else FORWARD for node in calls}


def inner_phases(graph: fx.Graph, outer: str) -> dict[fx.Node, str]:
    """The phases of a graph that an op calls."""
    if outer != BACKWARD:
        return dict.fromkeys(graph.nodes, outer)
    backward = _backward(graph) or set(graph.nodes)
    return {node: BACKWARD if node in backward else RECOMPUTE for node in graph.nodes}


def _tag(node: fx.Node) -> str:
    tag: str | None = node.meta.get("partitioner_tag")
    return tag or ""


def _backward(graph: fx.Graph) -> set[fx.Node]:
    """What was traced in backward.

    The tracer tags all that it met in the forward, and then what torch itself does for gradients.
    What a Python function does has no tag in backward, but a number, as all that was traced.
    What a pass put in has neither; it is backward if it needs what is.
    """
    found: set[fx.Node] = set()
    for node in graph.nodes:
        tag = _tag(node)  # is_backward, must_be_in_backward
        traced = node.op == "call_function" and "seq_nr" in node.meta
        needs_it = not found.isdisjoint(node.all_input_nodes)
        if tag.endswith("backward") or (not tag and (traced or needs_it)):
            found.add(node)
    return found


def _is_backward_alone(graph: fx.Graph, backward: set[fx.Node]) -> bool:
    """Whether forward ops are copies, since a graph is the backward that a partitioner cut out.

    It returns gradients alone; a joint graph, results of the forward, too. A gradient may be such
    a result, in a function that has it before backward: but partitioners mark what they cut out.
    """
    (output,) = graph.find_nodes(op="output")
    returned = {node for node in output.all_input_nodes if node.op == "call_function"}
    tagged = [node for node in graph.nodes if node.op == "call_function" and _tag(node)]
    return returned <= backward or all("autograd_backward" in node.meta for node in tagged)


def _is_gradient(node: fx.Node) -> bool:
    """Whether a forward asks for a gradient by itself, and the node is part of that."""
    sources = node.meta.get("source_fn_stack") or ()
    return any(function in GRADIENTS for _, function in sources)


def _untagged_backward(calls: list[fx.Node]) -> set[fx.Node]:
    """Autograd starts backward from the gradient of the loss by itself, which is one."""
    if any(map(_is_gradient, calls)):
        return set()
    for index, node in enumerate(calls, start=1):
        value: Any = node.meta.get("val")
        if node.target is ops.aten.ones_like.default and value.dim() == 0:
            return set(calls[index:])
    return set()
