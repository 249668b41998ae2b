"""torch's compiler and its tracers, and the graphs that they make."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import CodeType
from typing import Any

import torch
from torch._functorch import eager_transforms


@contextmanager
def untraced() -> Iterator[None]:
    """A context in which ``torch.jit.trace`` sees nothing."""
    jit: Any = torch._C  # torch's stubs lack this
    tracing = jit._get_tracing_state()
    jit._set_tracing_state(None)
    try:
        yield
    finally:
        jit._set_tracing_state(tracing)


def has_symbolic_sizes(value: Any) -> bool:
    """Whether ``value`` is, or holds, a tensor with a symbolic shape, as in tracing."""
    if isinstance(value, (list, tuple)):
        return any(map(has_symbolic_sizes, value))
    return isinstance(value, torch.Tensor) and value._has_symbolic_sizes_strides


def expression(number: Any) -> Any:
    """The sympy expression of a symbolic number, simplified by what is known so far."""
    return number.node.expr


def dimension_names(number: Any) -> dict[str, str]:
    """The symbol of each dimension that ``torch.export.Dim`` named: ``{"batch": "s77"}``.

    A dimension that is only part of others, such as ``half`` in ``2 * half``, is a source under
    its own name. A program that was loaded from a file has lost these names.
    """
    env = number.node.shape_env
    named = env.source_name_to_debug_name
    symbols = {
        named.get(source, source): env.replace(symbol)  # one for dimensions that are equal
        for source, symbol in env.source_to_var.items()
        if source in named or source.isidentifier()
    }
    return {name: symbol.name for name, symbol in symbols.items() if symbol.is_Symbol}


def traced_range(number: Any, symbol: Any) -> tuple[int, int | None] | None:
    """The least and the greatest value of ``symbol`` that the program was traced for.

    The greatest is None where there is no bound. The whole is None for floats and for lengths of
    nested tensors, whose ranges torch does not record.
    """
    values = number.node.shape_env.var_to_range.get(symbol)
    if values is None or not values.lower.is_Integer:
        return None
    return int(values.lower), int(values.upper) if values.upper.is_Integer else None


def remainders(number: Any) -> Iterator[Any]:
    """The remainders that tracing assumed to be zero, such as ``size % 2``."""
    yield from number.node.shape_env.divisible


GRADIENTS = frozenset((torch.autograd.grad, eager_transforms._autograd_grad))
"""What a compiled function calls to compute gradients, directly or through ``torch.func``."""

NO_MODULE = "_empty_nn_module_stack_from_metadata_hook"
"""The module path that passes of ``torch.export`` give to nodes that they add themselves."""

UNBACKED = ("u", "zuf")
"""How names of symbols begin that stand for values of tensors, such as the size of ``nonzero``."""


def never_compile(function: Any) -> None:
    """Tell torch.compile to leave ``function``, and all that it calls, to the interpreter."""
    # torch.compiler.disable() does the same with a wrapper, which costs time at every call
    _interpret(function, callees="SKIP")


def leave_to_interpreter(function: Any) -> None:
    """Tell torch.compile to leave ``function`` to the interpreter, but not what it calls."""
    _interpret(function, callees="DEFAULT")


def _interpret(function: Any, callees: str) -> None:
    dynamo = torch._C._dynamo.eval_frame
    action = dynamo._FrameAction
    strategy = dynamo._FrameExecStrategy(action.SKIP, getattr(action, callees))
    dynamo.set_code_exec_strategy(function.__code__, strategy)


is_compiling_for_op: Callable[[], bool] = torch._higher_order_ops.utils._in_hop_compile
"""Whether torch itself is compiling the functions that an op such as ``cond`` was given."""


def ignore_when_captured(function: Any) -> None:
    """Tell torch's compiler that ``function`` does nothing where traced code calls it."""
    function._torchdynamo_inline = _nothing


def _nothing(*args: Any) -> None:
    pass


