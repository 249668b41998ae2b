"""Ops that stand for others inside them: of subclasses of tensors, transforms, and autocast."""

from __future__ import annotations

import math
from collections.abc import Iterator

from flopcount.trace.call import DTYPES, shapes_of
from flopcount.trace.events import Arguments, Event, Recording

CAST = "aten::to"
"""The op that autocast calls for each argument that it casts."""

FLOATS = {name for name, dtype in DTYPES.items() if dtype.is_floating_point}
"""The recorded types of floating-point tensors."""

SUBCLASS = "PythonSubclass"
"""The name of the event inside an op whose arguments are of a subclass: it calls other ops."""


def opened(recording: Recording) -> set[Event]:
    """The ops that cost what the ops inside them cost, whatever a formula says of them."""
    found: set[Event] = set()
    transformed: set[Event] = set()
    casting: set[Event] = set()
    numbers: dict[Event, int] = {}  # of an op's own arguments, where others are before them
    for event in recording.host:
        outer = event.outer
        if outer is None:
            continue
        if event.name == CAST:
            casting.add(outer)
        elif event.name == SUBCLASS:
            found.add(outer)
        elif event.name == outer.name and event.arguments and outer.arguments:
            inner, around = event.arguments, outer.arguments
            number = numbers[event] = numbers.get(outer, len(around.dims))
            if is_cast(inner, around, outer in casting):
                found.add(outer)
            elif is_transformed(inner, around, number):
                transformed.update(ops_around(event, transformed))
    return found | transformed


def ops_around(event: Event, known: set[Event]) -> Iterator[Event]:
    """What is around ``event``, up to the first that is known."""
    outer = event.outer
    while outer is not None and outer not in known:
        yield outer
        outer = outer.outer


def is_cast(inner: Arguments, around: Arguments, has_cast: bool) -> bool:
    """Whether autocast called an op for the same op around it, with arguments of another dtype.

    Those that it has cast before are in a cache. Dtypes of lists are not recorded.
    """
    if inner.dims != around.dims:
        return False
    changed = [pair for pair in zip(inner.types, around.types, strict=True) if len({*pair}) > 1]
    return all(FLOATS.issuperset(pair) for pair in changed) and bool(changed or has_cast)


def is_transformed(inner: Arguments, around: Arguments, number: int) -> bool:
    """Whether a transform such as ``vmap`` called an op for the same op around it.

    The one around has the shapes of one sample, and the one inside those of all; or it has the
    arguments of the one around and its own ``number`` behind them. Of forward differentiation,
    tangents are beside it.
    """
    before = len(inner.dims) - number
    has_both = (
        before == len(around.dims)
        and inner.dims[:before] == around.dims
        and inner.types[:before] == around.types
        and inner.types[before:] == around.types[-number:]
    )
    return has_both or largest(inner) > largest(around)


def largest(recorded: Arguments) -> int:
    """The number of elements of the largest tensor among the arguments."""
    return max((math.prod(shape) for shape, _ in shapes_of(recorded)), default=0)
