"""Ops: their names, schemas, kernels, and quick ways to call them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch._decomp import decomposition_table
from torch._library import custom_ops

from flopcount.torch_private.modes import DispatchKey, resolving_views, without_modes

CustomOpDef = custom_ops.CustomOpDef
"""What ``torch.library.custom_op`` makes of a function."""

# torch's stubs leave out its private layout
DENSE_LAYOUTS = frozenset({torch.strided, torch._mkldnn})  # type: ignore[attr-defined]
"""Layouts of tensors that hold every element of their shape: torch's own, and oneDNN's."""

_ROWS = torch.Tensor.values, torch.Tensor.crow_indices, torch.Tensor.col_indices
_COLUMNS = torch.Tensor.values, torch.Tensor.ccol_indices, torch.Tensor.row_indices

SPARSE_PARTS: dict[torch.layout, tuple[Callable[[torch.Tensor], torch.Tensor], ...]] = {
    torch.sparse_coo: (torch.Tensor._values, torch.Tensor._indices),  # coalesced or not
    torch.sparse_csr: _ROWS,
    torch.sparse_bsr: _ROWS,
    torch.sparse_csc: _COLUMNS,
    torch.sparse_bsc: _COLUMNS,
}
"""How each sparse layout keeps its values, and where they are."""

OpOverload = torch._ops.OpOverload
"""An op for one kind of arguments, ``torch.ops.aten.add.Tensor``: what a dispatch mode gets."""

OpOverloadPacket = torch._ops.OpOverloadPacket
"""All overloads of an op, ``torch.ops.aten.add``."""

HigherOrderOperator = torch._ops.HigherOrderOperator
"""An op that calls functions that it is given, ``torch.ops.higher_order.cond``."""


def packet_name(op: OpOverload | OpOverloadPacket) -> str:
    """``aten::add`` of ``torch.ops.aten.add`` and of each of its overloads."""
    packet = op._overloadpacket if isinstance(op, OpOverload) else op
    return packet._qualified_op_name


def overload_name(op: OpOverload) -> str:
    """``Tensor`` of ``torch.ops.aten.add.Tensor``; ``default`` where there is only one."""
    return op._overloadname


def custom_op_name(op: CustomOpDef) -> str:
    """``mylib::op`` of what ``torch.library.custom_op`` returned."""
    return str(op._qualname)


def all_overloads() -> Iterator[OpOverload]:
    """Every overload of every op that is registered now, also by libraries."""
    for name in torch._C._dispatch_get_all_op_names():
        namespace, _, rest = name.partition("::")
        try:
            yield _overload(namespace, rest)
        except AttributeError:  # a schema that Python cannot call
            continue


def overloads_named(name: str) -> list[OpOverload]:
    """All overloads of ``aten::add``; none if no such op is registered now."""
    namespace, _, rest = name.partition("::")
    packet = getattr(getattr(torch.ops, namespace), rest, None) if rest.isidentifier() else None
    if not isinstance(packet, OpOverloadPacket):
        return []
    return [getattr(packet, overload) for overload in packet.overloads()]


def _overload(namespace: str, name: str) -> OpOverload:
    packet, _, overload = name.partition(".")
    op: OpOverload = getattr(getattr(getattr(torch.ops, namespace), packet), overload or "default")
    return op


def schema_of(op: Any) -> Any:
    """The arguments and results of an overload; None for a higher-order op."""
    return getattr(op, "_schema", None)


def arguments_of(op: Any) -> list[Any]:
    """The parameters of an overload, as its schema lists them; none for a higher-order op."""
    return list(getattr(schema_of(op), "arguments", ()))


def is_higher_order(op: Any) -> bool:
    """Whether ``op`` calls functions that it is given, and so has no schema."""
    return schema_of(op) is None


def returns_alias(op: OpOverload) -> bool:
    """Whether a result of ``op`` shares the memory of an argument."""
    return any(result.alias_info is not None for result in schema_of(op).returns)


def returns_tensors(op: OpOverload) -> bool:
    """Whether a result of ``op`` is a tensor, or a list of tensors; else it is a number or none."""
    return any("Tensor" in str(result.type) for result in schema_of(op).returns)


def takes_numbers(op: OpOverload) -> bool:
    """Whether ``op`` takes numbers for its tensors, as ``mul`` does and ``eq`` does not."""
    takes: bool = torch._C._should_allow_numbers_as_tensors(packet_name(op).partition("::")[2])
    return takes


def parameter_names(op: Any) -> frozenset[str]:
    """The names of an op's parameters; a packet has those of all its overloads, a name none."""
    if isinstance(op, CustomOpDef):
        op = op._opoverload
    packet = isinstance(op, OpOverloadPacket)
    overloads = [getattr(op, name) for name in op.overloads()] if packet else [op]
    return frozenset(argument.name for op in overloads for argument in arguments_of(op))


