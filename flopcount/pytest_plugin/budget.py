"""Budgets: bounds on a report, the verdict on them, and the marker that states them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

from flopcount.cost import UNITS, Cost, parse_quantity
from flopcount.errors import did_you_mean
from flopcount.report.report import LOADER, Report

if TYPE_CHECKING:
    import pytest

EXAMPLE = (
    'right is @pytest.mark.flop_budget("8.2 GFLOP", forward="4.1 GMAC", '
    'modules={"encoder.*": "1 GMAC"})'
)

Reading = Literal["matmul", "exact", "valid"]

NAMED_READINGS = {
    "matmul": ("FLOP", "matmul_flops"),
    "exact": ("FLOP", "exact_flops"),
    "valid": ("MAC", "valid_macs"),
}
"""Readings of a Cost that a budget asks for by name: the unit, and the Cost's attribute."""


@dataclass(frozen=True, slots=True)
class Bound:
    """One limit: on the total, on a phase, or on each module that a pattern matches."""

    limit: int
    unit: str
    reading: str
    phase: str | None = None
    pattern: str | None = None
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Measure:
    """A count beside its limit."""

    what: str  # ``total``, a phase or a module, with the reading where the unit does not say it
    count: int
    limit: int
    unit: str  # ``FLOP``, ``MAC`` or ``B``
    exact: bool  # whether the count must equal the limit
    reading: str = "flops"  # the attribute of a Cost that was read
    phase: str | None = None  # None for all phases
    module: str | None = None  # a path, or None for the whole block

    @property
    def excess(self) -> int:
        """How far the count is above the limit; negative below it."""
        return self.count - self.limit

    @property
    def is_met(self) -> bool:
        """Whether the count keeps to the limit; a count on the limit does."""
        return self.excess == 0 if self.exact else self.excess <= 0

    @property
    def slack(self) -> float:
        """The room below the limit, relative to the count; negative if the limit is broken.

        It is infinite where nothing was counted and there is room.
        """
        room = -abs(self.excess) if self.exact else -self.excess
        return room / self.count if self.count else math.copysign(math.inf, room) if room else 0.0

    def __str__(self) -> str:
        """How the limit is missed."""
        return (
            f"{self.what}: {self.count:,} {self.unit} is {abs(self.excess):,} "
            f"{'less' if self.excess < 0 else 'more'} than "
            f"{'exactly' if self.exact else 'its budget of'} {self.limit:,} {self.unit}"
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a report compares with a budget or a baseline; it passes if there are no faults."""

    title: str  # what it was compared with
    measures: tuple[Measure, ...] = ()
    faults: tuple[str, ...] = ()  # one sentence for each thing that is wrong
    detail: str = ""  # tables that show where the excess comes from


@dataclass(frozen=True, slots=True)
class Budget:
    """Bounds that a report must keep.

    >>> import torch, flopcount
    >>> from flopcount.pytest_plugin.budget import flop_budget
    >>> report = flopcount.count(torch.nn.Linear(8, 2), torch.ones(4, 8), backward=False)
    >>> print(*flop_budget("128 FLOP", forward="64 MAC").judge(report).faults)
    total: 136 FLOP is 8 more than its budget of 128 FLOP
    """

    bounds: tuple[Bound, ...]
    strict: bool = True

    def judge(self, report: Report) -> Verdict:
        """Compare ``report`` with each bound."""
        measures: list[Measure] = []
        faults: list[str] = []
        for bound in self.bounds:
            measured = _measures(bound, report)
            if bound.pattern is not None and not measured:
                hint = _near(bound.pattern, _paths(report))
                faults.append(f"no module that ran matches {bound.pattern!r}{hint}")
            measures += measured
        faults += [str(measure) for measure in measures if not measure.is_met]
        if self.strict:
            faults += omissions(report)
        return Verdict("FLOP budget", tuple(measures), tuple(faults))


def omissions(report: Report) -> list[str]:
    """Reasons why ``report`` is incomplete, so that no budget can be judged."""
    uncounted = [
        f"{op} is uncounted ({calls} {'call' if calls == 1 else 'calls'}): give it a formula with "
        "@flopcount.formula, or pass strict=False"
        for op, calls in report.uncounted.items()
    ]
    unwatched = [
        f"{function} ran in thread {name!r}, which had not entered the counter; strict=False "
        "leaves it out"
        for name, function in report.unwatched.items()
    ]
    children = [
        f"{name} ran in {number} process{'es' if number > 1 else ''}, which no counter sees; "
        "strict=False leaves that out"
        for name, number in report.children.items()
        if name != LOADER
    ]
    return uncounted + unwatched + children


def _measures(bound: Bound, report: Report) -> list[Measure]:
    """The counts that ``bound`` limits: one, or one for each module that its pattern matches."""
    names = [name for name, (_, reading) in NAMED_READINGS.items() if reading == bound.reading]

    def measure(what: str, cost: Cost, module: str | None = None) -> Measure:
        return Measure(
            what=" ".join([what, *(f"({name})" for name in names)]),
            count=getattr(cost, bound.reading),
            limit=bound.limit,
            unit=bound.unit,
            exact=bound.exact,
            reading=bound.reading,
            phase=bound.phase,
            module=module,
        )

    if bound.pattern is None:
        cost = report.phases[bound.phase] if bound.phase else report.total
        return [measure(bound.phase or "total", cost)]
    costs = report.by_module()
    if bound.pattern in report:
        paths = [report[bound.pattern].path]
    else:
        paths = [path for path in _paths(report) if fnmatchcase(path, bound.pattern)]
    return [measure(path or report[path].name, costs[path], path) for path in paths]


def _paths(report: Report) -> list[str]:
    """The modules that a pattern may match: all except the model and the block around it."""
    return [path for path in report if path not in ("", report.root.path)]


def _near(pattern: str, paths: list[str]) -> str:
    """A hint at what a pattern that matches none of ``paths`` may have meant."""
    if not paths:
        return "; the model itself is '', and no other module ran"
    if below := [path for path in paths if fnmatchcase(path, f"*.{pattern}")]:
        return f"; did you mean {' or '.join(map(repr, below[:3]))}?"
    if hint := did_you_mean(pattern, paths):
        return hint
    more = ", ..." if len(paths) > 5 else ""
    return f"; modules that ran: {', '.join(map(repr, paths[:5]))}{more}"


def flop_budget(
    *total: str,
    forward: str | None = None,
    backward: str | None = None,
    recompute: str | None = None,
    optimizer: str | None = None,
    other: str | None = None,
    modules: Mapping[str, str] | None = None,
    equal: str | None = None,
    reading: Reading | None = None,
    strict: bool = True,
) -> Budget:
    """The most that a test may cost, such as "8.2 GFLOP"; exactly that much passes.

    >>> flop_budget("8.2 GFLOP", backward="4 MB").bounds[1].reading
    'bytes'

    Args:
        total: bounds on the whole, one for each unit: FLOP is all work, MAC the
            multiply-accumulates, B the bytes that are moved.
        forward: a bound on the forward phase.
        backward: a bound on the backward phase.
        recompute: a bound on what backward computes again.
        optimizer: a bound on the optimizer's steps.
        other: a bound on what runs outside of modules without gradients.
        modules: a bound for each module, by its path from the model or a pattern of paths,
            ``{"encoder.*": "1 GMAC"}``.
        equal: what the whole costs exactly: less is wrong too.
        reading: read FLOP as ``"matmul"`` (two for each MAC, and nothing else) or ``"exact"``
            (2K - 1 for a dot product), MAC as ``"valid"`` (padding and masks left out).
        strict: whether an uncounted op or an unwatched thread breaks the budget.

    Raises:
        TypeError: an argument of another kind.
        ValueError: not a quantity, no bound at all, or a reading in whose unit there is no bound.
    """
    _check(modules, reading, strict)
    phases = {
        "forward": forward,
        "backward": backward,
        "recompute": recompute,
        "optimizer": optimizer,
        "other": other,
    }

    def bound(
        quantity: str, phase: str | None = None, pattern: str | None = None, *, exact: bool = False
    ) -> Bound:
        limit, unit = parse_quantity(quantity)
        named_unit, named = NAMED_READINGS[reading] if reading else ("", "")
        attribute = named if unit == named_unit else UNITS[unit]
        return Bound(limit, unit, attribute, phase, pattern, exact)

    bounds = [bound(quantity) for quantity in total]
    bounds += [bound(quantity, phase) for phase, quantity in phases.items() if quantity is not None]
    bounds += [bound(quantity, pattern=path) for path, quantity in (modules or {}).items()]
    bounds += [bound(equal, exact=True)] if equal is not None else []
    if not bounds:
        raise ValueError("a budget needs a bound, such as '8.2 GFLOP'")
    if reading and all(bound.reading != NAMED_READINGS[reading][1] for bound in bounds):
        raise ValueError(
            f"reading={reading!r} reads {NAMED_READINGS[reading][0]}; no bound is in it"
        )
    return Budget(tuple(bounds), strict)


def _check(modules: object, reading: object, strict: object) -> None:
    if reading is not None and (not isinstance(reading, str) or reading not in NAMED_READINGS):
        raise ValueError(
            f"reading must be one of {', '.join(map(repr, NAMED_READINGS))}, got {reading!r}"
        )
    if not isinstance(strict, bool):
        raise TypeError(f"strict must be True or False, got {strict!r}")
    if modules is not None and not (
        isinstance(modules, Mapping) and all(isinstance(path, str) for path in modules)
    ):
        raise TypeError(f"modules must be like {{'encoder.*': '1 GMAC'}}, got {modules!r}")


def budgets_of(marks: Iterable[pytest.Mark]) -> list[Budget]:
    """The budgets of a test's markers: its own, its class's and its module's; each must hold.

    Raises:
        ValueError: the arguments of a marker are wrong; shows right ones.
    """
    try:
        return [flop_budget(*mark.args, **mark.kwargs) for mark in marks]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{error}; {EXAMPLE}") from error


def marker_line() -> str:
    """The marker in the list of ``pytest --markers``: its signature, and what it is for."""
    parameters = inspect.signature(flop_budget).parameters.values()
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
    summary = str(inspect.getdoc(flop_budget)).partition("\n")[0]
    return f"flop_budget{inspect.Signature(bare)}: {summary}"
