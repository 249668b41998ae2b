"""How every benchmark measures time: calls take turns, round after round.

In each round the calls run in an order drawn anew, so that whatever else the machine does falls on
all of them alike. The first rounds warm up and are not counted. By default a call is charged with
the processor time of its thread, so torch should run on one thread.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

__all__ = ["Time", "Timed", "in_turns", "median", "ratio", "rounds_of"]

WARM_UP = 2
"""Rounds that are not counted."""

Time = dict[str, float]
"""``median`` and ``min`` of the seconds of a call, and their ``spread``: the distance between the
first and the third quartile, as a part of the median.
"""


class Timed(NamedTuple):
    """A call, and the context that it runs in; entering and leaving it are not timed."""

    call: Callable[[], object]
    context: Callable[[], AbstractContextManager[Any]] = nullcontext


def rounds_of(
    calls: Mapping[str, Timed],
    *,
    rounds: int,
    seconds: float = 0,
    clock: Callable[[], float] = time.thread_time,
) -> dict[str, list[float]]:
    """The seconds of each of ``calls``, round by round.

    Args:
        calls: what is timed, by name.
        rounds: how often each is timed, at least two.
        seconds: go on for at least so long, all calls together, if the rounds take less.
        clock: what is read before and after a call, in seconds.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    order, begin, turn = random.Random(0), time.perf_counter(), -WARM_UP
    while turn < rounds or time.perf_counter() - begin < seconds:
        for name in order.sample(list(calls), len(calls)):
            call, context = calls[name]
            gc.collect(0)
            with context():
                start = clock()
                call()
                end = clock()
            if turn >= 0:
                taken[name].append(end - start)
        turn += 1
    return taken


def in_turns(
    calls: Mapping[str, Timed],
    *,
    rounds: int,
    seconds: float = 0,
    clock: Callable[[], float] = time.thread_time,
) -> dict[str, Time]:
    """What :func:`rounds_of` measures of each of ``calls``, in three numbers."""
    taken = rounds_of(calls, rounds=rounds, seconds=seconds, clock=clock)
    return {name: summary(values) for name, values in taken.items()}


def summary(values: list[float]) -> Time:
    """Median, minimum and spread, to six digits."""
    middle = statistics.median(values)
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    numbers = {"median": middle, "min": min(values), "spread": (third - first) / middle}
    return {name: float(f"{number:.6g}") for name, number in numbers.items()}


def median(times: Mapping[str, Time], name: str) -> float:
    """The median seconds of the call ``name``."""
    return times[name]["median"]


def ratio(times: Mapping[str, Time], name: str, over: str) -> float:
    """The median of the call ``name``, divided by that of the call ``over``."""
    return median(times, name) / median(times, over)
