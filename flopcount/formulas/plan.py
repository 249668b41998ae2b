"""How a call is decided and billed: the plan made once for each overload."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from flopcount.cost import ZERO, Cost
from flopcount.formulas import registry
from flopcount.formulas.bill import Bill
from flopcount.formulas.call import Call, components, is_sparse
from flopcount.formulas.decomposition import decomposed
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
    arguments_of,
    is_composite,
    is_higher_order,
    overload_name,
    packet_name,
    returns_alias,
)
from flopcount.torch_private.tensors import tensors_in

BILL_LIMIT = 1 << 12
"""Signatures of one op whose bills are kept."""

BOOKKEEPING = frozenset({"prim", "profiler"})
"""Namespaces of ops that touch no tensor's data; like views, they leave no row."""

DYNAMIC = frozenset({torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output})
"""Tags of ops whose results have shapes that depend on values."""

CONTROL_FLOW = frozenset(
    {"associative_scan", "cond", "map_impl", "scan", "while_loop", "while_loop_stack_output"}
)
"""Higher-order ops that call their functions as often as values demand."""

WHOLE = re.compile(r"(Optional\[)?(List\[)?(int|bool)\]*")
"""Schemas' types of parameters that take only whole numbers and truths."""

UNKNOWN = {
    Decision.UNCOUNTED: "it has no formula",
    Decision.COMPOSITE: "its kernel for nested tensors has no formula",
}
"""Reasons for calls that reach billing without a formula."""


