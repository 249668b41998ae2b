"""The walk through a recording, event by event, that posts what its ops cost to a ledger."""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flopcount.attribution.phase import RECOMPUTE
from flopcount.attribution.tree import Place
from flopcount.cost import ZERO, Cost
from flopcount.formulas import Bill
from flopcount.report.ledger import Ledger
from flopcount.report.run import CPU, CallTime, KernelTime, Run
from flopcount.torch_private.ops import overloads_named
from flopcount.trace.bills import GRAPH_OF_KERNELS, OPENED, Answer, Bills, bill_of_function
from flopcount.trace.call import described
from flopcount.trace.events import CPP, GRAPH, OP, RANGE, Arguments, Event, Recording
from flopcount.trace.kernels import busy, functions_with_kernels, launchers
from flopcount.trace.layers import opened
from flopcount.trace.places import PROFILER_STEP, Places, is_inside, is_marked

COVERED = object()
"""The posting of views, which move nothing, nor does what is inside them; and of compilation."""

COMPILING = "(dynamo_timed)"
"""How the names of events end in which torch compiles: ops inside run on tensors without data."""

COLLECTIVE = re.compile(r"(nccl|gloo|mpi|ucc|xccl|hccl):")
"""How the names of the ranges begin that torch marks around collectives."""


@dataclass(eq=False)
class Posting:
    """Calls of one op, with the same arguments, at one place.

    Attributes:
        calls: how many there were.
        nanoseconds: how long their kernels ran; on a CPU, how long they took themselves.
        inside: of a call whose cost is unknown: what the ops inside it cost.
    """

    place: Place
    bill: Bill
    arguments: Arguments
    calls: int = 0
    nanoseconds: int = 0
    inside: Cost = ZERO

    @property
    def is_said(self) -> bool:
        """Whether it has a row: if others have its work, an op of unknown cost has none.

        An op that torch knows may call others to prepare its work. They have it if they multiply.
        """
        if self.bill.counted or self.nanoseconds > 0 or self.arguments.backend:
            return True
        others = self.inside.macs if overloads_named(self.arguments.name) else self.inside.flops
        return not others


