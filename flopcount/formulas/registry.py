"""The rules, by the names of their ops: a formula, or the word that an op is free."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, TypeVar

from flopcount.cost import ZERO, Cost
from flopcount.formulas import bytes as traffic
from flopcount.formulas.call import Call
from flopcount.torch_private.functions import function_name, is_function, node_class
from flopcount.torch_private.ops import (
    CustomOpDef,
    OpOverload,
    OpOverloadPacket,
    custom_op_name,
    overload_name,
    packet_name,
    parameter_names,
)


class Uncountable(Exception):
    """Raised by a formula for arguments that it cannot count, so that the op is uncounted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gradients:
    """What a backward op costs, split by the gradient that each part computes.

    >>> from flopcount import Cost, Gradients
    >>> Gradients(input=Cost(macs=64), weight=Cost(macs=64)).weight.flops
    128

    ``recompute`` is work of the forward pass that the kernel repeats; ``unsplit`` is work that
    belongs to several gradients. ``integer`` are products of integers in an op that works on
    floats too, forward or backward: they are no FLOPs, and stand in a row of int8.
    """

    unsplit: Cost = ZERO
    input: Cost = ZERO
    weight: Cost = ZERO
    bias: Cost = ZERO
    recompute: Cost = ZERO
    integer: Cost = ZERO

    def __add__(self, other: Gradients) -> Gradients:
        names = self.__slots__
        return Gradients(**{name: getattr(self, name) + getattr(other, name) for name in names})

    def __rmul__(self, times: int) -> Gradients:
        return Gradients(**{name: times * getattr(self, name) for name in self.__slots__})


