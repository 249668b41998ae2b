"""Ops that call functions: ``torch.cond`` and its like, and ops that are made of others."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from torch import fx

from flopcount.attribution.backward import Backward
from flopcount.torch_private.autograd import backward_task
from flopcount.torch_private.compiler import FORWARD_TAG
from flopcount.torch_private.modes import TorchDispatchMode, pop_mode, push_mode, resolving_views


def run_control_flow(
    mode: TorchDispatchMode, backward: Backward, op: Any, args: Any, kwargs: Any
) -> Any:
    """Run a control-flow op such as ``cond``; ``mode`` sees the functions that it calls."""
    seen = (seen_by(mode, _differentiable(arg, backward)) if callable(arg) else arg for arg in args)
    return op(*seen, **kwargs)


def seen_by(mode: TorchDispatchMode, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, whose ops ``mode`` sees even inside one of its own handlers."""

    def run(*args: Any, **kwargs: Any) -> Any:
        push_mode(mode)
        try:
            with resolving_views():
                return function(*args, **kwargs)
        finally:
            pop_mode()

    return run


def _differentiable(function: Callable[..., Any], backward: Backward) -> Callable[..., Any]:
    """What to call in place of ``function``, a branch or the body of a loop."""
    if isinstance(function, fx.GraphModule) and backward_task() != -1:
        return GradientGraph(function, backward).run
    return function


class GradientGraph(fx.Interpreter):
    """Runs the graph that torch makes of a function's gradient: forward, and then backward."""

    def __init__(self, graph: fx.GraphModule, backward: Backward) -> None:
        super().__init__(graph)
        self.backward = backward

    def run_node(self, n: fx.Node) -> Any:
        """Run one node; the forward part is recomputation, since ``cond`` has run it before."""
        is_forward = n.meta.get("partitioner_tag") == FORWARD_TAG
        with self.backward.recomputing() if is_forward else nullcontext():
            return super().run_node(n)
