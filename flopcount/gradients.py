"""Which gradient, the input's, the weight's or the bias', does an op of backward compute?"""

from __future__ import annotations

from typing import Any

from torch import nn

from flopcount._private import GRADIENT_ORDER, backward_task, will_execute
from flopcount.attribution import Thread

__all__ = ["product_gradient", "sum_gradient"]

VIEW_NODES = frozenset(
    f"{op}Backward0"
    for op in (
        *("Alias", "Expand", "Permute", "ReshapeAlias", "Squeeze", "T", "ToCopy", "Transpose"),
        *("UnsafeView", "Unsqueeze", "View"),
    )
)
"""Nodes that pass a gradient on in another shape or dtype."""


def product_gradient(thread: Thread, node: Any) -> str | None:
    """Which gradient the product that ``node`` runs now computes: ``input`` or ``weight``.

    A matmul node makes one product for each of its inputs that wants a gradient, in an order
    that is its own. A gradient that flows to a parameter, through views and casts at most, is
    the weight's.
    """
    order = GRADIENT_ORDER.get(type(node).__name__)
    if order is None:
        return None
    running = backward_task(), node._sequence_nr()
    if running == thread.product_node:
        return thread.products.pop() if thread.products else None
    thread.product_node = running
    thread.products = wanted = []
    edges = node.next_functions
    first, second = (edges[index][0] for index in order)
    for edge in (second, first):
        if edge is not None and will_execute(edge):
            role = "weight" if _leads_to_parameter(edge) else "input"
            wanted.append(role)
    return wanted.pop() if wanted else None


def sum_gradient(thread: Thread, node: Any) -> str | None:
    """``bias`` if a sum in ``node`` reduces the gradient to the shape of an added parameter."""
    name = type(node).__name__
    if name == "AddmmBackward0":
        return "bias" if _leads_to_parameter(node.next_functions[0][0]) else None
    if name == "AddBackward0":
        edges = node.next_functions
        return "bias" if any(_leads_to_parameter(edge) for edge, _ in edges) else None
    return None


def _leads_to_parameter(node: Any) -> bool:
    while node is not None:
        name = type(node).__name__
        if name == "AccumulateGrad":
            return isinstance(node.variable, nn.Parameter)
        if name not in VIEW_NODES:
            return False
        node = node.next_functions[0][0]
    return False
