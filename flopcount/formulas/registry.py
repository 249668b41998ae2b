"""How an op is decided: the formulas by name, and the plan made once for each overload."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, TypeVar

import torch
from torch import Tensor

from flopcount._private import (
    DENSE_LAYOUTS,
    OpOverload,
    OpOverloadPacket,
    is_composite,
    overload_name,
    packet_name,
    schema_of,
)
from flopcount.cost import ZERO, Cost
from flopcount.formulas import traffic

__all__ = [
    "Bill",
    "Decision",
    "Formula",
    "Gradients",
    "Plan",
    "Uncountable",
    "describe",
    "formula",
    "formula_of",
    "free",
    "op_name",
    "plan",
    "rule_count",
]


class Uncountable(Exception):
    """Raised by a formula for arguments that it cannot count: the op is then uncounted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gradients:
    """What a backward op costs, split by the gradient that each part computes.

    >>> from flopcount import Cost, Gradients
    >>> Gradients(input=Cost(macs=64), weight=Cost(macs=64)).weight.flops
    128

    ``recompute`` is work of the forward pass that the kernel does again; ``unsplit`` is what
    belongs to no gradient alone.
    """

    unsplit: Cost = ZERO
    input: Cost = ZERO
    weight: Cost = ZERO
    bias: Cost = ZERO
    recompute: Cost = ZERO