Formula = Callable[..., "Cost | Gradients"]
F = TypeVar("F", bound=Formula)
Traffic = Callable[[Call], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Rule:
    """A registered decision.

    Attributes:
        formula: what computes the cost; None for a free op.
        traffic: what counts its bytes.
        why: why a free op does no arithmetic, where there is more to say than that it moves bytes.
        values: the formula reads values of tensors.
        by_name: the formula takes all arguments by the names in the op's schema.
        coefficients: parameters whose numbers matter only as 0, 1 or another.
        place: ``file:line`` of the formula.
    """

    formula: Formula | None
    traffic: Traffic = traffic.operands_and_results
    why: str = ""
    values: bool = False
    by_name: bool = False
    coefficients: frozenset[str] = frozenset()
    place: str = ""


Kind = Literal["dense", "sparse", "nested"]
"""The tensors that a rule is for."""


class Version:
    """A state of the rules. Their next change outdates it, and all plans that were made from it."""

    __slots__ = ("is_outdated",)

    def __init__(self) -> None:
        self.is_outdated = False


TRITON = "triton:"
"""How names of kernels of Triton begin."""

version = Version()
"""The state of the rules now."""

_rules: dict[Kind, dict[str, Rule]] = {"dense": {}, "sparse": {}, "nested": {}}


def formula(
    *ops: Any,
    traffic: Traffic = traffic.operands_and_results,
    sparse: bool = False,
    nested: bool = False,
    values: bool = False,
    by_name: bool = False,
    coefficients: Iterable[str] = (),
    backward: Formula | None = None,
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
            (``torch.ops.mylib.op.default``), what ``torch.library.custom_op`` returned, names
            (``"mylib::op"``) for ops that only some builds have, or a
            ``torch.autograd.Function``. A formula also serves the in-place and ``out=`` forms of
            its op. ``"triton:NAME"``, in which ``*`` stands for anything, is a kernel of Triton in
            a recorded run: the function takes what the kernel takes, and None as ``out``.
        traffic: counts the bytes, ``traffic(call) -> (read, written)``, of a call with its
            ``args``, its ``kwargs``, its result ``out`` and the arguments that it changes,
            ``mutated``; by default every distinct operand is read and every result written.
        sparse: the function is for calls with a sparse tensor among the arguments or results.
            Without such a function those calls are uncounted.
        nested: the function is for calls with a nested tensor of the strided layout among the
            arguments or results. Without such a function those calls cost what calls on their
            components cost, each a batch of one.
        values: the cost depends on values of tensors, such as lengths of sequences, so the
            function is asked at every call.
        by_name: the function takes all arguments by the names in the op's schema, defaults
            included, so it can serve ops with different orders of arguments.
        coefficients: names of the op's parameters whose numbers matter only as 0, 1 or another
            number (a learning rate, the ``alpha`` of ``add``). The function is not asked again
            when such a number changes from one other number to the next.

        backward: the formula of the gradients of a ``torch.autograd.Function``. It takes the
            gradients that flow in, and those that flow out as ``out``.

    The formula of a ``torch.autograd.Function`` counts whatever its kernel does, and the ops that
    it runs are not counted besides. It takes the arguments of ``apply``.

    The function takes the op's own arguments, and its result as ``out``. It may look at shapes,
    dtypes and numbers, but at values of tensors only with ``values=True``. It returns a
    :class:`Cost` without bytes, or :class:`Gradients` for a backward op.

    Raises:
        TypeError: an op is neither a packet, nor an overload, nor a name with ``::``, nor a
            ``torch.autograd.Function``, or is no such Function with ``backward``; or the decorated
            object is no function.
        ValueError: an op has a formula already, or no parameter with a coefficient's name.
    """
    names = [op_name(op) for op in ops]
    nodes = [_node_name(op) for op in ops] if backward else []
    numbers = _coefficients(coefficients, ops)

    def register(function: F) -> F:
        _require_callable(function)
        if backward:
            _register(nodes, Rule(backward, place=_place()), "dense")
        rule = Rule(
            function, traffic, values=values, by_name=by_name, coefficients=numbers, place=_place()
        )
        _register(names, rule, "sparse" if sparse else "nested" if nested else "dense")
        return function

    return register


def free(
    *ops: Any,
    traffic: Traffic = traffic.operands_and_results,
    why: str = "",
    nested: bool = False,
    coefficients: Iterable[str] = (),
) -> None:
    """Declare that ``ops`` do no arithmetic; they still move bytes.

    Args:
        ops: as for :func:`formula`.
        traffic: counts the bytes.
        why: the reason, where there is more to say than that they move bytes.
        nested: this holds for calls with a nested tensor, as for :func:`formula`.
        coefficients: as for :func:`formula`.
    """
    numbers = _coefficients(coefficients, ops)
    rule = Rule(None, traffic, why, coefficients=numbers, place=_place())
    _register([op_name(op) for op in ops], rule, "nested" if nested else "dense")


ROOT = Path(__file__).parents[2]


def _place() -> str:
    """``file:line`` of the decorator or the statement that registers an op."""
    frame = sys._getframe()
    while frame.f_back and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    helpers = str(Path(__file__).parent)
    while frame.f_back and frame.f_back.f_code.co_filename.startswith(helpers):
        frame = frame.f_back
    path = Path(frame.f_code.co_filename)
    path = path.relative_to(ROOT) if ROOT / "flopcount" in path.parents else path
    return f"{path.as_posix()}:{frame.f_lineno}"


def _coefficients(names: Iterable[str], ops: Iterable[Any]) -> frozenset[str]:
    """``names``, checked against the parameters of ``ops``, if torch has them."""
    if isinstance(names, str):
        raise TypeError(f"expected names of parameters, coefficients=({names!r},), got {names!r}")
    coefficients, ops = frozenset(names), list(ops)
    parameters = frozenset().union(*map(parameter_names, ops))
    if not coefficients <= parameters and not any(isinstance(op, str) for op in ops):
        raise ValueError(
            f"no op has a parameter {', '.join(map(repr, coefficients - parameters))}; "
            f"there are {', '.join(map(repr, sorted(parameters)))}"
        )
    return coefficients


def _register(names: Sequence[str], rule: Rule, kind: Kind) -> None:
    for name in names:
        if name in _rules[kind]:
            raise ValueError(
                f"{name} has a formula already; to replace it for one counter, "
                "pass FlopCounter(formulas={op: function})"
            )
    _rules[kind].update(dict.fromkeys(names, rule))
    _begin_version()


def _begin_version() -> None:
    global version  # noqa: PLW0603
    version.is_outdated = True
    version = Version()


def rules() -> Iterator[tuple[str, Kind, Rule]]:
    """Every rule, after the name of its op and the kind of tensors."""
    for kind, by_name in _rules.items():
        for name, rule in by_name.items():
            yield name, kind, rule


@contextmanager
def replaced(
    change: Callable[[str, Rule], Rule | None] = lambda name, rule: rule,
) -> Iterator[None]:
    """Replace each rule by ``change(name, rule)``, or remove it where that is None.

    The end of the block restores the rules that were there before it.
    """
    before = dict(_rules)
    for kind, by_name in before.items():
        changed = ((name, change(name, rule)) for name, rule in by_name.items())
        _rules[kind] = {name: rule for name, rule in changed if rule is not None}
    _begin_version()
    try:
        yield
    finally:
        _rules.update(before)
        _begin_version()


def rule_of(names: Iterable[str], kind: Kind = "dense") -> Rule | None:
    """The rule of the first of ``names`` that has one."""
    return next((_rules[kind][name] for name in names if name in _rules[kind]), None)


def rule_of_kernel(name: str) -> Rule | None:
    """The rule of a kernel of Triton: that of its name, else of the first pattern that fits it."""
    rules, key = _rules["dense"], f"{TRITON}{name}"
    patterns = (pattern for pattern in rules if pattern.startswith(TRITON))
    fits = (rules[pattern] for pattern in patterns if fnmatchcase(key, pattern))
    return rules.get(key) or next(fits, None)


def formula_of(name: str) -> Formula:
    """The formula of another op, for an op that is made of it.

    Raises:
        KeyError: ``name`` has no formula.
    """
    rule = _rules["dense"][name]
    if rule.formula is None:
        raise KeyError(f"{name} is free")
    return rule.formula


def formulas_by_name(formulas: Mapping[Any, Formula]) -> dict[str, Formula]:
    """A user's formulas by the names of their ops.

    Raises:
        TypeError: ``formulas`` is no mapping from ops to functions.
    """
    if not isinstance(formulas, Mapping):
        raise TypeError(f"expected formulas={{op: function}}, got {formulas!r}")
    for function in formulas.values():
        _require_callable(function)
    return {op_name(op): function for op, function in formulas.items()}


def _require_callable(function: Any) -> None:
    if not callable(function):
        raise TypeError(f"expected a function (*args, out) -> Cost, got {function!r}")


def op_name(op: Any) -> str:
    """``namespace::op`` of a packet or a name, ``namespace::op.overload`` of an overload."""
    if isinstance(op, CustomOpDef):
        return custom_op_name(op)
    if isinstance(op, OpOverloadPacket):
        return packet_name(op)
    if isinstance(op, OpOverload):
        return f"{packet_name(op)}.{overload_name(op)}"
    if isinstance(op, str) and op.startswith(("triton::", "triton.", "triton_")):
        raise TypeError(f"a kernel of Triton is {TRITON}NAME, as in {TRITON}triton_*, got {op!r}")
    if isinstance(op, str) and ("::" in op or op.startswith(TRITON)):
        return op
    if is_function(op):
        return function_name(op)
    raise TypeError(
        f"expected an op such as torch.ops.aten.mm, torch.ops.aten.mm.default or 'aten::mm', "
        f"or a torch.autograd.Function, got {op!r}"
    )


def _node_name(function: Any) -> str:
    """The name of the class of nodes that a custom function makes."""
    if not is_function(function):
        raise TypeError(f"backward= is for a torch.autograd.Function, got {function!r}")
    return function_name(node_class(function))


class Decision(Enum):
    """Why an op costs what it costs."""

    VIEW = "view"
    FORMULA = "formula"
    FREE = "free"
    COMPOSITE = "composite"
    DECOMPOSED = "decomposed"
    UNCOUNTED = "uncounted"
