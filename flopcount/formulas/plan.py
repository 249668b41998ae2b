"""How a call is decided and billed: the plan made once for each overload."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from flopcount.cost import ZERO, Cost
from flopcount.formulas import bytes as traffic
from flopcount.formulas import registry
from flopcount.formulas.decomposition import decomposed
from flopcount.formulas.nested_components import components
from flopcount.formulas.registry import (
    Decision,
    Formula,
    Gradients,
    Rule,
    Traffic,
    Uncountable,
    rule_of,
)
from flopcount.torch_private.ops import (
    DENSE_LAYOUTS,
    is_composite,
    overload_name,
    packet_name,
    schema_of,
)
from flopcount.torch_private.tensors import tensors_in

__all__ = ["CONTROL_FLOW", "Bill", "Plan", "describe", "plan_of"]

BILL_LIMIT = 1 << 12
"""Signatures of one op whose bills are kept."""

BOOKKEEPING = frozenset({"prim", "profiler"})
"""Namespaces of ops that touch no tensor's data: they pass as views do, and are not on record."""


DYNAMIC = frozenset({torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output})
"""Tags of ops whose result has a shape that depends on values."""


OPENED = frozenset({"flex_attention", "flex_attention_backward"})
"""Higher-order ops whose eager kernel is made of ordinary ones."""

CONTROL_FLOW = frozenset(
    {"associative_scan", "cond", "map_impl", "scan", "while_loop", "while_loop_stack_output"}
)
"""Higher-order ops that call the functions that they are given, as often as values want it."""


WHOLE = re.compile(r"(Optional\[)?(List\[)?(int|bool)\]*")
"""Types of parameters, as schemas print them, whose values only whole numbers and truths can be."""

UNKNOWN = {
    Decision.UNCOUNTED: "it has no formula",
    Decision.COMPOSITE: "its kernel for nested tensors has no formula",
}
"""Why a call is uncounted that has come so far; a composite op is opened but for such kernels."""


@dataclass(frozen=True, slots=True)
class Bill:
    """What one call of an op costs, ready to be posted."""

    op: str
    dtype: str
    cost: Cost
    gradients: dict[str, Cost] = field(default_factory=dict)
    recompute: Cost = ZERO
    unknown: str = ""

    @property
    def counted(self) -> bool:
        """Whether ``unknown``, the reason why the cost is not known, is empty."""
        return not self.unknown


