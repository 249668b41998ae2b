"""Device time: which host event launched what a device did, and how long devices were busy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from flopcount.trace.events import LAUNCH, OP, Event, Recording, is_op


def launchers(recording: Recording) -> Iterator[tuple[Event, Event | None]]:
    """Each piece of device work, with the host event that launched it, if that was recorded."""
    launches: dict[object, Event] = {}
    ops: dict[object, Event] = {}
    for event in recording.host:
        if event.kind is LAUNCH and event.correlation is not None:
            launches[event.correlation] = event
        elif event.kind is OP and event.external is not None:
            ops[event.external] = event
    for kernel in recording.kernels:
        launch = launches.get(kernel.correlation)
        if launch is not None and launch.outer is None:  # frames of its thread are missing
            launch = ops.get(launch.external, launch)
        yield kernel, launch or ops.get(kernel.external)


def functions_with_kernels(work: Iterable[tuple[Event, Event | None]]) -> set[Event]:
    """The Functions, and runs of their nodes, that launched device work with no op between."""
    found = set()
    for _, host in work:
        event = host
        while event is not None and event.kind is not OP:
            event = event.outer
        if event is not None and is_function(event):
            found.add(event)
    return found


def is_function(event: Event) -> bool:
    """Whether ``event`` is the call of a ``torch.autograd.Function``, or the run of its node."""
    return event.arguments is not None and not event.arguments.backend and not is_op(event)


def busy(events: Iterable[Event], since: float = -math.inf, until: float = math.inf) -> int:
    """How long at least one of ``events`` ran, in a span of time: overlaps count once."""
    total = 0
    for event in sorted(events, key=lambda event: event.start):
        start, end = max(event.start, since), min(event.end, until)
        if end > start:
            total += int(end - start)
            since = end
    return total
