"""Which gradient does an op of the backward pass compute: the input's, weight's or bias's?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from flopcount.attribution.backward import Backward
from flopcount.torch_private.autograd import GRADIENT_ORDER, backward_task, will_execute

ADDED = {"AddmmBackward0": (0,), "AddBackward0": (0, 1), "LinearBackward0": (2,)}
"""Which ``next_functions`` of a node belong to terms of a sum, which may have been broadcast."""

_VIEWS = "Alias Expand Permute ReshapeAlias Squeeze T ToCopy Transpose UnsafeView Unsqueeze View"
VIEWS = frozenset(f"{op}Backward0" for op in _VIEWS.split())
"""Nodes that pass a gradient on in another shape or dtype."""


class Kind:
    """What a class of autograd nodes does with gradients.

    Attributes:
        order: the indices in ``next_functions`` whose gradients are products, the last first.
        second: the index of the second factor.
        added: the indices of terms, whose gradients may be sums.
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
    """The kind of each class; a look-up by name is slower, since torch makes the name each time."""

    def __missing__(self, cls: type) -> Kind:
        self[cls] = kind = Kind(cls.__name__)
        return kind


KINDS = _Kinds()


class NodeGradients:
    """Which gradients the running node of a thread has still to compute."""

    __slots__ = ("_backward", "_bias", "_node_mark", "_products", "_task")

    def __init__(self, backward: Backward) -> None:
        self._backward = backward
        self._node_mark: object = None
        self._task = -1
        self._products: list[str] = []  # the next one last
        self._bias: str | None = None

    def product(self, node: Any) -> str | None:
        """Which gradient the product that ``node`` runs now computes: ``input`` or ``weight``.

        A matmul node makes one product for each of its inputs that wants a gradient, in an order
        of its own. A gradient that flows to a parameter, through nothing but views and casts, is
        the weight's. So is the gradient of the transposed factor in a Linear, whose weight may
        itself be computed.
        """
        if self._node_mark != self._backward.node_mark or self._task != backward_task():
            self._look_at(node)
        return self._products.pop() if self._products else None

    def sum(self, node: Any) -> str | None:
        """``bias`` if a sum in ``node`` reduces the gradient to the shape of an added parameter."""
        if self._node_mark != self._backward.node_mark or self._task != backward_task():
            self._look_at(node)
        return self._bias

    def _look_at(self, node: Any) -> None:
        """Note what ``node`` computes, once in a pass: its products, the last first, and a bias."""
        self._node_mark, self._task = self._backward.node_mark, backward_task()
        self._products = products = []
        self._bias = None
        kind = KINDS[type(node)]
        if not kind.order and not kind.added:
            return
        edges = node.next_functions
        for index in kind.order:
            edge = edges[index][0]
            if edge is not None and will_execute(edge):
                is_weight = _leads_to_parameter(edge) or (
                    index == kind.second and KINDS[type(edge)].is_transpose and self._is_linear()
                )
                products.append("weight" if is_weight else "input")
        for index in kind.added:
            if _leads_to_parameter(edges[index][0]) or self._is_linear():
                self._bias = "bias"

    def _is_linear(self) -> bool:
        """Whether a Linear made the running node."""
        return isinstance(self._backward.node_place.scope.module, nn.Linear)


def _leads_to_parameter(node: Any) -> bool:
    while node is not None:
        kind = KINDS[type(node)]
        if not kind.is_view:
            return kind.is_leaf and isinstance(node.variable, nn.Parameter)
        node = node.next_functions[0][0]
    return False


FINDERS: dict[str, Callable[[NodeGradients, Any], str | None]] = {
    "aten.mm": NodeGradients.product,
    "aten.bmm": NodeGradients.product,
    "aten.sum": NodeGradients.sum,
}
"""What finds the gradient that an op computes, where the autograd graph tells it."""
