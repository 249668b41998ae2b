"""The functions that control-flow ops such as ``torch.cond`` are given, and call."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from torch import fx

from flopcount.attribution.forward import Attribution
from flopcount.torch_private.autograd import backward_task
from flopcount.torch_private.compiler import FORWARD_TAG

__all__ = ["branch"]


def branch(function: Callable[..., Any], attribution: Attribution) -> Callable[..., Any]:
    """What to call in the place of ``function``, a branch or the body of a loop."""
    if isinstance(function, fx.GraphModule) and backward_task() != -1:
        return GradientGraph(function, attribution).run
    return function


class GradientGraph(fx.Interpreter):
    """Runs the graph that torch makes of a function's gradient, forward and then backward."""

    def __init__(self, graph: fx.GraphModule, attribution: Attribution) -> None:
        super().__init__(graph)
        self.attribution = attribution

    def run_node(self, n: fx.Node) -> Any:
        """Run one node; what belongs to the forward pass was done before."""
        is_forward = n.meta.get("partitioner_tag") == FORWARD_TAG
        with self.attribution.recomputing() if is_forward else nullcontext():
            return super().run_node(n)
