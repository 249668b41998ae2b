"""Which gradient, the input's, the weight's or the bias', does an op of backward compute?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from flopcount.attribution.thread_state import ThreadState
from flopcount.torch_private.autograd import GRADIENT_ORDER, backward_task, will_execute

__all__ = ["GradientFinder", "finder"]

GradientFinder = Callable[[ThreadState, Any], "str | None"]
"""Which gradient does the op compute that this autograd node runs now?"""

ADDED = {"AddmmBackward0": (0,), "AddBackward0": (0, 1), "LinearBackward0": (2,)}
"""Which ``next_functions`` of a node belong to what is added, and may have been broadcast."""

VIEWS = frozenset(
    f"{op}Backward0"
    for op in (
        *("Alias", "Expand", "Permute", "ReshapeAlias", "Squeeze", "T", "ToCopy", "Transpose"),
        *("UnsafeView", "Unsqueeze", "View"),
    )
)
"""Nodes that pass a gradient on in another shape or dtype."""


class Kind:
    """What a class of autograd nodes does with gradients.

    Attributes:
        order: the ``next_functions`` that its products are gradients of, the last product first.
        second: that of the second factor.
        added: those that a sum in it may be the gradient of.
        is_view: it passes a gradient on in another shape or dtype.
        is_leaf: it hands a gradient over to a tensor.
        is_transpose: its gradient is that of a transposed matrix.
    """

    __slots__ = ("added", "is_leaf", "is_transpose", "is_view", "order", "second")

    def __init__(self, name: str) -> None:
        self.order = GRADIENT_ORDER.get(name, ())[::-1]
        self.second = max(self.order, default=-1)
        self.added = ADDED.get(name, ())
        self.is_view = name in VIEWS
        self.is_leaf = name == "AccumulateGrad"
        self.is_transpose = name == "TBackward0"


class _Kinds(dict[type, Kind]):
    """The kinds by class: quicker than by a name, which is made anew each time it is asked for."""

    def __missing__(self, cls: type) -> Kind:
        self[cls] = kind = Kind(cls.__name__)
        return kind


KINDS = _Kinds()


def finder(name: str) -> GradientFinder | None:
    """What tells the gradient of the op ``name``, if its place in the autograd graph does."""
    return FINDERS.get(name)


def product_gradient(thread: ThreadState, node: Any) -> str | None:
    """Which gradient the product that ``node`` runs now computes: ``input`` or ``weight``.

    A matmul node makes one product for each of its inputs that wants a gradient, in an order
    that is its own. A gradient that flows to a parameter, through views and casts at most, is
    the weight's; so is that of the transposed factor in a Linear, whose weight may be computed.
    """
    if thread.products is None or thread.products_task != backward_task():
        _look(thread, node)
    return thread.products.pop() if thread.products else None


def sum_gradient(thread: ThreadState, node: Any) -> str | None:
    """``bias`` if a sum in ``node`` reduces the gradient to the shape of an added parameter."""
    if thread.products is None or thread.products_task != backward_task():
        _look(thread, node)
    return thread.bias


def _look(thread: ThreadState, node: Any) -> None:
    """Note what ``node`` computes, once in a pass: its products, the last first, and a bias."""
    thread.products = products = []
    thread.products_task, thread.bias = backward_task(), None
    kind = KINDS[type(node)]
    if kind.order or kind.added:
        edges = node.next_functions
        for index in kind.order:
            edge = edges[index][0]
            if edge is not None and will_execute(edge):
                is_weight = _leads_to_parameter(edge) or (
                    index == kind.second and KINDS[type(edge)].is_transpose and _is_linear(thread)
                )
                products.append("weight" if is_weight else "input")
        for index in kind.added:
            if _leads_to_parameter(edges[index][0]) or _is_linear(thread):
                thread.bias = "bias"


def _is_linear(thread: ThreadState) -> bool:
    """Whether the node that runs was made by a Linear."""
    return isinstance(thread.node_place.scope.module, nn.Linear)


def _leads_to_parameter(node: Any) -> bool:
    while node is not None:
        kind = KINDS[type(node)]
        if not kind.is_view:
            return kind.is_leaf and isinstance(node.variable, nn.Parameter)
        node = node.next_functions[0][0]
    return False


FINDERS: dict[str, GradientFinder] = {
    "aten.mm": product_gradient,
    "aten.bmm": product_gradient,
    "aten.sum": sum_gradient,
}