class Plan:
    """What to do about one overload, decided once.

    Attributes:
        name: ``aten.mm``: the op as reports name it.
        decision: how it is decided.
        dynamic: its arguments do not tell all of its result, so that its signature includes it.
        coefficients: places and names of parameters whose numbers matter only as 0, 1 or another.
        whole: places and names of parameters that take whole numbers, truths, or lists of them.
        operands: how many arguments it begins with that are tensors.
        sparse: the rule for calls with sparse tensors.
        nested: the rule for calls with nested tensors, if not each of their components counts.
        values: its formula reads values of tensors, so that calls have no signature.
        version: of the rules that it was made of.
        why: the reason for which it is free, if it has one of its own.
        bills: the cost of calls that were seen before, by their signatures.
    """

    __slots__ = (
        "bills",
        "coefficients",
        "decision",
        "dynamic",
        "formula",
        "func",
        "name",
        "nested",
        "operands",
        "sparse",
        "traffic",
        "values",
        "version",
        "whole",
        "why",
        "written",
    )

    def __init__(self, func: Any, formulas: dict[str, Formula] | None = None) -> None:
        self.version = registry.version
        self.func = func  # keeps the op alive, so that its id() stays its own
        self.name = func.name().split(".")[0].replace("::", ".", 1)
        self.bills: dict[Any, Bill] = {}
        self.formula: Formula | None = None
        self.traffic: Traffic = traffic.operands_and_results
        self.sparse: Rule | None = None
        self.nested: Rule | None = None
        self.why, self.values = "", False
        self.written: tuple[tuple[int, str], ...] = ()
        self.coefficients: frozenset[int | str] = frozenset()
        self.whole: frozenset[int | str] = frozenset()
        schema = schema_of(func)
        if schema is None:  # a higher-order op
            opens = func.name() in OPENED | CONTROL_FLOW
            self.decision = Decision.COMPOSITE if opens else Decision.UNCOUNTED
            self.dynamic, self.operands = False, 0
            return
        kinds = [
            str(argument.type) == "Tensor" and not argument.kwarg_only
            for argument in schema.arguments
        ]
        self.written = tuple(
            (index, argument.name)
            for index, argument in enumerate(schema.arguments)
            if argument.alias_info is not None and argument.alias_info.is_write
        )
        self.whole = frozenset(
            key
            for place, argument in enumerate(schema.arguments)
            if WHOLE.fullmatch(str(argument.type))
            for key in (place, argument.name)
        )
        self.operands = [*kinds, False].index(False)
        # the default dtype decides what a factory makes; other libraries' ops may look at values
        depends = self.operands == 0 or func.namespace != "aten"
        self.dynamic = depends or not DYNAMIC.isdisjoint(func.tags)
        self._decide(_spellings(func), formulas or {})

    def _decide(self, spellings: Sequence[str], formulas: dict[str, Formula]) -> None:
        if self.func.namespace in BOOKKEEPING:
            self.decision = Decision.VIEW
            return
        for spelling in spellings:
            if spelling in formulas:
                self.decision, self.formula = Decision.FORMULA, formulas[spelling]
                return
        self.sparse = rule_of(spellings, "sparse")
        self.nested = rule_of(spellings, "nested")
        if rule := rule_of(spellings):
            self.decision = Decision.FORMULA if rule.formula else Decision.FREE
            self.formula, self.traffic, self.why = rule.formula, rule.traffic, rule.why
            self.values = rule.values
            for place, argument in enumerate(schema_of(self.func).arguments):
                if argument.name in rule.coefficients:
                    self.coefficients |= {place}
            self.coefficients |= rule.coefficients
            return
        returns = schema_of(self.func).returns
        if is_composite(self.func):  # even if it says that it gives a view: reshape() may copy
            self.decision = Decision.COMPOSITE
        elif not self.written and any(returned.alias_info is not None for returned in returns):
            self.decision = Decision.VIEW
        else:
            self.formula = decomposed(self.func, plan_of)
            self.decision = Decision.DECOMPOSED if self.formula else Decision.UNCOUNTED
            if (self.sparse or self.nested) and not self.formula:
                self.decision, self.formula = Decision.FORMULA, _special_alone

    def bill(self, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Bill:
        """The cost of one call, from the shapes and dtypes of its arguments and result."""
        operands = [*args, *kwargs.values()]
        places = set(map(id, tensors_in(out)))  # out=, or values= of a sort
        named = {
            name: value
            for name, value in kwargs.items()
            if name != "out" and id(value) not in places
        }
        is_sparse = any(map(traffic.is_sparse, tensors_in(*operands, out)))
        is_nested = any(tensor.is_nested for tensor in tensors_in(*operands, out))
        special = self.sparse if is_sparse else self.nested if is_nested else None
        formula, moving = self.formula, self.traffic
        if special:
            formula, moving = special.formula, special.traffic
        mutated = [
            args[index] if index < len(args) else kwargs.get(name) for index, name in self.written
        ]
        if out is None and mutated:  # an in-place foreach op answers None
            out = mutated[0]
        dtype = _working_dtype(operands, out)
        unknown = "" if special else UNKNOWN.get(self.decision, "")
        moved, answer = ZERO, Gradients()
        try:
            read, written = moving(args, named, out, mutated)
            moved = Cost(read=read, written=written)
            if formula is not None:
                if formula is self.formula:
                    _require_dense([*operands, out])
                if is_nested and not special:
                    alone = (
                        times * _as_gradients(formula(*each, **given, out=result))
                        for times, each, given, result in components(args, named, out)
                    )
                    answer = sum(alone, Gradients())
                else:
                    answer = _as_gradients(formula(*args, **named, out=out))
        except Uncountable as error:
            unknown = str(error) or "its formula gives no answer"
        except Exception as error:  # a user's program must not fail for a formula's sake
            unknown = (
                f"its formula failed with {type(error).__name__}: {error}; "
                f"arguments: {describe(operands)}"
            )
        costs = {part: getattr(answer, part) for part in Gradients.__slots__}
        if formula is not self.formula or self.decision is not Decision.DECOMPOSED:
            costs = {part: _in_domain(cost, dtype) for part, cost in costs.items()}
        recompute = costs.pop("recompute")
        total = sum(costs.values(), moved)
        del costs["unsplit"]
        gradients = {part: cost for part, cost in costs.items() if cost}
        label = str(dtype).removeprefix("torch.")
        return Bill(self.name, label, total, gradients, recompute, unknown)

    def is_lasting(self, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> bool:
        """Whether another call of the same signature costs the same.

        A quotient of integers, say, is of the default dtype, which the program may change. What
        a sparse or nested result holds depends on values.
        """
        if any(x.is_nested or traffic.is_sparse(x) for x in tensors_in(out)):
            return False
        operands = [*args, *kwargs.values()]
        told = [value for value in operands if isinstance(value, torch.dtype)]
        told += [tensor.dtype for tensor in tensors_in(*operands)]
        made = [tensor.dtype for tensor in tensors_in(out)]
        return self.dynamic or any(map(_is_inexact, told)) or not any(map(_is_inexact, made))

    def remember(self, signature: Any, bill: Bill) -> None:
        """Keep the bill for calls with the same signature, of whichever counter."""
        if len(self.bills) >= BILL_LIMIT:
            self.bills.clear()
        self.bills[signature] = bill

    def symbolic_bill(self) -> Bill:
        """The bill of a call on symbolic sizes: a program is traced, and no number is known."""
        return Bill(self.name, "symbolic", ZERO, unknown="sizes are symbols: a program is traced")


_plans: dict[int, Plan] = {}
"""The plans by the id() of the op, which they keep alive."""


def plan_of(func: Any) -> Plan:
    """The plan of an overload, made on first use and again after the rules changed."""
    plan = _plans.get(id(func))
    if plan is None or plan.version != registry.version:
        plan = _plans[id(func)] = Plan(func)
    return plan


def _spellings(func: Any) -> list[str]:
    """The names under which a formula may be registered, the most exact first.

    >>> _spellings(torch.ops.aten.add_.Tensor)
    ['aten::add_.Tensor', 'aten::add.Tensor', 'aten::add_', 'aten::add']
    >>> _spellings(torch.ops.aten.scatter.reduce_out)
    ['aten::scatter.reduce_out', 'aten::scatter.reduce', 'aten::scatter']
    """
    packet, overload = packet_name(func), overload_name(func)
    functional = packet.removesuffix("_")
    spellings = [f"{packet}.{overload}", f"{functional}.{overload.removesuffix('_out')}"]
    spellings += [packet, functional]
    if packet.startswith("prims::"):  # what decompositions end in
        spellings.append(packet.replace("prims::", "aten::", 1))
    return list(dict.fromkeys(spellings))


def _in_domain(cost: Cost, dtype: torch.dtype) -> Cost:
    """Only floating-point arithmetic is FLOPs; integer contractions keep their MACs.

    A complex dot product of length K is two real ones of length 2K.
    """
    if dtype.is_complex:
        return replace(cost, macs=4 * cost.macs, dots=2 * cost.dots, void_macs=4 * cost.void_macs)
    if dtype.is_floating_point:
        return cost
    return replace(cost, arith=0, compare=0, special=0)


def _as_gradients(answer: Any) -> Gradients:
    """What a formula returned, a Cost being split by nothing."""
    if isinstance(answer, Cost):
        answer = Gradients(unsplit=answer)
    if not isinstance(answer, Gradients):
        raise TypeError(f"it returned {answer!r}; expected a Cost or Gradients")
    for part in Gradients.__slots__:
        cost = getattr(answer, part)
        counts = [getattr(cost, kind) for kind in Cost.__slots__]
        if not all(type(count) is int and count >= 0 for count in counts):
            raise TypeError(f"it returned {cost}; expected whole numbers of Python, from 0 up")
        if cost.bytes:
            raise TypeError(f"it returned {cost}; bytes are what traffic= counts")
    return answer


def _require_dense(values: Iterable[Any]) -> None:
    """Formulas read shapes, which do not tell what a sparse tensor holds."""
    for tensor in tensors_in(*values):
        if tensor.layout not in DENSE_LAYOUTS:
            raise Uncountable(f"shapes of {tensor.layout} tensors do not tell what they hold")


def _special_alone(*args: Any, **kwargs: Any) -> Cost:
    """Counts calls with sparse or nested tensors only."""
    raise Uncountable("no tensor is sparse or nested")


def _is_inexact(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point or dtype.is_complex


def _working_dtype(inputs: Iterable[Any], out: Any) -> torch.dtype:
    """The dtype that an op works in: the first complex, else floating one, else the first."""
    dtypes = [tensor.dtype for tensor in tensors_in(*inputs, out)]
    complex_, floating = (
        [dtype for dtype in dtypes if getattr(dtype, kind)]
        for kind in ("is_complex", "is_floating_point")
    )
    return next(iter(complex_ + floating + dtypes), torch.get_default_dtype())


def describe(values: Iterable[Any]) -> str:
    """Arguments in the short form that messages use: ``float32[4, 8], 1``."""
    return ", ".join(
        f"{str(value.dtype).removeprefix('torch.')}"
        f"{'[nested]' if value.is_nested else list(value.shape)}"
        if isinstance(value, Tensor)
        else f"[{describe(value)}]"
        if isinstance(value, (list, tuple))
        else repr(value)
        for value in values
    )