class Plan:
    """How calls of one overload are billed, decided once.

    Attributes:
        func: the overload; the plan keeps it alive, so that no other op gets its id().
        version: the version of the rules that the plan was made from.
        name: the op as reports name it: ``aten.mm``.
        decision: why the op costs what it costs.
        rule: its formula, and how its bytes are counted.
        sparse: the rule for calls with sparse tensors, if there is one.
        nested: the rule for calls with nested tensors; without one their components are billed.
        written: places and names of the arguments that the op changes.
        places: where ``out`` stands among the arguments, if the op has one.
        dynamic: the result does not follow from the arguments, so a signature includes it.
        operands: how many tensors the arguments begin with.
        coefficients: places and names of parameters whose numbers matter only as 0, 1 or another.
        whole: places and names of parameters that take whole numbers, truths, or lists of them.
        bills: the bills of earlier calls, by signature.
    """

    __slots__ = (
        "bills",
        "coefficients",
        "decision",
        "dynamic",
        "func",
        "name",
        "nested",
        "operands",
        "places",
        "rule",
        "sparse",
        "version",
        "whole",
        "written",
    )

    def __init__(self, func: Any, formulas: dict[str, Formula] | None = None) -> None:
        self.func = func
        self.version = registry.version
        self.name = func.name().split(".")[0].replace("::", ".", 1)
        self.bills: dict[Any, Bill] = {}
        arguments = arguments_of(func)
        self.written = tuple(
            (place, argument.name)
            for place, argument in enumerate(arguments)
            if _is_written(argument)
        )
        self.whole = _keys(arguments, lambda argument: WHOLE.fullmatch(str(argument.type)))
        self.places = {place for place, name in self.written if name == "out"}
        self.operands = len(list(takewhile(_is_operand, arguments)))
        self.dynamic = _is_dynamic(func, self.operands)
        self.sparse: Rule | None = None
        self.nested: Rule | None = None
        self.decision, self.rule = self._decide(formulas or {})
        coefficients = self.rule.coefficients
        self.coefficients = _keys(arguments, lambda argument: argument.name in coefficients)
        self.coefficients |= coefficients & {"out"}  # a number that is the result
        self.whole -= self.coefficients

    def _decide(self, formulas: dict[str, Formula]) -> tuple[Decision, Rule]:
        func, no_formula = self.func, Rule(None)
        if is_higher_order(func):
            if rule := rule_of([f"higher_order::{func.name()}"]):
                return Decision.FORMULA, rule
            opens = func.name() in CONTROL_FLOW
            return Decision.COMPOSITE if opens else Decision.UNCOUNTED, no_formula
        if func.namespace in BOOKKEEPING:
            return Decision.VIEW, no_formula
        spellings = _spellings(func)
        for spelling in spellings:
            if spelling in formulas:
                return Decision.FORMULA, Rule(formulas[spelling])
        self.sparse, self.nested = rule_of(spellings, "sparse"), rule_of(spellings, "nested")
        if rule := rule_of(spellings):
            return Decision.FORMULA if rule.formula else Decision.FREE, rule
        if is_composite(func):  # whatever its schema says: reshape() may copy
            return Decision.COMPOSITE, no_formula
        if not self.written and returns_alias(func):
            return Decision.VIEW, no_formula
        if formula := decomposed(func, plan_of):
            return Decision.DECOMPOSED, Rule(formula)
        if special := self.sparse or self.nested:
            return Decision.FORMULA, Rule(_special_alone, place=special.place)
        return Decision.UNCOUNTED, no_formula

    @property
    def runs_functions(self) -> bool:
        """Whether the op has a formula, to which the ops of functions that it is given add."""
        return self.decision is Decision.FORMULA and is_higher_order(self.func)

    def bill(self, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Bill:
        """The cost of one call, from the shapes and dtypes of its arguments and result."""
        call = self._call(args, kwargs, out)
        rule = self._rule_for(call)
        unknown = UNKNOWN.get(self.decision, "") if rule is self.rule else ""
        return bill_of(self.name, call, rule.traffic, lambda: self._answer(rule, call), unknown)

    def _call(self, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Call:
        """The call, without ``out`` and other places for results, such as ``values=``."""
        places = {id(tensor) for tensor in tensors_in(out)}
        operands = {
            name: value
            for name, value in kwargs.items()
            if name != "out" and id(value) not in places
        }
        mutated = [
            args[place] if place < len(args) else kwargs.get(name) for place, name in self.written
        ]
        if out is None and mutated:  # an in-place foreach op returns None
            out = mutated[0]
        if self.places:
            args = [value for place, value in enumerate(args) if place not in self.places]
        return Call(args, operands, out, mutated)

    def _rule_for(self, call: Call) -> Rule:
        """The rule for dense, sparse or nested tensors."""
        if self.sparse and call.is_sparse:
            return self.sparse
        if self.nested and call.is_nested and not call.is_sparse:
            return self.nested
        return self.rule

    def _answer(self, rule: Rule, call: Call) -> Gradients:
        """The floating-point arithmetic of ``call``, by the formula of ``rule``."""
        if rule.formula is None:
            return Gradients()
        if rule is self.rule:
            _require_dense(call)
        dtype = call.dtype
        if rule.by_name:
            call = _by_name(self.func, call)
        if rule is self.rule and call.is_nested:
            parts = components(call.args, call.kwargs, call.out)
            answers = (times * ask(rule.formula, Call(*part)) for times, part in parts)
            answer = sum(answers, Gradients())
        else:
            answer = ask(rule.formula, call)
        if rule is self.rule and self.decision is Decision.DECOMPOSED:
            return answer  # each step was billed in its own dtype
        return in_domain(answer, dtype)

    def is_lasting(self, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> bool:
        """Whether another call of the same signature costs the same.

        A quotient of integers does not: its dtype is the default dtype, which the program may
        change. Nor does a sparse or nested result, whose size depends on values.
        """
        results = list(tensors_in(out))
        if any(tensor.is_nested or is_sparse(tensor) for tensor in results):
            return False
        if self.dynamic or not any(_is_inexact(tensor.dtype) for tensor in results):
            return True
        operands = [*args, *kwargs.values()]
        dtypes = [value for value in operands if isinstance(value, torch.dtype)]
        dtypes += [tensor.dtype for tensor in tensors_in(*operands)]
        return any(map(_is_inexact, dtypes))

    def remember(self, signature: Any, bill: Bill) -> None:
        """Keep the bill for calls with the same signature, in this counter and others."""
        if len(self.bills) >= BILL_LIMIT:
            self.bills.clear()
        self.bills[signature] = bill


def symbolic_bill(name: str) -> Bill:
    """The bill of a call on symbolic sizes, which have no numbers while a program is traced."""
    return Bill(name, "symbolic", ZERO, unknown="sizes are symbols: a program is traced")


_plans: dict[int, Plan] = {}
"""The plans by the id() of their op, which they keep alive."""


def plan_of(func: Any) -> Plan:
    """The plan of an overload, made on first use and again after the rules changed."""
    plan = _plans.get(id(func))
    if plan is None or plan.version.is_outdated:
        plan = _plans[id(func)] = Plan(func)
    return plan


def bill_of(
    name: str,
    call: Call,
    traffic: Traffic,
    answer: Callable[[], Gradients],
    unknown: str = "",
) -> Bill:
    """The bill of one call of ``name``: its bytes, and the arithmetic that ``answer`` tells.

    A formula that fails does not break the program: its message is what is ``unknown``.
    """
    moved, costs = ZERO, Gradients()
    try:
        read, written = traffic(call)
        moved = Cost(read=read, written=written)
        costs = answer()
    except Uncountable as error:
        unknown = str(error) or "its formula gives no answer"
    except Exception as error:
        unknown = (
            f"its formula failed with {type(error).__name__}: {error}; "
            f"arguments: {describe(call.operands)}"
        )
    gradients = {part: getattr(costs, part) for part in ("input", "weight", "bias")}
    total = sum(gradients.values(), moved + costs.unsplit)
    gradients = {part: cost for part, cost in gradients.items() if cost}
    dtype = str(call.dtype).removeprefix("torch.")
    return Bill(name, dtype, total, gradients, costs.recompute, costs.integer, unknown)


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


def _keys(arguments: Iterable[Any], picks: Callable[[Any], Any]) -> frozenset[int | str]:
    """Places and names of the parameters that a predicate picks."""
    picked = [(place, a.name) for place, a in enumerate(arguments) if picks(a)]
    return frozenset(key for place_and_name in picked for key in place_and_name)


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _is_operand(argument: Any) -> bool:
    return str(argument.type) == "Tensor" and not argument.kwarg_only


def _is_dynamic(func: Any, operands: int) -> bool:
    """Whether the result of an op does not follow from its arguments."""
    if is_higher_order(func):
        return False
    # a factory's result has the default dtype; ops of other libraries may look at values
    return operands == 0 or func.namespace != "aten" or not DYNAMIC.isdisjoint(func.tags)


@cache
def _parameters(func: Any) -> tuple[list[str], dict[str, Any]]:
    """The names of an op's parameters but ``out``, in order, and their defaults."""
    arguments = [a for a in arguments_of(func) if a.name != "out" or not _is_written(a)]
    defaults = {a.name: a.default_value for a in arguments if a.has_default_value()}
    return [argument.name for argument in arguments], defaults


def _by_name(func: Any, call: Call) -> Call:
    """The call with all arguments by name, defaults included, which torch leaves out.

    An argument ``out`` gives way to the result.
    """
    names, defaults = _parameters(func)
    kwargs = {**defaults, **dict(zip(names, call.args, strict=False)), **call.kwargs}
    kwargs.pop("out", None)
    return replace(call, args=(), kwargs=kwargs)


def ask(formula: Formula, call: Call) -> Gradients:
    """What ``formula`` returns for ``call``; a Cost becomes an unsplit part.

    Raises:
        TypeError: it returns something other than a Cost of whole numbers without bytes.
    """
    answer = formula(*call.args, **call.kwargs, out=call.out)
    if isinstance(answer, Cost):
        answer = Gradients(unsplit=answer)
    if not isinstance(answer, Gradients):
        raise TypeError(f"it returned {answer!r}; expected a Cost or Gradients")
    for part in Gradients.__slots__:
        _require_counts(getattr(answer, part))
    return answer


def _require_counts(cost: Cost) -> None:
    """Check a Cost that a formula returned; zero is by far the most common."""
    if cost is ZERO:
        return
    counts = [getattr(cost, kind) for kind in Cost.__slots__]
    if not all(type(count) is int and count >= 0 for count in counts):
        raise TypeError(f"it returned {cost}; expected whole numbers of Python, from 0 up")
    if cost.bytes:
        raise TypeError(f"it returned {cost}; bytes are what traffic= counts")


def in_domain(answer: Gradients, dtype: torch.dtype) -> Gradients:
    """Drop integer arithmetic, which is no FLOP; integer contractions keep their MACs.

    A complex dot product of length K is two real ones of length 2K.
    """
    if dtype.is_floating_point:
        return answer

    def convert(cost: Cost) -> Cost:
        if not dtype.is_complex:
            return replace(cost, arith=0, compare=0, special=0)
        macs, void_macs = 4 * cost.macs, 4 * cost.void_macs
        return replace(cost, macs=macs, dots=2 * cost.dots, void_macs=void_macs)

    return Gradients(**{part: convert(getattr(answer, part)) for part in Gradients.__slots__})


def _require_dense(call: Call) -> None:
    """Refuse sparse tensors: formulas read shapes, and these hold fewer elements."""
    for tensor in call.tensors:
        if tensor.layout not in DENSE_LAYOUTS:
            raise Uncountable(f"shapes of {tensor.layout} tensors do not tell what they hold")


def _special_alone(*args: Any, **kwargs: Any) -> Cost:
    """Counts only calls with sparse or nested tensors."""
    raise Uncountable("no tensor is sparse or nested")


def _is_inexact(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point or dtype.is_complex


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
