"""The roofline: the least time that work takes on a device, and what bounds it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from flopcount.cost import ZERO, Cost
from flopcount.hardware.device import Device

COMPUTE, MEMORY = "compute", "memory"
"""What bounds a piece of work: arithmetic, or the bytes that it moves."""


@dataclass(frozen=True, slots=True)
class Bound:
    """The least time for some work, and the time that it took.

    Attributes:
        cost: the work.
        compute: seconds for its arithmetic; None if a peak is not known.
        memory: seconds for its bytes; None if the bandwidth is not known.
        least: seconds for both at once, one op after another; None if either is not known.
        measured: seconds that it took; None if nobody measured.
    """

    cost: Cost
    compute: float | None
    memory: float | None
    least: float | None
    measured: float | None = None

    @property
    def by(self) -> str | None:
        """What takes longer: ``compute`` or ``memory``; None if either is not known, or nothing."""
        if self.compute is None or self.memory is None or not self.cost:
            return None
        return COMPUTE if self.compute >= self.memory else MEMORY

    @property
    def reached(self) -> float | None:
        """The least time as a part of the measured one; None if either is not known."""
        return self.least / self.measured if self.measured and self.least is not None else None


def bound_of(
    device: Device,
    work: Iterable[tuple[Cost, str, float | None]],
    *,
    tf32: bool = False,
) -> Bound:
    """The bound of ops that run one after another: each cost, its dtype, and its seconds."""
    cost = ZERO
    compute: list[float | None] = []
    memory: list[float | None] = []
    measured = []
    for part, dtype, seconds in work:
        cost += part
        compute.append(device.compute_seconds(part, dtype, tf32=tf32))
        memory.append(device.memory_seconds(part))
        measured += [seconds] if seconds is not None else []
    least = [
        None if one is None or other is None else max(one, other)
        for one, other in zip(compute, memory, strict=True)
    ]
    return Bound(
        cost, _sum(compute), _sum(memory), _sum(least), sum(measured) if measured else None
    )


def _sum(seconds: Iterable[float | None]) -> float | None:
    """All together; None if one is not known."""
    total = 0.0
    for part in seconds:
        if part is None:
            return None
        total += part
    return total
