"""Higher-order ops: which of them run a graph of their own, and which stand for another op."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import fx

from flopcount.formulas import plan_of
from flopcount.graph.bills import NodeCall, result_of
from flopcount.graph.sizes import Unsized
from flopcount.torch_private.ops import composite_kernel

RUN_ONCE: dict[str, Callable[..., AbstractContextManager[Any]]] = {
    "invoke_subgraph": nullcontext,
    "tag_activation_checkpoint": nullcontext,
    "wrap": nullcontext,
    "wrap_activation_checkpoint": nullcontext,
    "wrap_with_autocast": torch.autocast,
    "wrap_with_set_grad_enabled": torch.set_grad_enabled,
}
"""Ops that run their graph once, in a context that the arguments before the graph describe."""

LOOPS = {"map_impl": 1, "scan": 2}
"""Ops that run their graph for each slice of the tensors in this argument."""

MADE_OF_OPS = frozenset({"associative_scan"})
"""Ops whose kernel runs ordinary ops."""

FUNCTIONALIZED = frozenset({"auto_functionalized", "auto_functionalized_v2"})
"""Ops that call their first argument, an op that changes its arguments, on copies of these."""

SAVES_STATE = "run_and_save_rng_state"
"""An op that returns a random state, and then what the op that it calls returns."""

RANDOM = {
    "graphsafe_run_with_rng_state": 0,
    SAVES_STATE: 0,
    "run_dtensor_rng_op": 2,
    "run_with_rng_state": 1,
}
"""Ops that keep a random state for the op in this argument, which they call on those after it."""

DEPENDS_ON_VALUES = {
    "cond": "which of its graphs runs depends on values",
    "while_loop": "how often it runs depends on values",
}
"""Why shapes do not tell the cost of an op."""


class Body(NamedTuple):
    """The graph that a higher-order op runs: on ``inputs``, or on those that it was traced with.

    A region is a block under ``context`` in a module's forward. ``casts`` says whether autocast is
    on in it, if that is not as outside.
    """

    module: fx.GraphModule
    times: int = 1
    inputs: Sequence[Any] | None = None
    context: Callable[[], AbstractContextManager[Any]] = nullcontext
    is_region: bool = False
    casts: bool | None = None


def body_of(node: fx.Node, values: Mapping[fx.Node, Any]) -> Body | None:
    """The graph that ``node`` runs; None if it runs none, or how often is unknown."""
    name, args = str(node.target), cast("Any", node.args)
    if name in LOOPS:
        slices = values[args[LOOPS[name]][0]]
        return None if isinstance(slices, Unsized) else Body(values[args[0]], times=len(slices))
    if name not in RUN_ONCE:
        return None
    args = [values[arg] if isinstance(arg, fx.Node) else arg for arg in args]
    place = next(i for i, arg in enumerate(args) if isinstance(arg, fx.GraphModule))
    num_inputs = len(args[place].graph.find_nodes(op="placeholder"))
    context = RUN_ONCE[name]
    return Body(
        args[place],
        inputs=args[len(args) - num_inputs :],
        context=partial(context, *args[:place]),
        is_region=context is not nullcontext,
        # autocast's arguments are device, dtype, enabled, cache_enabled
        casts=args[2] if context is torch.autocast else None,
    )


def call_of_higher_order(node: fx.Node) -> NodeCall:
    """The call that is billed for ``node``, if it runs no graph."""
    op: Any = node.target
    name, args = str(op), node.args
    if random := random_call(node):
        op, args, kwargs = random
        return NodeCall(plan_of(op), args, kwargs, opens=op)
    if name in FUNCTIONALIZED:
        only: Any = args[0]
        return NodeCall(plan_of(only), args, node.kwargs, opens=composite_kernel(op), only=only)
    if name in MADE_OF_OPS:
        return NodeCall(plan_of(op), args, node.kwargs, opens=composite_kernel(op))
    if plan_of(op).runs_functions:
        return NodeCall(plan_of(op), args, node.kwargs, opens=op)
    unknown = DEPENDS_ON_VALUES.get(name, "")
    return NodeCall(plan_of(op), args, node.kwargs, result_of(node), unknown=unknown)


def random_call(node: fx.Node) -> tuple[Any, Any, Any] | None:
    """The op for which ``node`` keeps a random state, and its arguments; None if it keeps none."""
    place = RANDOM.get(str(node.target))
    if place is None:
        return None
    kwargs = {name: value for name, value in node.kwargs.items() if name != "rng_state"}
    return node.args[place], node.args[place + 1 :], kwargs


def result_of_random(node: fx.Node, drawn: Any) -> Any:
    """What ``node`` gives if the op for which it keeps a random state gives ``drawn``."""
    return (None, drawn) if str(node.target) == SAVES_STATE else drawn
