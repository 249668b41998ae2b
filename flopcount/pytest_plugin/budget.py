"""Budget: upper bounds on what a report says, and how far it keeps to them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

from flopcount.cost import UNITS, Cost, parse_quantity
from flopcount.errors import did_you_mean

if TYPE_CHECKING:
    from flopcount.report.report import Report

__all__ = ["Bound", "Budget", "Measure", "Verdict", "flop_budget", "marker_line", "unknown"]

Reading = Literal["matmul", "exact", "valid"]

OTHER_READINGS = {
    "matmul": ("FLOP", "matmul_flops"),
    "exact": ("FLOP", "exact_flops"),
    "valid": ("MAC", "valid_macs"),
}
"""Readings that are asked for by name, and the unit that they are read in."""


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
    """What was counted where a bound looks.

    Attributes:
        what: ``total``, a phase, or a module, with the reading if its unit does not say it.
        count: what it cost, in ``unit``.
        limit: what it may cost.
        unit: ``FLOP``, ``MAC`` or ``B``.
        exact: it may not cost less, either.
        reading: the attribute of a Cost that was read.
        phase: the only phase that counts, or None.
        module: path of the only module that counts, or None.
    """

    what: str
    count: int
    limit: int
    unit: str
    exact: bool
    reading: str = "flops"
    phase: str | None = None
    module: str | None = None

    @property
    def excess(self) -> int:
        """How much the limit is exceeded by; negative where there is room."""
        return self.count - self.limit

    @property
    def is_met(self) -> bool:
        """Whether the budget holds; exactly on it, it does."""
        return self.excess == 0 if self.exact else self.excess <= 0

    @property
    def slack(self) -> float:
        """The room that is left, as a part of what is needed; negative if the budget is broken.

        Where nothing is needed, any room is infinite.
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
    """What a report says to a budget; without faults it keeps to it."""

    measures: tuple[Measure, ...] = ()
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Budget:
    """Bounds that a report is held to.

    >>> import torch, flopcount
    >>> from flopcount.pytest_plugin.budget import flop_budget
    >>> report = flopcount.count(torch.nn.Linear(8, 2), torch.ones(4, 8), backward=False)
    >>> print(*flop_budget("128 FLOP", forward="64 MAC").judge(report).faults)
    total: 136 FLOP is 8 more than its budget of 128 FLOP
    """

    bounds: tuple[Bound, ...]
    strict: bool = True

    def judge(self, report: Report) -> Verdict:
        """What ``report`` says to each bound."""
        measures: list[Measure] = []
        faults: list[str] = []
        for bound in self.bounds:
            found = _measures(bound, report)
            if bound.pattern is not None and not found:
                hint = _near(bound.pattern, _paths(report))
                faults.append(f"no module that ran matches {bound.pattern!r}{hint}")
            measures += found
        faults += [str(measure) for measure in measures if not measure.is_met]
        if self.strict:
            faults += unknown(report)
        return Verdict(tuple(measures), tuple(faults))


def unknown(report: Report) -> list[str]:
    """Why the cost that ``report`` says is not the whole, and so no budget can hold it."""
    faults = [
        f"{op} is uncounted ({calls} {'call' if calls == 1 else 'calls'}): give it a formula with "
        "@flopcount.formula, or say strict=False"
        for op, calls in report.uncounted.items()
    ]
    faults += [
        f"{what} ran in thread {name!r}, which had not entered the counter; strict=False "
        "leaves it out"
        for name, what in report.unwatched.items()
    ]
    return faults


def _measures(bound: Bound, report: Report) -> list[Measure]:
    """What ``bound`` looks at, as it reads it."""
    named = [name for name, (_, reading) in OTHER_READINGS.items() if reading == bound.reading]

    def measure(what: str, cost: Cost, module: str | None = None) -> Measure:
        return Measure(
            " ".join([what, *(f"({name})" for name in named)]),
            getattr(cost, bound.reading),
            bound.limit,
            bound.unit,
            bound.exact,
            bound.reading,
            bound.phase,
            module,
        )

    if bound.pattern is None:
        cost = report.phases[bound.phase] if bound.phase else report.total
        return [measure(bound.phase or "total", cost)]
    costs = report.by_module()
    if bound.pattern in costs:
        paths = [bound.pattern]
    else:
        paths = [path for path in _paths(report) if fnmatchcase(path, bound.pattern)]
    return [measure(path or report.model.name, costs[path], path) for path in paths]