class Walk:
    """Bills the ops of a recording.

    Args:
        recording: the recording.
        steps: the steps of the profiler to read, by number; the whole recording if there are none.
        paths: the paths of modules that the user has told, by their names in the recording.

    Attributes:
        ledger: what they cost.
        uncounted: why ops are uncounted, by their names.
        run: the time that they took.
    """

    def __init__(
        self, recording: Recording, steps: Mapping[int, Event], paths: Mapping[str, str]
    ) -> None:
        self.ledger = Ledger()
        self.uncounted: dict[str, str] = {}
        self.places = Places(recording, paths)
        self._recording = recording
        self._steps = sorted((event.start, event.end) for event in steps.values())
        self._bills = Bills()
        self._postings: dict[Any, Posting] = {}
        self._device_work = list(launchers(recording))
        self._with_kernels = functions_with_kernels(self._device_work)
        for graph in [] if recording.kernels else graphs_without_kernels(recording):
            graph.arguments = GRAPH_OF_KERNELS
        self._macs_of: dict[int, int] = {}  # of the op at an index, with what is inside it
        self._opened = opened(recording)
        self._working = with_outer(host for _, host in self._device_work if host)
        for index, event in enumerate(recording.host):
            self._post(index, event)
        self.run = self._run(tuple(steps or steps_in(recording)))
        self._fill_ledger()

    def _is_selected(self, event: Event) -> bool:
        if not self._steps:
            return True
        place = bisect_right(self._steps, (event.start, math.inf)) - 1  # the last that has begun
        return place >= 0 and event.start < self._steps[place][1]

    def _post(self, index: int, event: Event) -> None:
        """Post an op, unless it is a kernel of the one around it."""
        outer = event.outer.posting if event.outer else None
        if event.name.endswith(COMPILING):
            outer = COVERED
        is_selected = self._is_selected(event)
        event.around, event.posting = self.places.around(event, is_selected), outer
        is_kernel = outer is COVERED or (outer is not None and outer.bill.counted)
        if is_kernel or event.arguments is None or not is_selected:
            return
        answer = self._answer(index)
        if answer.bill is None:
            event.posting = COVERED if answer.is_whole else outer
        elif not self._is_layer(index, answer.bill):
            place = self.places.place(event, tells_gradients=not answer.makes_tensor)
            if self._is_stopped(event, place, answer.bill):
                event.posting = COVERED
                return
            event.posting = self._posting(event, place, answer.bill)
            if outer is not None:
                outer.inside += answer.bill.cost

    def _is_stopped(self, event: Event, place: Place, bill: Bill) -> bool:
        """Whether a checkpoint has what it needs when ``event`` begins, and stops it there.

        Its product is recorded, and no kernel of it.
        """
        is_seen = bool(self._recording.kernels)  # on a CPU, nothing tells it
        is_product = place.phase == RECOMPUTE and bill.cost.macs > 0
        return is_seen and is_product and event not in self._working

    def _posting(self, event: Event, place: Place, bill: Bill) -> Posting:
        arguments: Any = event.arguments
        # of an op whose cost is unknown, it may turn out that others have all of its work
        key = (place, id(bill), id(arguments)) if bill.counted else event
        posting = self._postings.get(key)
        if posting is None:
            posting = self._postings[key] = Posting(place, bill, arguments)
        posting.calls += 1
        return posting

    def _answer(self, index: int) -> Answer:
        """What the op at ``index`` costs."""
        event = self._recording.host[index]
        arguments: Any = event.arguments
        if event in self._opened:
            return OPENED
        if event in self._with_kernels:
            return bill_of_function(arguments)
        return self._bills.of(arguments, lambda: (e.arguments for _, e in self._inside(index)))

    def _is_layer(self, index: int, bill: Bill) -> bool:
        """Whether more is multiplied inside the op at ``index`` than it shows.

        A transform called other ops for it: under ``vmap``, a product of matrices for one of a
        matrix and a vector.
        """
        return bill.counted and self._macs(index) > all_macs(bill)

    def _macs(self, index: int) -> int:
        """The MACs of the op at ``index``, or those inside it if they are more."""
        if index not in self._macs_of:
            own, covered, inside = self._answer(index).bill, set(), 0
            for place, inner in self._inside(index):
                if inner.outer in covered:
                    covered.add(inner)
                elif inner.kind is OP and self._answer(place).is_whole:
                    covered.add(inner)
                    inside += self._macs(place)
            self._macs_of[index] = max(inside, all_macs(own) if own else 0)
        return self._macs_of[index]

    def _inside(self, index: int) -> Iterator[tuple[int, Any]]:
        """What ran inside the event at ``index`` and has arguments, with its own index."""
        host = self._recording.host
        event = host[index]
        for place in range(index + 1, len(host)):
            inner = host[place]
            if inner.start >= event.end:
                return
            if inner.arguments is not None and is_inside(inner, event):
                yield place, inner

    def _run(self, steps: tuple[int, ...]) -> Run:
        """The time of all that is selected."""
        recording, others = self._recording, Counter[str]()
        work: list[Event] = []
        kernels: dict[tuple[str, str], list[Event]] = {}
        for kernel, host in self._device_work:
            if not (self._is_selected(host) if host else not self._steps):
                continue
            work.append(kernel)
            posting = host.posting if host else None
            if isinstance(posting, Posting):
                posting.nanoseconds += kernel.duration
                kernels.setdefault((kernel.name, posting.bill.op), []).append(kernel)
            else:
                others[name_of(kernel, host)] += kernel.duration
                kernels.setdefault((kernel.name, ""), []).append(kernel)
        selected = [event for event in recording.host if self._is_selected(event)]
        if recording.kernels:
            devices, running = by_device(work), by_device(recording.kernels)
            time = sum(event.duration for event in work)
        else:
            devices = running = {CPU: self._host_work()}
            time = sum(posting.nanoseconds for posting in self._postings.values())
        everything = [*selected, *work]
        start = min((event.start for event in everything), default=0)
        end = max((event.end for event in everything), default=0)
        said = [posting for posting in self._postings.values() if posting.is_said]
        return Run(
            devices=tuple(device_name(recording, device) for device in devices),
            steps=steps,
            is_whole=not self._steps,
            span=end - start,
            busy=sum(map(busy, devices.values())),
            idle=sum(end - start - busy(running[device], start, end) for device in devices),
            work=time,
            counted=sum(posting.nanoseconds for posting in said if posting.bill.counted),
            others=dict(others.most_common()),
            calls=call_times(said),
            kernels=kernel_times(kernels),
        )

    def _host_work(self) -> list[Event]:
        """The ops that have a row, where no device has any time. Each has the time of its own."""
        work = []
        said = {posting for posting in self._postings.values() if posting.is_said}
        for event in self._recording.host:
            posting, outer = event.posting, event.outer.posting if event.outer else None
            if posting is not outer and posting in said:
                posting.nanoseconds += event.duration
                work.append(event)
                if outer in said:
                    outer.nanoseconds -= event.duration
        return work

    def _fill_ledger(self) -> None:
        for posting in self._postings.values():
            if posting.is_said:
                bill = posting.bill
                if not bill.counted:
                    self.uncounted.setdefault(bill.op, bill.unknown)
                self.ledger.post(posting.place, bill, posting.calls, posting.nanoseconds)


