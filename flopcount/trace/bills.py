"""What recorded ops cost: each call is rebuilt on the meta device, and billed by its op's plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from flopcount.cost import ZERO, Cost
from flopcount.errors import in_one_line
from flopcount.formulas import Bill, Decision, Gradients, Plan, plan_of
from flopcount.formulas.call import Call
from flopcount.formulas.plan import ask, bill_of
from flopcount.formulas.registry import rule_of_kernel
from flopcount.torch_private.ops import (
    is_composite,
    overloads_named,
    parameter_names,
    returns_tensors,
)
from flopcount.torch_private.tensors import tensors_in
from flopcount.trace.call import (
    MetaCall,
    Unknown,
    call_of,
    dtype_name,
    operands_of,
    overload_of,
    shapes_of,
    size_of,
)
from flopcount.trace.events import CPP, LIST, OP_NAME, TRITON, Arguments

Dtypes = Mapping[tuple[int, ...], torch.dtype]
"""The dtypes of tensors by their shapes."""


class Answer(NamedTuple):
    """What an event costs.

    Attributes:
        bill: what it costs by itself; None for a view, and for what is made of other ops.
        is_whole: whether the events inside it are its kernels, and not counted by themselves.
        shapes: the dtypes of its tensors by their shapes.
        makes_tensor: whether it makes a tensor as the program asks for one, as ``zeros_like`` does.
            Autograd does not hear of these, so that they do not tell whether gradients are on.
    """

    bill: Bill | None
    is_whole: bool
    shapes: Dtypes = MappingProxyType({})
    makes_tensor: bool = False


OPENED = Answer(None, is_whole=False)
"""That of an op which costs what the ops inside it cost."""


GRAPH_OF_KERNELS = Arguments("inductor::graph", (), (), None, None, CPP)
"""What stands for the fused kernels of a graph that were not recorded."""

UNRECORDED = (
    "fused kernels of the CPU are not recorded; torch._inductor.config.cpp.enable_kernel_profile = "
    "True, before it compiles, names them"
)


class Bills:
    """The bills of recorded calls. A call that was recorded before is known by its arguments."""

    def __init__(self) -> None:
        self._answers: dict[Any, Answer] = {}
        self._dtypes: dict[tuple[int, ...], torch.dtype] = {}  # of the last tensor of a shape

    def of(self, recorded: Arguments, inside: Callable[[], Iterable[Arguments]]) -> Answer:
        """What an op with these arguments costs; ``inside`` are those of events inside it."""
        lists = self._list_dtypes(recorded, inside()) if LIST in recorded.types else ()
        key = id(recorded), lists  # equal arguments are one object, which the recording keeps
        answer = self._answers.get(key)
        if answer is None:
            has_others = any(map(_computes, inside()))
            answer = self._answers[key] = _answer(recorded, lists, has_others)
        self._dtypes.update(answer.shapes)
        return answer

    def _list_dtypes(
        self, recorded: Arguments, inside: Iterable[Arguments]
    ) -> tuple[torch.dtype | None, ...]:
        """The dtypes of tensors in lists, which are not recorded.

        They are those of tensors of the same shapes: inside the op, else in the last op before it.
        """
        kernels: dict[tuple[int, ...], torch.dtype] = {}
        for inner in inside:  # the list's come first; a number in it is a tensor without dimensions
            for shape, dtype in shapes_of(inner):
                kernels.setdefault(shape, dtype)
        lists = zip(recorded.dims, recorded.types, strict=True)
        shapes = [shape for dims, kind in lists if kind == LIST for shape in dims]
        return tuple(kernels.get(shape) or self._dtypes.get(shape) for shape in shapes)


def _answer(recorded: Arguments, lists: tuple[torch.dtype | None, ...], has_others: bool) -> Answer:
    name = recorded.name.replace("::", ".", 1)
    if recorded is GRAPH_OF_KERNELS:
        return _uncounted(name, recorded, UNRECORDED)
    if recorded.backend == CPP:
        return _uncounted(f"inductor.{name}", recorded, "a fused kernel tells no shapes")
    if recorded.backend == TRITON:
        return _kernel(recorded)
    if not OP_NAME.fullmatch(recorded.name):
        return OPENED
    try:
        plan = plan_of(overload_of(recorded)[0])
        if plan.decision is Decision.VIEW:
            return Answer(None, is_whole=True)
        if plan.decision is Decision.COMPOSITE or (has_others and is_composite(plan.func)):
            # some have a formula, too: in inference mode, or on one device, they run whole
            return OPENED
        return _billed(plan, call_of(recorded, lists))
    except Unknown as error:
        overloads = overloads_named(recorded.name)
        if overloads and all(map(is_composite, overloads)):
            return OPENED
        return _uncounted(name, recorded, str(error))


def bill_of_function(recorded: Arguments) -> Answer:
    """The bill of a ``torch.autograd.Function`` that launches kernels itself."""
    reason = "it runs kernels of its own, and a recording does not tell what they compute"
    return _uncounted(recorded.name, recorded, reason, Cost(read=size_of(recorded)))


def _computes(recorded: Arguments) -> bool:
    """Whether an op does more than to make, view or copy tensors, as far as is known."""
    try:
        plan = plan_of(overload_of(recorded)[0])
    except Unknown:
        return False
    return plan.decision not in (Decision.FREE, Decision.VIEW)


def _kernel(recorded: Arguments) -> Answer:
    """The bill of a kernel of Triton: by its formula, or with the bytes that it moves at most.

    Each of its tensors is read or written once. It may look at a part of some.
    """
    name = f"{TRITON}.{recorded.name}"
    if rule := rule_of_kernel(recorded.name):
        call = Call(operands_of(recorded), {}, None)
        answer = partial(ask, rule.formula, call) if rule.formula else Gradients
        bill = bill_of(name, call, rule.traffic, answer)
        return Answer(bill, bill.counted)
    key = f"triton:{recorded.name}"
    reason = f"it does not tell what it computes; @flopcount.formula({key!r}) counts it"
    return _uncounted(name, recorded, reason, Cost(read=size_of(recorded)))


def _billed(plan: Plan, call: MetaCall) -> Answer:
    """The bill of a call that is rebuilt."""
    out = None
    if returns_tensors(call.op):
        try:
            out = call.op(*call.args, **call.kwargs)
        except Exception as error:  # it needs values, or has no kernel that does without
            if not (plan.name.endswith("_") and call.args):
                raise Unknown(f"without values it fails with {in_one_line(error)}") from error
            out = call.args[0]  # collectives need a group of processes, and change their tensors
    bill = plan.bill(call.args, call.kwargs, out)
    tensors = tensors_in(*call.args, call.kwargs, out)
    shapes = {tuple(tensor.shape): tensor.dtype for tensor in tensors}
    return Answer(bill, bill.counted, shapes, "pin_memory" in parameter_names(call.op))


def _uncounted(name: str, recorded: Arguments, reason: str, moved: Cost = ZERO) -> Answer:
    """The bill of a call whose cost is unknown."""
    return Answer(Bill(name, dtype_name(recorded), moved, unknown=reason), is_whole=False)
