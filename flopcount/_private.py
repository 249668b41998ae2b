"""The private torch names that flopcount stands on; nothing else in the package uses any.

``tests/private`` says, name by name, what each one promises.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

import torch
import torch.utils.checkpoint
from torch._decomp import decomposition_table
from torch._library import custom_ops
from torch._subclasses import fake_tensor
from torch.nn.modules import module as modules_of_nn
from torch.utils import _python_dispatch as dispatch
from torch.utils import _pytree as pytree

TorchDispatchMode = dispatch.TorchDispatchMode
"""What sees every op while it is open."""

is_traceable_wrapper_subclass_type = dispatch.is_traceable_wrapper_subclass_type
"""Whether tensors of this class hold others, and run ops on these: DTensor, jagged tensors."""

FakeTensorMode = fake_tensor.FakeTensorMode
"""Under it ops give tensors without data, of the devices that the program asks for."""

CustomOpDef = custom_ops.CustomOpDef
"""What ``torch.library.custom_op`` makes of a function."""

tree_leaves = pytree.tree_leaves
"""What is in nested lists, tuples, dictionaries, and other containers that torch knows."""

running_node: Callable[[], Any] = torch._C._current_autograd_node
"""The autograd node that this thread is evaluating, or None outside backward."""

next_sequence_nr: Callable[[], int] = torch.autograd._get_sequence_nr  # type: ignore[attr-defined]
"""The number that the next autograd node created by this thread will carry."""

backward_task: Callable[[], int] = torch._C._current_graph_task_id
"""A number that is new for every backward pass, and -1 outside of one."""

# torch's stubs leave out its private layout
DENSE_LAYOUTS = frozenset({torch.strided, torch._mkldnn})  # type: ignore[attr-defined]
"""Layouts of tensors that hold every element of their shape: torch's own, and oneDNN's."""

COO_PARTS = torch.Tensor._values, torch.Tensor._indices
"""What a COO tensor holds, whether or not it is coalesced."""

NO_SEQUENCE_NR = 2**64 - 1
"""What ``node._sequence_nr()`` answers for an AccumulateGrad node."""

GRADIENT_ORDER: dict[str, tuple[int, int]] = {
    "AddmmBackward0": (1, 2),
    "MmBackward0": (1, 0),
    "BmmBackward0": (1, 0),
    "LinearBackward0": (0, 1),
}
"""Which of its inputs' gradients a matmul node computes first, and which second.

