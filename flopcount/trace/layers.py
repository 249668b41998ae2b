"""Ops that stand for others inside them: of subclasses of tensors, transforms, and autocast."""

from __future__ import annotations

import math

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
    casting: set[Event] = set()
    for event in recording.host:
        outer = event.outer
        if outer is None:
            continue
        if event.name == CAST:
            casting.add(outer)
        elif event.name == SUBCLASS or is_cast(event, outer, outer in casting):
            found.add(outer)
        elif is_transformed(event, outer):
            around: Event | None = outer
            while around is not None and around not in found:
                found.add(around)
                around = around.outer
    return found


def is_cast(event: Event, outer: Event, has_cast: bool) -> bool:
    """Whether autocast called an op for the same op around it, with arguments of another dtype.

    Those that it has cast before are in a cache. Dtypes of lists are not recorded.
    """
    inner, around = event.arguments, outer.arguments
    if event.name != outer.name or inner is None or around is None or inner.dims != around.dims:
        return False
    changed = [pair for pair in zip(inner.types, around.types, strict=True) if len({*pair}) > 1]
    return all(FLOATS.issuperset(pair) for pair in changed) and bool(changed or has_cast)


def is_transformed(event: Event, outer: Event) -> bool:
    """Whether a transform such as ``vmap`` called an op for the same op around it.

    The one around has the shapes of one sample, and the one inside those of all; or it has the
    arguments of the one around and its own. Of forward differentiation, tangents are beside it.
    """
    inner, around = event.arguments, outer.arguments
    if event.name != outer.name or inner is None or around is None:
        return False
    number = len(around.dims)
    has_both = (
        len(inner.dims) > number
        and inner.dims[:number] == around.dims
        and inner.types[:number] == around.types
    )
    return has_both or largest(inner) > largest(around)


def largest(recorded: Arguments) -> int:
    """The number of elements of the largest tensor among the arguments."""
    return max((math.prod(shape) for shape, _ in shapes_of(recorded)), default=0)
