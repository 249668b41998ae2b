"""torch's compiler and its tracers, and the graphs that they make."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch._functorch import eager_transforms


def untraced() -> AbstractContextManager[None]:
    """Nothing of what runs here is seen by ``torch.jit.trace``."""
    tracing = torch._C._get_tracing_state()
    return nullcontext() if tracing is None else _untraced(tracing)


@contextmanager
def _untraced(tracing: Any) -> Iterator[None]:
    jit: Any = torch._C  # torch's stubs lack this
    jit._set_tracing_state(None)
    try:
        yield
    finally:
        jit._set_tracing_state(tracing)


def has_symbolic_sizes(value: Any) -> bool:
    """Whether ``value`` is a tensor, or holds one, whose shape is symbols: it is being traced."""
    if isinstance(value, (list, tuple)):
        return any(map(has_symbolic_sizes, value))
    return isinstance(value, torch.Tensor) and value._has_symbolic_sizes_strides


def expression(number: Any) -> Any:
    """The sympy expression of a symbolic number, as far as it is known by now."""
    return number.node.expr


def dimension_names(number: Any) -> dict[str, str]:
    """The names that ``torch.export.Dim`` gave to symbols, by name: ``{"batch": "s77"}``.

    A dimension that only others are made of, such as ``half`` in ``2 * half``, is a source under
    its own name. A program that was loaded from a file has lost them.
    """
    env = number.node.shape_env
    named = env.source_name_to_debug_name
    found = {
        named.get(source, source): env.replace(symbol)  # one for dimensions that are equal
        for source, symbol in env.source_to_var.items()
        if source in named or source.isidentifier()
    }
    return {name: symbol.name for name, symbol in found.items() if symbol.is_Symbol}


def traced_range(number: Any, symbol: Any) -> tuple[int, int | None] | None:
    """The least and the greatest ``symbol`` that the program of this symbolic number is for.

    The greatest is None where there is no bound. Of floats, and of lengths of nested tensors,
    nothing is known.
    """
    values = number.node.shape_env.var_to_range.get(symbol)
    if values is None or not values.lower.is_Integer:
        return None
    return int(values.lower), int(values.upper) if values.upper.is_Integer else None


def remainders(number: Any) -> Iterator[Any]:
    """Remainders, such as that of a size by 2, that the program was traced to have none of."""
    yield from number.node.shape_env.divisible


GRADIENTS = frozenset((torch.autograd.grad, eager_transforms._autograd_grad))
"""What a compiled function calls for gradients, itself or by ``torch.func``."""

NO_MODULE = "_empty_nn_module_stack_from_metadata_hook"
"""The path that passes of ``torch.export`` give to nodes of theirs that no module called."""


UNBACKED = ("u", "zuf")
"""What the names of symbols begin with that stand for values of tensors: ``nonzero`` makes them."""


def never_compile(function: Any) -> None:
    """Tell torch.compile to leave ``function``, and all that it calls, to the interpreter.

    ``torch.compiler.disable`` does the same by a wrapper, that takes its time at every call.
    """
    dynamo = torch._C._dynamo.eval_frame
    skip = dynamo._FrameAction.SKIP
    dynamo.set_code_exec_strategy(function.__code__, dynamo._FrameExecStrategy(skip, skip))


is_compiling_for_op: Callable[[], bool] = torch._higher_order_ops.utils._in_hop_compile
"""Whether torch compiles the functions given to an op such as ``cond``, on its own account."""


def ignore_when_captured(function: Any) -> None:
    """Tell torch's compiler that ``function`` does nothing, when it comes by it in other code."""
    function._torchdynamo_inline = _nothing


def _nothing(*args: Any) -> None:
    pass


FORWARD_TAG = "is_forward"
"""What ``node.meta["partitioner_tag"]`` says of the forward part of a graph with gradients."""


def is_graph_of_torchs_own(module: torch.nn.Module) -> bool:
    """Whether ``module`` is no module of the program's, but a graph that torch made of its code.

    Such are functions that control-flow ops call, and the parts of a step that AOT autograd cuts.
    """
    if not isinstance(module, torch.fx.GraphModule):
        return False
    tagged = any("partitioner_tag" in node.meta for node in module.graph.nodes)
    return tagged or is_compiling_for_op()


def stance() -> Any:
    """What torch's compiler, which is loaded, does with functions: it has the name of that."""
    return sys.modules["torch._dynamo"].eval_frame._stance


def set_stance(stance: Any) -> None:
    """Tell torch's compiler what to do with functions.

    ``torch.compiler.set_stance`` takes the name of a stance, here it is an object that has one:
    the compiler reads ``stance.stance`` at each call of a compiled function. Nor would it do so
    inside of a compiled function.
    """
    sys.modules["torch._dynamo"].eval_frame._stance = stance


def forget_compiled() -> None:
    """Forget what torch's compiler remembers of functions, those among them that it leaves be."""
    sys.modules["torch._dynamo"].reset_code_caches()