The numbers index ``node.next_functions``: ``mm(self, mat2)``, ``addmm(self, mat1, mat2)``.
Autograd's generated code takes the inputs in alphabetical order of their names. ``linear`` is one
node where its input is a nested tensor.
"""


DispatchKey = torch._C.DispatchKey

OpOverload = torch._ops.OpOverload
"""An op for one kind of arguments, ``torch.ops.aten.add.Tensor``: what a dispatch mode gets."""

OpOverloadPacket = torch._ops.OpOverloadPacket
"""All overloads of an op, ``torch.ops.aten.add``."""

HigherOrderOperator = torch._ops.HigherOrderOperator
"""An op that calls functions that it is given, ``torch.ops.higher_order.cond``."""

no_autocast = torch._C._DisableAutocast
"""A context in which no op casts its arguments, whatever the program asked for."""


def packet_name(op: OpOverload | OpOverloadPacket) -> str:
    """``aten::add`` of ``torch.ops.aten.add`` and of each of its overloads."""
    packet = op._overloadpacket if isinstance(op, OpOverload) else op
    return packet._qualified_op_name


def overload_name(op: OpOverload) -> str:
    """``Tensor`` of ``torch.ops.aten.add.Tensor``; ``default`` where there is but one."""
    return op._overloadname


def custom_op_name(op: CustomOpDef) -> str:
    """``mylib::op`` of what ``torch.library.custom_op`` returned."""
    name: str = op._qualname
    return name


def all_overloads() -> Iterator[OpOverload]:
    """Every overload of every op that is registered at this moment, those of libraries too."""
    for name in torch._C._dispatch_get_all_op_names():
        namespace, _, rest = name.partition("::")
        packet, _, overload = rest.partition(".")
        home = getattr(torch.ops, namespace)
        try:
            yield getattr(getattr(home, packet), overload or "default")
        except AttributeError:  # a schema that Python has no way to call
            continue


def schema_of(op: Any) -> Any:
    """The arguments and results of an overload; None for a higher-order op."""
    return getattr(op, "_schema", None)


def has_kernel(op: OpOverload, key: str) -> bool:
    """Whether the dispatcher has a kernel of ``op`` for ``key``.

    It does not know every op that Python does: sizes and strides of jagged tensors are ops, too.
    """
    try:
        return torch._C._dispatch_has_kernel_for_dispatch_key(op.name(), key)
    except RuntimeError:
        return False


def is_composite(op: OpOverload) -> bool:
    """Whether ``op`` is made of other ops on every backend, so that ``decompose()`` opens it.

    A few have a kernel of their own beside the composite one, which gives other last digits.
    """
    return has_kernel(op, "CompositeImplicitAutograd") and not (
        has_kernel(op, "CPU") or has_kernel(op, "CUDA")
    )


def has_nested_kernel(op: Any) -> bool:
    """Whether ``op`` has a kernel of its own for nested tensors, beside a composite one."""
    return has_kernel(op, "NestedTensorCPU") or has_kernel(op, "NestedTensorCUDA")


def component_shapes(nested: torch.Tensor) -> list[tuple[int, ...]]:
    """The shape of each component of a nested tensor of the strided layout.

    They are kept on the host, so that no accelerator is waited for.
    """
    with without_modes():
        shapes = nested._nested_tensor_size()
        return list(map(tuple, shapes.tolist())) if shapes.dim() else []  # a scalar: of none


def composite_kernel(op: Any) -> Callable[..., Any]:
    """The kernel of a composite op, which calls others: what runs when nobody watches.

    ``op.decompose()`` may prefer a decomposition in Python, which gives other last digits.
    """
    if isinstance(op, OpOverload):
        return partial(op._op_dk, DispatchKey.CompositeImplicitAutograd)
    kernel: Callable[..., Any] = op.py_kernels[DispatchKey.CompositeExplicitAutograd]
    return kernel


def decomposition_of(op: OpOverload) -> Callable[..., Any] | None:
    """A function of other ops that does what ``op`` does, or what its functional spelling does."""
    packet, overload = op._overloadpacket, op._overloadname
    namespace, _, name = packet._qualified_op_name.partition("::")
    functional = getattr(getattr(torch.ops, namespace), name.removesuffix("_"), packet)
    names = [overload, overload.removesuffix("out").removesuffix("_"), "default"]
    spellings = [op, *(getattr(functional, name) for name in names if hasattr(functional, name))]
    table: Mapping[Any, Callable[..., Any]] = decomposition_table
    for spelling in spellings:
        if spelling in table:
            return table[spelling]
    composites = (s for s in spellings if has_kernel(s, "CompositeImplicitAutograd"))
    return next((composite_kernel(spelling) for spelling in composites), None)


KeySet = torch._C.DispatchKeySet
LAZY = KeySet(DispatchKey.Conjugate) | KeySet(DispatchKey.Negative) | KeySet(DispatchKey.ZeroTensor)


_included = torch._C._dispatch_tls_local_include_set
_excluded = torch._C._dispatch_tls_local_exclude_set


def resolving_views() -> Any:
    """A context in which kernels get conjugated views resolved, as they do outside of handlers.

    While a mode handles an op, torch leaves out what comes before modes, and that is part of it:
    kernels would take the conjugate of a tensor for the tensor.
    """
    included, excluded = _included(), _excluded() - LAZY
    return torch._C._ForceDispatchKeyGuard(included, excluded)


push_mode: Callable[[TorchDispatchMode], None] = torch._C._push_on_torch_dispatch_stack
"""Open a dispatch mode, on top of the others: inside its own handlers it is closed."""

pop_mode: Callable[[], Any] = partial(torch._C._pop_torch_dispatch_stack, None)
"""Close the mode on top."""


def modes() -> list[TorchDispatchMode]:
    """The dispatch modes that are open in this thread, the outermost first."""
    return [torch._C._get_dispatch_stack_at(i) for i in range(torch._C._len_torch_dispatch_stack())]


@contextmanager
def without_modes() -> Iterator[None]:
    """Nothing of what runs here is seen by the dispatch and function modes of the program."""
    with torch._C.DisableTorchFunction(), dispatch._disable_current_modes():
        yield


@contextmanager
def untraced() -> Iterator[None]:
    """Nothing of what runs here is seen by ``torch.jit.trace``."""
    jit: Any = torch._C  # torch's stubs lack the second of these
    tracing = jit._get_tracing_state()
    if tracing is None:
        yield
        return
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


NO_MODULE = "_empty_nn_module_stack_from_metadata_hook"
"""The path that passes of ``torch.export`` give to nodes of theirs that no module called."""


UNBACKED = ("u", "zuf")
"""What the names of symbols begin with that stand for values of tensors: ``nonzero`` makes them."""


_METHODS = """
    add_.Tensor clone detach div_.Tensor expand mul_.Tensor permute select.int t transpose.int
    unsqueeze view