def graphs_without_kernels(recording: Recording) -> set[Event]:
    """The graphs that inductor compiled for the CPU of whose fused kernels none is recorded."""
    with_kernels = with_outer(
        event for event in recording.host if event.arguments and event.arguments.backend == CPP
    )
    graphs = {event for event in recording.host if GRAPH.fullmatch(event.name)}
    return graphs - with_kernels


def by_device(work: Iterable[Event]) -> dict[Any, list[Event]]:
    """Device work by the device that ran it."""
    devices: dict[Any, list[Event]] = {}
    for event in work:
        devices.setdefault(event.lane[0], []).append(event)
    return devices


def with_outer(events: Iterable[Event]) -> set[Event]:
    """``events``, and all around them."""
    found: set[Event] = set()
    for event in events:
        outer: Event | None = event
        while outer is not None and outer not in found:
            found.add(outer)
            outer = outer.outer
    return found


def steps_in(recording: Recording) -> dict[int, Event]:
    """The steps that the profiler has marked, by their numbers.

    It marks the next step before it knows whether there is one.
    """
    starts = [event.start for event in recording.host if event.kind is OP]
    steps = {}
    for event in recording.host:
        if event.kind is RANGE and (match := PROFILER_STEP.fullmatch(event.name)):
            place = bisect_left(starts, event.start)
            if place < len(starts) and starts[place] < event.end:
                steps[int(match[1])] = event
    return steps


def name_of(kernel: Event, host: Event | None) -> str:
    """What device work of no op is called: the collective, or the part of torch around it."""
    while host is not None:
        is_module = is_marked(host)
        if (host.kind is OP and not is_module) or COLLECTIVE.match(host.name):
            return host.name
        host = host.outer
    return kernel.name


def all_macs(bill: Bill) -> int:
    """All MACs of a call."""
    return bill.cost.macs + bill.integer.macs + bill.recompute.macs


def device_name(recording: Recording, device: Any) -> str:
    """The name of the device with this number, if the file tells."""
    if device == CPU:
        return CPU
    properties = recording.about.get("deviceProperties")
    items = properties if isinstance(properties, list) else []
    known = [item for item in items if isinstance(item, dict) and item.get("name")]
    names = {str(item.get("id")): str(item["name"]) for item in known}
    if len(set(names.values())) == 1:  # AMD's devices have other numbers among kernels
        return next(iter(names.values()))
    return names.get(str(device), f"device {device}")


def call_times(postings: list[Posting]) -> tuple[CallTime, ...]:
    """The calls of each op by their arguments, the longest first."""
    totals: dict[Any, CallTime] = {}
    for posting in postings:
        bill, calls = posting.bill, posting.calls
        arguments = described(posting.arguments)
        key = bill.op, arguments, bill.counted
        cost = calls * (bill.cost + bill.integer + bill.recompute)
        known = totals.get(key)
        totals[key] = CallTime(
            bill.op,
            bill.dtype,
            arguments,
            calls + (known.calls if known else 0),
            cost + (known.cost if known else ZERO),
            posting.nanoseconds + (known.nanoseconds if known else 0),
            bill.counted,
        )
    ordered = sorted(totals.values(), key=lambda call: (-call.nanoseconds, -call.cost.flops))
    return tuple(ordered)


def kernel_times(kernels: Mapping[tuple[str, str], list[Event]]) -> tuple[KernelTime, ...]:
    """The kernels by name and op, the longest first."""
    times = [
        KernelTime(name, op, len(events), sum(event.duration for event in events))
        for (name, op), events in kernels.items()
    ]
    return tuple(sorted(times, key=lambda kernel: -kernel.nanoseconds))
