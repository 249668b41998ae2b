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

    Of several ops, those without a known bound have no part in any of these times.

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
    parts = [_bound(device, *part, tf32=tf32) for part in work]
    known = [part for part in parts if part.least is not None] or parts
    measured = [part.measured for part in known if part.measured is not None]
    return Bound(
        sum((part.cost for part in parts), ZERO),
        compute=_sum(part.compute for part in known),
        memory=_sum(part.memory for part in known),
        least=_sum(part.least for part in known),
        measured=sum(measured) if measured else None,
    )


def _bound(device: Device, cost: Cost, dtype: str, measured: float | None, *, tf32: bool) -> Bound:
    compute, memory = device.compute_seconds(cost, dtype, tf32=tf32), device.memory_seconds(cost)
    least = None if compute is None or memory is None else max(compute, memory)
    return Bound(cost, compute, memory, least, measured)


def _sum(seconds: Iterable[float | None]) -> float | None:
    """All together; None if one is not known."""
    times = list(seconds)
    known = [time for time in times if time is not None]
    return sum(known) if len(known) == len(times) else None