def has_kernel(op: OpOverload, key: str) -> bool:
    """Whether the dispatcher has a kernel of ``op`` for ``key``."""
    try:
        return torch._C._dispatch_has_kernel_for_dispatch_key(op.name(), key)
    except RuntimeError:  # only Python knows the op, such as the sizes of jagged tensors
        return False


def hides_grad_mode(op: OpOverload) -> bool:
    """Whether a library's kernel in C++ may have turned gradients off before a mode sees ``op``.

    torch's class of custom functions in C++ does so. torch's own kernels do not, and a custom
    function in Python is seen by itself.
    """
    name = op.name().replace("::", "/")
    return (
        has_kernel(op, "Autograd")
        and op.namespace != "aten"
        and f"{name}/Autograd" not in torch.library._impls
    )


def is_composite(op: OpOverload) -> bool:
    """Whether ``op`` is made of other ops on every backend, so that ``decompose()`` opens it.

    A few ops have a kernel of their own beside the composite one; its last digits differ.
    """
    return has_kernel(op, "CompositeImplicitAutograd") and not (
        has_kernel(op, "CPU") or has_kernel(op, "CUDA")
    )


def has_nested_kernel(op: Any) -> bool:
    """Whether ``op`` has a kernel of its own for nested tensors, beside a composite one."""
    return has_kernel(op, "NestedTensorCPU") or has_kernel(op, "NestedTensorCUDA")


def component_shapes(nested: torch.Tensor) -> list[tuple[int, ...]]:
    """The shape of each component of a nested tensor of the strided layout."""
    with without_modes():  # torch keeps these on the host: this waits for no accelerator
        shapes = nested._nested_tensor_size()
        return list(map(tuple, shapes.tolist())) if shapes.dim() else []  # a scalar has none


def composite_kernel(op: Any) -> Callable[..., Any]:
    """The kernel of a composite op, which calls other ops, as it runs without a counter.

    ``op.decompose()`` may prefer a decomposition in Python, whose last digits differ.
    """
    if isinstance(op, OpOverload):
        return partial(op._op_dk, DispatchKey.CompositeImplicitAutograd)
    kernel: Callable[..., Any] = op.py_kernels[DispatchKey.CompositeExplicitAutograd]
    return kernel


def decomposition_of(op: OpOverload) -> Callable[..., Any] | None:
    """A function of other ops that does the same as ``op``, or as its functional variant."""
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


_METHODS = """
    add_.Tensor clone detach div_.Tensor expand mul_.Tensor permute select.int t transpose.int
    unsqueeze view
"""
_FUNCTIONS = """
    add.Tensor addmm bmm cat convolution div.Tensor embedding exp mean.dim mm mul.Tensor
    native_batch_norm native_layer_norm neg relu relu_ rsqrt sigmoid sqrt stack sub.Tensor sum
    sum.dim_IntList tanh
"""

BINDINGS: dict[OpOverload, Callable[..., Any]] = {
    _overload("aten", name): getattr(home, name.partition(".")[0])
    for names, home in ((_METHODS, torch._C.TensorBase), (_FUNCTIONS, torch._C._VariableFunctions))
    for name in names.split()
}
"""Common ops, each with the function behind ``torch.mm`` or ``Tensor.t`` that calls it. Generated
code parses its arguments, in half to two thirds of the time that an overload takes."""

MADE_OF_OPS = (
    torch.ops.aten.linalg_lstsq.default,
    torch.ops.aten.linalg_lstsq.out,
    torch.ops.aten.linalg_pinv.atol_rtol_tensor,
    torch.ops.aten.linalg_pinv.atol_rtol_tensor_out,
)
"""Ops whose kernels call other ops on conjugated views; modes do not see those calls."""


def bound_call(op: Any) -> Callable[..., Any]:
    """The quickest way to call ``op``; calling an OpOverload adds a Python frame."""
    if op in MADE_OF_OPS:

        def call(*args: Any, **kwargs: Any) -> Any:
            with resolving_views():
                return op._op(*args, **kwargs)

        return call
    return BINDINGS.get(op) or (op._op if type(op) is OpOverload else op)
