"""Ops that stand for others inside them: those of subclasses of tensors, and of transforms."""

from __future__ import annotations

import math

from flopcount.trace.call import shapes_of
from flopcount.trace.events import Arguments, Event, Recording

SUBCLASS = "PythonSubclass"
"""The name of the event inside an op whose arguments are of a subclass: it calls other ops."""


def opened(recording: Recording) -> set[Event]:
    """The ops that cost what the ops inside them cost, whatever a formula says of them."""
    found: set[Event] = set()
    for event in recording.host:
        outer = event.outer
        if outer is None:
            continue
        if event.name == SUBCLASS:
            found.add(outer)
        elif is_transformed(event, outer):
            around: Event | None = outer
            while around is not None and around not in found:
                found.add(around)
                around = around.outer
    return found


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
