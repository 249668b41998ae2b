"""The phase of each node of a traced program."""

from typing import Any

from torch import fx, ops

from flopcount.attribution.phase import BACKWARD, FORWARD, RECOMPUTE
from flopcount.torch_private.compiler import GRADIENTS


def phases(graph: fx.Graph) -> dict[fx.Node, str]:
    """The phase of each call."""
    calls = [node for node in graph.nodes if node.op == "call_function"]
    is_tagged = any(map(_tag, graph.nodes))
    backward = _tagged_backward(graph) if is_tagged else _untagged_backward(calls)
    if is_tagged and _is_cut_out(graph, backward):
        return {node: BACKWARD if node in backward else RECOMPUTE for node in calls}
    backward.update(filter(_is_gradient, calls))
    return {node: BACKWARD if node in backward else FORWARD for node in calls}


def inner_phases(graph: fx.Graph, outer: str) -> dict[fx.Node, str]:
    """The phases in a graph that is run by a node of phase ``outer``."""
    if outer != BACKWARD:
        return dict.fromkeys(graph.nodes, outer)
    backward = _tagged_backward(graph) or set(graph.nodes)
    return {node: BACKWARD if node in backward else RECOMPUTE for node in graph.nodes}


def _tag(node: fx.Node) -> str:
    return str(node.meta.get("partitioner_tag") or "")


def _tagged_backward(graph: fx.Graph) -> set[fx.Node]:
    """The nodes that were traced in backward.

    The tracer tags every node of the forward, and those that torch adds for gradients. A Python
    function's backward has no tags, but its nodes have a sequence number, as all traced nodes do.
    A node that a compiler pass added has neither: it is backward if one of its inputs is.
    """
    backward: set[fx.Node] = set()
    for node in graph.nodes:
        tag = _tag(node)  # is_forward, is_backward, must_be_in_backward
        is_traced = node.op == "call_function" and "seq_nr" in node.meta
        needs_backward = not backward.isdisjoint(node.all_input_nodes)
        if tag.endswith("backward") or (not tag and (is_traced or needs_backward)):
            backward.add(node)
    return backward


def _is_cut_out(graph: fx.Graph, backward: set[fx.Node]) -> bool:
    """Whether a partitioner cut ``graph`` out as the backward, so that forward ops are copies.

    Such a graph returns gradients alone; a joint graph also returns results of the forward. A
    function that computes a gradient early, in its forward, may return that: but then the nodes
    have the partitioner's mark.
    """
    (output,) = graph.find_nodes(op="output")
    returned = {node for node in output.all_input_nodes if node.op == "call_function"}
    tagged = [node for node in graph.nodes if node.op == "call_function" and _tag(node)]
    return returned <= backward or all("autograd_backward" in node.meta for node in tagged)


def _is_gradient(node: fx.Node) -> bool:
    """Whether ``node`` computes a gradient that the program's forward asks for."""
    sources = node.meta.get("source_fn_stack") or ()
    return any(function in GRADIENTS for _, function in sources)


def _untagged_backward(calls: list[fx.Node]) -> set[fx.Node]:
    """What follows the 1 that autograd starts from: the gradient of a scalar loss."""
    if any(map(_is_gradient, calls)):
        return set()
    for index, node in enumerate(calls, start=1):
        value: Any = node.meta.get("val")
        if node.target is ops.aten.ones_like.default and value.dim() == 0:
            return set(calls[index:])
    return set()
