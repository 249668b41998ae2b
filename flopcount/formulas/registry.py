"""The formulas, by the names of their ops."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, TypeVar

from flopcount.cost import ZERO, Cost
from flopcount.formulas import bytes as traffic
from flopcount.formulas.call import Call
from flopcount.torch_private.ops import (
    CustomOpDef,
    OpOverload,
    OpOverloadPacket,
    custom_op_name,
    overload_name,
    packet_name,
    parameter_names,
)

__all__ = [
    "Decision",
    "Formula",
    "Gradients",
    "Rule",
    "Traffic",
    "Uncountable",
    "formula",
    "formula_of",
    "free",
    "named",
    "op_name",
    "replaced",
    "rule_of",
    "rules",
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
        formula: None for a free op.
        traffic: counts its bytes.
        why: the reason for which an op is free, if it is not that it only moves bytes.
        values: the formula reads values of tensors.
        coefficients: parameters whose numbers matter only as 0, 1 or another.
    """

    formula: Formula | None
    traffic: Traffic = traffic.operands_and_results
    why: str = ""
    values: bool = False
    coefficients: frozenset[str] = frozenset()


Kind = Literal["dense", "sparse", "nested"]
"""The tensors that a rule is for."""

version = 0
"""Raised by every change of the rules: what was made of them at another version is outdated."""

_rules: dict[Kind, dict[str, Rule]] = {"dense": {}, "sparse": {}, "nested": {}}


def formula(
    *ops: Any,
    traffic: Traffic = traffic.operands_and_results,
    sparse: bool = False,
    nested: bool = False,
    values: bool = False,
    coefficients: Iterable[str] = (),
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
            (``torch.ops.mylib.op.default``), what ``torch.library.custom_op`` returned, or
            names (``"mylib::op"``) for ops that only some builds have. A formula also serves
            the in-place and ``out=`` forms of its op.
        traffic: counts the bytes, ``traffic(call) -> (read, written)``, of a call with its
            ``args``, its ``kwargs``, its result ``out`` and the arguments that it changes,
            ``mutated``; by default every distinct operand is read and every result written.
        sparse: the function is for calls with a sparse tensor among the arguments or results,
            of which shapes tell nothing; without one such calls are uncounted.
        nested: the function is for calls with a nested tensor among the arguments or results, of
            the strided layout; without one such calls cost what calls on their components cost,
            each a batch of one.
        values: the cost depends on values of tensors, such as lengths of sequences, so that the
            function is asked at every call.
        coefficients: names of the op's parameters whose numbers matter only as 0, 1 or another
            number (a learning rate, the ``alpha`` of ``add``). The function is not asked again
            when such a number changes from one other number to the next.

    The function gets the op's own arguments, and its result as ``out``; it may look at shapes,
    dtypes and numbers, but not at the values of a tensor unless ``values`` says so. It returns a
    :class:`Cost` without bytes, or :class:`Gradients` for a backward op.

    Raises:
        TypeError: an op is neither a packet, nor an overload, nor a name with ``::``; or what
            is registered is no function.
        ValueError: an op has a formula already, or no parameter of a coefficient's name.
    """
    names = [op_name(op) for op in ops]
    numbers = _coefficients(coefficients, ops)

    def register(function: F) -> F:
        _require_callable(function)
        rule = Rule(function, traffic, values=values, coefficients=numbers)
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
        why: the reason, where it is another one than that they only move bytes.
        nested: it is said of calls with a nested tensor, as for :func:`formula`.
        coefficients: as for :func:`formula`.
    """
    rule = Rule(None, traffic, why, coefficients=_coefficients(coefficients, ops))
    _register([op_name(op) for op in ops], rule, "nested" if nested else "dense")


def _coefficients(names: Iterable[str], ops: Iterable[Any]) -> frozenset[str]:
    """``names``, after a check that some op has a parameter of each name, if ops are at hand."""
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
    _raise_version()


def _raise_version() -> None:
    global version  # noqa: PLW0603
    version += 1


def rules() -> Iterator[tuple[str, Kind, Rule]]:
    """Every rule, with the name of its op and the tensors that it is for."""
    for kind, by_name in _rules.items():
        for name, rule in by_name.items():
            yield name, kind, rule


@contextmanager
def replaced(
    change: Callable[[str, Rule], Rule | None] = lambda name, rule: rule,
) -> Iterator[None]:
    """Have ``change(name, rule)`` in place of each rule, or none where it returns None.

    When the block ends, all rules are as they were before it, whatever it registered.
    """
    before = dict(_rules)
    for kind, by_name in before.items():
        changed = ((name, change(name, rule)) for name, rule in by_name.items())
        _rules[kind] = {name: rule for name, rule in changed if rule is not None}
    _raise_version()
    try:
        yield
    finally:
        _rules.update(before)
        _raise_version()


def rule_of(names: Iterable[str], kind: Kind = "dense") -> Rule | None:
    """The rule that is registered under the first of ``names`` that has one."""
    return next((_rules[kind][name] for name in names if name in _rules[kind]), None)


def formula_of(name: str) -> Formula:
    """The formula that is registered under ``name``, for ops that are made of it.

    Raises:
        KeyError: there is none.
    """
    rule = _rules["dense"][name]
    if rule.formula is None:
        raise KeyError(f"{name} is free")
    return rule.formula


def named(formulas: Mapping[Any, Formula]) -> dict[str, Formula]:
    """Formulas by the names of their ops.

    Raises:
        TypeError: it is no mapping, or holds what is no op or no function.
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
    if isinstance(op, str) and "::" in op:
        return op
    raise TypeError(
        f"expected an op such as torch.ops.aten.mm, torch.ops.aten.mm.default or 'aten::mm', "
        f"got {op!r}"
    )


class Decision(Enum):
    """How an op is decided."""

    VIEW = "view"
    FORMULA = "formula"
    FREE = "free"
    COMPOSITE = "composite"
    DECOMPOSED = "decomposed"
    UNCOUNTED = "uncounted"