def unseen_by_compiler(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` as a hook that compiled code does not call, and that is not compiled itself."""
    hook: Callable[..., Any] = torch.compiler.disable(function)
    ignore_when_captured(hook)
    return hook


FIRST_TIME = re.compile(r".*/0(_\d+)?")
"""What ends the number of a compilation of code that was not compiled before."""


def around_compilation(
    begin: Callable[[bool], None], end: Callable[[], None]
) -> Callable[[], None]:
    """Call ``begin`` before torch's compiler reads code, and ``end`` once it is compiled.

    ``begin`` is told whether this code is compiled for the first time. What is returned stops this.
    There can be one such pair at a time.
    """
    handler: Any = torch._dynamo.callback.callback_handler
    run_start, run_end = handler.run_start_callbacks, handler.run_end_callbacks

    def run_start_callbacks(compilation: Any) -> None:
        begin(FIRST_TIME.fullmatch(compilation.compile_id) is not None)
        run_start(compilation)

    def run_end_callbacks(compilation: Any) -> None:
        run_end(compilation)
        end()

    def stop() -> None:
        del handler.run_start_callbacks, handler.run_end_callbacks

    # a reset of the compiler forgets callbacks that are registered
    handler.run_start_callbacks = run_start_callbacks
    handler.run_end_callbacks = run_end_callbacks
    return stop


FORWARD_TAG = "is_forward"
"""The ``node.meta["partitioner_tag"]`` of the forward part of a graph with gradients."""


def is_graph_of_torchs_own(module: torch.nn.Module) -> bool:
    """Whether ``module`` is a graph that torch made of the program's code, not a module of it.

    These are functions that control-flow ops call, parts into which AOT autograd cuts a step, and
    what an exported program checks its inputs with.
    """
    if not isinstance(module, torch.fx.GraphModule):
        return type(module).__name__ == "GuardsFn"
    tagged = any("partitioner_tag" in node.meta for node in module.graph.nodes)
    return tagged or is_compiling_for_op()


def forward_code(module: torch.nn.Module) -> CodeType | None:
    """The code of a graph module's forward, which is another one when it is compiled again."""
    is_graph = isinstance(module, torch.fx.GraphModule)
    return getattr(type(module).forward, "__code__", None) if is_graph else None


def nodes_by_line(module: torch.fx.GraphModule) -> dict[int, torch.fx.Node]:
    """The node that each line of a graph module's forward runs."""
    numbers = getattr(module, "_lineno_map", None)  # torch uses it to say where an error came from
    if numbers is None:
        return {}
    nodes, start = list(module.graph.nodes), module._prologue_start
    lines = numbers.items()
    return {start + line: nodes[i] for line, i in lines if i is not None and i < len(nodes)}


def stance() -> Any:
    """The current stance of torch's compiler, an object with a name; the compiler is loaded."""
    return sys.modules["torch._dynamo"].eval_frame._stance


def set_stance(stance: Any) -> None:
    """Tell torch's compiler what to do with functions.

    Unlike ``torch.compiler.set_stance``, this works inside a compiled function too, and takes an
    object, whose ``stance`` the compiler reads at each call of a compiled function.
    """
    sys.modules["torch._dynamo"].eval_frame._stance = stance


def forget_compiled() -> None:
    """Make torch's compiler forget all functions, including those that it marked as eager."""
    sys.modules["torch._dynamo"].reset_code_caches()


def compiles_backward() -> bool:
    """Whether compiled autograd is on, so that the compiler runs backward, not autograd."""
    module = sys.modules.get("torch._dynamo.compiled_autograd")
    return module is not None and module.compiled_autograd_enabled


def without_compiled_autograd() -> AbstractContextManager[None]:
    """A context in which autograd runs backward by itself; compiled autograd is on."""
    context: AbstractContextManager[None]
    context = sys.modules["torch._dynamo.compiled_autograd"]._disable()
    return context