def _paths(report: Report) -> list[str]:
    """The modules that a pattern may match: all but the model and the block around it."""
    return [path for path in report if path not in ("", report.root.path)]


def _near(pattern: str, paths: list[str]) -> str:
    """What may be meant by a pattern that matches none of ``paths``."""
    if below := [path for path in paths if fnmatchcase(path, f"*.{pattern}")]:
        return f"; did you mean {' or '.join(map(repr, below[:3]))}?"
    if hint := did_you_mean(pattern, paths):
        return hint
    more = ", …" if len(paths) > 5 else ""
    return f"; below the model ran {', '.join(map(repr, paths[:5])) or 'none'}{more}"


def flop_budget(
    *total: str,
    forward: str | None = None,
    backward: str | None = None,
    recompute: str | None = None,
    optimizer: str | None = None,
    modules: Mapping[str, str] | None = None,
    equal: str | None = None,
    reading: Reading | None = None,
    strict: bool = True,
) -> Budget:
    """The most that a test may cost, such as "8.2 GFLOP"; exactly that much passes.

    >>> flop_budget("8.2 GFLOP", backward="4 MB").bounds[1].reading
    'bytes'

    Args:
        total: what all of it may cost. The unit says how it is read: FLOP is all work, MAC the
            multiply-accumulates, B the bytes that are moved; one bound for each unit.
        forward: what the phase may cost; likewise ``backward``, ``recompute``, ``optimizer``.
        backward: the same for the backward phase.
        recompute: the same for what backward computes again.
        optimizer: the same for the optimizer's steps.
        modules: what each module may cost, by its path from the model or a pattern of paths,
            ``{"encoder.*": "1 GMAC"}``.
        equal: what all of it costs, neither more nor less.
        reading: read FLOP as ``"matmul"`` (two for each MAC, and nothing else) or ``"exact"``
            (2K - 1 for a dot product), MAC as ``"valid"`` (padding and masks left out).
        strict: an op whose cost is not known breaks the budget.

    Raises:
        TypeError: an argument of another kind.
        ValueError: no quantity, no bound at all, or a reading that no bound is in.
    """
    if reading is not None and (not isinstance(reading, str) or reading not in OTHER_READINGS):
        raise ValueError(
            f"reading must be one of {', '.join(map(repr, OTHER_READINGS))}, got {reading!r}"
        )
    if not isinstance(strict, bool):
        raise TypeError(f"strict must be True or False, got {strict!r}")
    if modules is not None and not (
        isinstance(modules, Mapping) and all(isinstance(path, str) for path in modules)
    ):
        raise TypeError(f"modules must be like {{'encoder.*': '1 GMAC'}}, got {modules!r}")
    phases = {
        "forward": forward,
        "backward": backward,
        "recompute": recompute,
        "optimizer": optimizer,
    }

    def bound(
        quantity: str, phase: str | None = None, pattern: str | None = None, *, exact: bool = False
    ) -> Bound:
        limit, unit = parse_quantity(quantity)
        other_unit, other = OTHER_READINGS[reading] if reading else (None, "")
        read = other if unit == other_unit else UNITS[unit]
        return Bound(limit, unit, read, phase, pattern, exact)

    bounds = [bound(quantity) for quantity in total]
    bounds += [bound(quantity, phase) for phase, quantity in phases.items() if quantity is not None]
    bounds += [bound(quantity, pattern=path) for path, quantity in (modules or {}).items()]
    bounds += [bound(equal, exact=True)] if equal is not None else []
    if not bounds:
        raise ValueError("a budget needs a bound, such as '8.2 GFLOP'")
    if reading and all(bound.reading != OTHER_READINGS[reading][1] for bound in bounds):
        raise ValueError(
            f"reading={reading!r} reads {OTHER_READINGS[reading][0]}; no bound is in it"
        )
    return Budget(tuple(bounds), strict)


def marker_line() -> str:
    """The marker in the list of ``pytest --markers``: its signature, and what it is for."""
    parameters = inspect.signature(flop_budget).parameters.values()
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
    summary = str(inspect.getdoc(flop_budget)).partition("\n")[0]
    return f"flop_budget{inspect.Signature(bare)}: {summary}"
