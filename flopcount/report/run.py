"""What a recording says of the time that a run took on its devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flopcount.cost import Cost

CPU = "CPU"
"""The device of a recording without device work: times are those of ops on the host."""


@dataclass(frozen=True, slots=True)
class CallTime:
    """Calls of one op with the same arguments: what they cost, and how long they took.

    Attributes:
        op: ``aten.mm``.
        dtype: in which it worked.
        arguments: their dtypes and shapes: ``bfloat16[8, 16], bfloat16[16, 4]``.
        calls: how many there were.
        cost: what they cost together.
        nanoseconds: how long their kernels ran.
        is_counted: whether the cost is known.
    """

    op: str
    dtype: str
    arguments: str
    calls: int
    cost: Cost
    nanoseconds: int
    is_counted: bool = True


@dataclass(frozen=True, slots=True)
class KernelTime:
    """Runs of one kernel, copy or set that an op launched.

    Attributes:
        kernel: its name.
        op: the op that launched it; nothing for work of no op.
        calls: how often it ran.
        nanoseconds: how long.
    """

    kernel: str
    op: str
    calls: int
    nanoseconds: int


@dataclass(frozen=True)
class Run:
    """The time of a recorded run, in nanoseconds. As text it is the line at the top of tables.

    Attributes:
        devices: the names of the devices that worked, ``("CPU",)`` if only the host did.
        steps: the profiler's steps that were read, by number; none if it marked none.
        is_whole: whether all was read, and not only these steps.
        span: from the first event to the last.
        busy: how long devices ran at least one kernel, all devices together.
        idle: how long in this span devices ran nothing, be it of these steps or of others.
        work: how long kernels ran: those at once on several streams add up.
        counted: the part of ``work`` in ops whose cost is known.
        others: the part of ``work`` in no op, by name: what was launched before the recording,
            or outside of ops.
        calls: the ops' calls by their arguments, the longest first.
        kernels: the kernels by name and op, the longest first; none on a CPU.
    """

    devices: tuple[str, ...]
    steps: tuple[int, ...]
    is_whole: bool
    span: int
    busy: int
    idle: int
    work: int
    counted: int
    others: Mapping[str, int] = field(default_factory=dict)
    calls: tuple[CallTime, ...] = field(default=(), repr=False)
    kernels: tuple[KernelTime, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        names = ", ".join(dict.fromkeys(self.devices))
        is_several = len(self.devices) > len(set(self.devices))
        counted = 100 * self.counted / self.work if self.work else 0
        parts = [
            f"{len(self.devices)} × {names}" if is_several else names,
            *([self._steps()] if self.steps else []),
            f"{milliseconds(self.work)} of device time, {counted:.1f} % of it counted",
            f"busy {milliseconds(self.busy)}, idle {milliseconds(self.idle)}",
        ]
        return " · ".join(parts)

    def _steps(self) -> str:
        """How many of the profiler's steps were read, and which."""
        first, last = self.steps[0], self.steps[-1]
        is_range = len(self.steps) > 2 and self.steps == tuple(range(first, last + 1))
        which = f"{first} to {last}" if is_range else ", ".join(map(str, self.steps))
        words = f"step {first}" if len(self.steps) == 1 else f"{len(self.steps)} steps ({which})"
        return f"whole recording with {words}" if self.is_whole else words


def milliseconds(nanoseconds: int) -> str:
    """``nanoseconds`` in milliseconds."""
    return f"{nanoseconds / 1e6:.4g} ms"


def read_run(document: dict[str, Any] | None) -> Run | None:
    """The run that ``dataclasses.asdict`` wrote."""
    if document is None:
        return None
    calls = [CallTime(**{**call, "cost": Cost(**call["cost"])}) for call in document["calls"]]
    kernels = [KernelTime(**kernel) for kernel in document["kernels"]]
    return Run(
        **{
            **document,
            "devices": tuple(document["devices"]),
            "steps": tuple(document["steps"]),
            "calls": tuple(calls),
            "kernels": tuple(kernels),
        }
    )