Formula = Callable[..., "Cost | Gradients"]
F = TypeVar("F", bound=Formula)
Traffic = Callable[..., tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Rule:
    """A registered decision: a formula (None for a free op) and how its bytes are counted."""

    formula: Formula | None
    traffic: Traffic


BILL_LIMIT = 1 << 12
"""Signatures of one op whose bills are kept."""

_rules: dict[str, Rule] = {}
_sparse_rules: dict[str, Rule] = {}
_plans: dict[int, Plan] = {}


def formula(
    *ops: Any, traffic: Traffic = traffic.operands_and_results, sparse: bool = False
) -> Callable[[F], F]:
    """Register the decorated function as the formula of ``ops``.

    >>> import torch, flopcount
    >>> from torch.library import custom_op
    >>> @custom_op("docs::scale", mutates_args=())
    ... def scale(x: torch.Tensor) -> torch.Tensor:
    ...     return 3 * x
    >>> @flopcount.formula(torch.ops.docs.scale)
    ... def scale_cost(x, *, out):
    ...     return flopcount.Cost(arith=out.numel())
    >>> with flopcount.FlopCounter() as counter:
    ...     y = scale(torch.ones(5))
    >>> counter.report().total.flops
    5

    Args:
        ops: op packets (``torch.ops.mylib.op``), overloads of one
            (``torch.ops.mylib.op.default``), or names (``"mylib::op"``) for ops that only
            some builds have. A formula also serves the in-place and ``out=`` forms of its op.
        traffic: counts the bytes, ``(args, kwargs, results, written arguments) -> (read,
            written)``; by default every distinct operand is read and every result written.
        sparse: the function is for calls with a sparse tensor among the arguments or results,
            of which shapes tell nothing; without one such calls are uncounted.

    The function gets the op's own arguments, and its result as ``out``; it may look at shapes,
    dtypes and numbers, never at the values of a tensor. It returns a :class:`Cost` without
    bytes, or :class:`Gradients` for a backward op.

    Raises:
        TypeError: an op is neither a packet, nor an overload, nor a name with ``::``.
        ValueError: an op has a formula already.
    """
    names = [op_name(op) for op in ops]

    def register(function: F) -> F:
        _register(names, Rule(function, traffic), _sparse_rules if sparse else _rules)
        return function

    return register


def free(*ops: Any, traffic: Traffic = traffic.operands_and_results) -> None:
    """Declare that ``ops`` do no arithmetic; they still move bytes."""
    _register([op_name(op) for op in ops], Rule(None, traffic), _rules)


def _register(names: Sequence[str], rule: Rule, rules: dict[str, Rule]) -> None:
    for name in names:
        if name in rules:
            raise ValueError(
                f"{name} has a formula already; to replace it for one counter, "
                "pass FlopCounter(formulas={op: function})"
            )
    rules.update(dict.fromkeys(names, rule))
    _plans.clear()


def rule_count() -> int:
    """How many ops have been decided by name: a plan made at another count may be outdated."""
    return len(_rules) + len(_sparse_rules)


def formula_of(name: str) -> Formula:
    """The formula that is registered under ``name``, for ops that are made of it.

    Raises:
        KeyError: there is none.
    """
    rule = _rules[name]
    if rule.formula is None:
        raise KeyError(f"{name} is free")
    return rule.formula


def op_name(op: Any) -> str:
    """``namespace::op`` of a packet or a name, ``namespace::op.overload`` of an overload."""
    if isinstance(op, OpOverloadPacket):
        return packet_name(op)
    if isinstance(op, OpOverload):
        return f"{packet_name(op)}.{overload_name(op)}"
    if isinstance(op, str) and "::" in op:
        return op
    raise TypeError(
        f"expected an op such as torch.ops.aten.mm, torch.ops.aten.mm.default or 'aten::mm', "
        f"got {op!r}"
    )


BOOKKEEPING = frozenset({"prim", "profiler"})
"""Namespaces of ops that touch no tensor's data: they pass as views do, and are not on record."""


DYNAMIC = frozenset({torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output})
"""Tags of ops whose result has a shape that depends on values."""


SPARSE_RESULT = "aten::_to_sparse", "aten::_spdiags"
"""Ops that make sparse tensors of dense ones: how much these hold depends on values, too."""


OPENED = frozenset({"flex_attention", "flex_attention_backward"})
"""Higher-order ops whose eager kernel is made of ordinary ones."""


class Decision(Enum):
    """How an op is decided."""

    VIEW = "view"
    FORMULA = "formula"
    FREE = "free"
    COMPOSITE = "composite"
    DECOMPOSED = "decomposed"
    UNCOUNTED = "uncounted"


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
        dynamic: its result's shape depends on values, so that its signature includes it.
        operands: how many arguments it begins with that are tensors.
        sparse: the rule for calls with sparse tensors.
        bills: the cost of calls that were seen before, by their signatures.
    """

    __slots__ = (
        "bills",
        "decision",
        "dynamic",
        "formula",
        "func",
        "name",
        "operands",
        "sparse",
        "traffic",
        "written",
    )

    def __init__(self, func: Any, formulas: dict[str, Formula] | None = None) -> None:
        self.func = func  # keeps the op alive, so that its id() stays its own
        self.name = func.name().split(".")[0].replace("::", ".", 1)
        self.bills: dict[Any, Bill] = {}
        self.formula: Formula | None = None
        self.traffic: Traffic = traffic.operands_and_results
        self.sparse: Rule | None = None
        self.written: tuple[tuple[int, str], ...] = ()
        schema = schema_of(func)
        if schema is None:  # a higher-order op
            opens = func.name() in OPENED
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
        self.operands = [*kinds, False].index(False)
        # arange(1.7), or an image scaled by 1.7: such numbers are not part of a signature
        sized = self.operands == 0 or any(
            argument.name.startswith("scale") for argument in schema.arguments
        )
        sized = sized or func.namespace != "aten" or func.name().startswith(SPARSE_RESULT)
        self.dynamic = sized or not DYNAMIC.isdisjoint(func.tags)
        self._decide(_spellings(func), formulas or {})

    def _decide(self, spellings: Sequence[str], formulas: dict[str, Formula]) -> None:
        if self.func.namespace in BOOKKEEPING:
            self.decision = Decision.VIEW
            return
        for spelling in spellings:
            if spelling in formulas:
                self.decision, self.formula = Decision.FORMULA, formulas[spelling]
                return
        self.sparse = next(
            (_sparse_rules[name] for name in spellings if name in _sparse_rules), None
        )
        for spelling in spellings:
            if rule := _rules.get(spelling):
                self.decision = Decision.FORMULA if rule.formula else Decision.FREE
                self.formula, self.traffic = rule.formula, rule.traffic
                return
        from flopcount.formulas.decomposition import decomposed

        returns = schema_of(self.func).returns
        if not self.written and any(returned.alias_info is not None for returned in returns):
            self.decision = Decision.VIEW
        elif is_composite(self.func):
            self.decision = Decision.COMPOSITE
        else:
            self.formula = decomposed(self.func, plan)
            self.decision = Decision.DECOMPOSED if self.formula else Decision.UNCOUNTED
            if self.sparse and not self.formula:
                self.decision, self.formula = Decision.FORMULA, _sparse_alone

    def bill(self, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Bill:
        """The cost of one call, from the shapes and dtypes of its arguments and result."""
        operands = [*args, *kwargs.values()]
        formula, moving = self.formula, self.traffic
        is_sparse = any(map(traffic.is_sparse, traffic.tensors([*operands, out])))
        if is_sparse and self.sparse:
            formula, moving = self.sparse.formula, self.sparse.traffic
        mutated = [
            args[index] if index < len(args) else kwargs.get(name) for index, name in self.written
        ]
        if out is None and mutated:  # an in-place foreach op answers None
            out = mutated[0]
        dtype = _working_dtype(operands, out)
        named = {name: value for name, value in kwargs.items() if name != "out"}
        unknown = "it has no formula" if self.decision is Decision.UNCOUNTED else ""
        moved, answer = ZERO, Gradients()
        try:
            read, written = moving(args, named, out, mutated)
            moved = Cost(read=read, written=written)
            if formula is not None:
                if formula is self.formula:
                    _require_dense([*operands, out])
                answer = _as_gradients(formula(*args, **named, out=out))
        except Uncountable as error:
            unknown = str(error) or "its formula gives no answer"
        except Exception as error:  # a user's program must not fail for a formula's sake
            unknown = (
                f"its formula failed with {type(error).__name__}: {error}; "
                f"arguments: {describe(operands)}"
            )
        costs = {part: getattr(answer, part) for part in Gradients.__slots__}
        if (
            self.decision is not Decision.DECOMPOSED or formula is not self.formula
        ):  # whose parts are in their domains already
            costs = {part: _in_domain(cost, dtype) for part, cost in costs.items()}
        recompute = costs.pop("recompute")
        total = sum(costs.values(), moved)
        del costs["unsplit"]
        gradients = {part: cost for part, cost in costs.items() if cost}
        label = str(dtype).removeprefix("torch.")
        return Bill(self.name, label, total, gradients, recompute, unknown)

    def remember(self, signature: Any, bill: Bill) -> None:
        """Keep the bill for calls with the same signature, of whichever counter."""
        if len(self.bills) >= BILL_LIMIT:
            self.bills.clear()
        self.bills[signature] = bill

    def symbolic_bill(self) -> Bill:
        """The bill of a call on symbolic sizes: a program is traced, and no number is known."""
        return Bill(self.name, "symbolic", ZERO, unknown="sizes are symbols: a program is traced")


def plan(func: Any) -> Plan:
    """The plan of an overload, made on first use."""
    known = _plans.get(id(func))
    if known is None:
        known = _plans[id(func)] = Plan(func)
    return known


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
    if isinstance(answer, Gradients):
        return answer
    if not isinstance(answer, Cost):
        raise TypeError(f"it returned {answer!r}; expected a Cost or Gradients")
    return Gradients(unsplit=answer)


def _require_dense(values: Iterable[Any]) -> None:
    """Formulas read shapes, which do not tell what a sparse or nested tensor holds."""
    for tensor in traffic.tensors(values):
        if tensor.layout not in DENSE_LAYOUTS or tensor.is_nested:
            raise Uncountable(f"{tensor.layout} tensors")


def _sparse_alone(*args: Any, **kwargs: Any) -> Cost:
    """Counts calls with sparse tensors only."""
    raise Uncountable("no tensor is sparse")


def _working_dtype(inputs: Iterable[Any], out: Any) -> torch.dtype:
    """The dtype that an op works in: the first complex, else floating one, else the first."""
    dtypes = [tensor.dtype for tensor in traffic.tensors([*inputs, out])]
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