"""
_FUNCTIONS = """
    add.Tensor addmm bmm cat convolution div.Tensor embedding exp mean.dim mm mul.Tensor
    native_batch_norm native_layer_norm neg relu relu_ rsqrt sigmoid sqrt stack sub.Tensor sum
    sum.dim_IntList tanh
"""


def _bindings() -> dict[OpOverload, Callable[..., Any]]:
    homes = {_METHODS: torch._C.TensorBase, _FUNCTIONS: torch._C._VariableFunctions}
    found = {}
    for names, home in homes.items():
        for name in names.split():
            packet, _, overload = name.partition(".")
            op = getattr(getattr(torch.ops.aten, packet), overload or "default")
            found[op] = getattr(home, packet)
    return found


BINDINGS = _bindings()
"""Common ops, with the function behind ``torch.mm`` or ``Tensor.t`` that calls each of them.

It reads its arguments by code made for them, in half to two thirds of the time that an overload
takes to read them by its schema.
"""


MADE_OF_OPS = frozenset(
    {
        torch.ops.aten.linalg_lstsq.default,
        torch.ops.aten.linalg_lstsq.out,
        torch.ops.aten.linalg_pinv.atol_rtol_tensor,
        torch.ops.aten.linalg_pinv.atol_rtol_tensor_out,
    }
)
"""Ops whose kernel calls others on conjugated views, and of which modes see nothing."""


def bound_call(op: Any) -> Callable[..., Any]:
    """The quickest way to call ``op``: an OpOverload's own is a Python frame around another."""
    if op in MADE_OF_OPS:

        def call(*args: Any, **kwargs: Any) -> Any:
            with resolving_views():
                return op._op(*args, **kwargs)

        return call
    return BINDINGS.get(op) or (op._op if type(op) is OpOverload else op)


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


_will_execute: Callable[[Any], bool] = torch._C._will_engine_execute_node


def will_execute(node: Any) -> bool:
    """Whether the running backward pass wants the gradient that flows into ``node``."""
    try:
        return _will_execute(node)
    except RuntimeError:  # raised for the very leaves that autograd.grad() asks for
        return True


RUN_BACKWARD = torch.autograd.graph._engine_run_backward.__code__
CALLS = frozenset(
    {
        torch.nn.Module._call_impl.__code__,
        torch.optim.Optimizer.profile_hook_step(print).__code__,  # what wraps every step()
    }
)


def _frames() -> Iterator[FrameType]:
    """The frames of this thread, innermost first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def open_calls() -> list[object]:
    """The modules that are being called, and the optimizers that step, innermost first."""
    return [frame.f_locals.get("self") for frame in _frames() if frame.f_code in CALLS]


def notes_of(node: Any) -> dict[Any, Any]:
    """What others want to remember of an autograd node: it keeps them as long as it lives."""
    notes: dict[Any, Any] = node.metadata
    return notes


ANY_BACKWARD_HOOKS: Mapping[int, Any] = modules_of_nn._global_backward_hooks
ANY_BACKWARD_PRE_HOOKS: Mapping[int, Any] = modules_of_nn._global_backward_pre_hooks
"""Hooks of all modules that see gradients; each module has its own, ``_backward_hooks``, too."""


def hook_nodes(module: torch.nn.Module, results: Any) -> int:
    """How many autograd nodes torch adds to a call, after its forward hooks have seen ``results``.

    Full backward hooks run in a node that is put around the results.
    """
    hooks = (*module._get_backward_hooks()[0], *module._get_backward_pre_hooks())
    outputs = results if isinstance(results, tuple) else (results,)
    needed = any(isinstance(output, torch.Tensor) and output.requires_grad for output in outputs)
    return int(bool(hooks) and needed and torch.is_grad_enabled())


def backward_started_here() -> bool:
    """Whether this thread called a backward pass that has not returned yet."""
    return any(frame.f_code is RUN_BACKWARD for frame in _frames())


def sharding_is_planned() -> bool:
    """Whether DTensor runs an op on fake tensors of global size, to find how its result is cut."""
    return "torch.distributed.tensor" in sys.modules and any(
        frame.f_code.co_filename.endswith("_sharding_prop.py") for frame in _frames()
    )


def checkpoint_recomputes() -> bool:
    """Whether torch.utils.checkpoint is at work inside the innermost backward pass."""
    for frame in _frames():
        if frame.f_code is RUN_BACKWARD:
            return False
        if frame.f_code.co_filename == torch.utils.checkpoint.__file__:
            return True
    return False
