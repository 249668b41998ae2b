"""A brute-force count: which calls from Python are products, and how long are their sums?

It sees the user's calls of torch, above autograd and the dispatcher. It knows neither aten ops nor
flopcount's formulas. A product of two operands makes so many results, each a sum of
so many multiply-accumulates. In backward it comes back once for each operand that needs a
gradient: a hook on the result counts that when the gradient really arrives.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

from torch import Tensor
from torch.overrides import TorchFunctionMode

from benchmarks.accuracy.products import MEASURES, Product

__all__ = ["ByHand", "Macs"]


class Macs(NamedTuple):
    """Multiply-accumulates of a step."""

    forward: int = 0
    backward: int = 0

    def __add__(self, other: Any) -> Macs:
        return Macs(self.forward + other[0], self.backward + other[1])

    def __sub__(self, other: Any) -> Macs:
        return Macs(self.forward - other[0], self.backward - other[1])


class ByHand(TorchFunctionMode):
    """Counts the products that Python calls in this block, and those that backward makes of them.

    >>> weight = torch.ones(5, 3, requires_grad=True)
    >>> with ByHand() as hand:
    ...     torch.nn.functional.linear(torch.ones(2, 3), weight).sum().backward()
    >>> hand.total
    Macs(forward=30, backward=30)
    """

    def __init__(self) -> None:
        super().__init__()
        self.forward: Counter[str] = Counter()
        self.backward: Counter[str] = Counter()
        self.repeats = 0
        """(groups - 1) × the MACs of each weight gradient of a grouped convolution."""

    @property
    def total(self) -> Macs:
        """The MACs of all kinds of products."""
        return Macs(self.forward.total(), self.backward.total())

    def of(self, kind: str) -> Macs:
        """The MACs of one kind of product."""
        return Macs(self.forward[kind], self.backward[kind])

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if measure := MEASURES.get(func):
            result = out if isinstance(out, Tensor) else out[0]
            for product in measure(*args, **kwargs, out=result):
                self.post(product, result)
        return out

    def post(self, product: Product, result: Tensor) -> None:
        """Count a product now, and its gradients when the gradient of ``result`` arrives."""
        self.forward[product.kind] += product.macs
        if not (product.gradients and result.requires_grad):
            return

        def arrived(_: Any) -> None:
            self.backward[product.kind] += product.gradients * product.macs
            self.repeats += product.repeats

        # what is done to a view in place later goes around the view's node, not its base's
        made = result._base if result._is_view() else result
        assert made is not None
        assert made.grad_fn is not None
        made.grad_fn.register_prehook(arrived)
