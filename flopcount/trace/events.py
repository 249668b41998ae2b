"""The events of a recording: ops, ranges and modules on the host, launches, and device work."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from os import PathLike, fspath
from typing import Any

from flopcount.errors import TraceError
from flopcount.trace.file import EVENTS, contents

OP, RANGE, MODULE, LAUNCH, KERNEL = "op", "range", "module", "launch", "kernel"
"""Kinds of events: an op of torch; what ``record_function`` wrote; a call of a module; a call of
the driver; and what the device then ran, copied or set."""

KINDS = {
    "cpu_op": OP,
    "operator": OP,  # as older versions of torch called it
    "user_annotation": RANGE,
    "python_function": MODULE,
    "kernel": KERNEL,
    "concurrent_kernel": KERNEL,
    "gpu_memcpy": KERNEL,
    "memcpy": KERNEL,
    "gpu_memset": KERNEL,
    "memset": KERNEL,
    "runtime": LAUNCH,
    "cuda_runtime": LAUNCH,
    "cuda_driver": LAUNCH,
    "xpu_runtime": LAUNCH,
    "xpu_driver": LAUNCH,
    "privateuse1_runtime": LAUNCH,
    "privateuse1_driver": LAUNCH,
    "mtia_runtime": LAUNCH,
}
"""The kinds of torch.profiler's categories; events of others tell nothing about cost."""

OP_NAME = re.compile(r"\w+::\w+")
"""What ops are called. Other events on the host are parts of torch around ops."""

TRITON, CPP = "triton", "cpp"
"""What inductor compiles kernels for: a device, and the CPU."""

FUSED = re.compile(r"(graph_\d+_)?cpp_fused_\w+")
"""Kernels of the CPU, which inductor records without their arguments, if it is told to."""

GRAPH = re.compile(r"## Call CompiledFxGraph \w+ ##")
"""What inductor calls the range around a graph that it compiled."""

LIST = "TensorList"
"""The type of a list of tensors."""

MODULE_NAME = "nn.Module: "
"""How the name of a module's frame begins; other frames of Python are passed over."""

INSTANCE = re.compile(r"(?P<type>.*)_\d+")
"""What follows: the class, and the number of the instance."""

CALL, PART = "flopcount.call:", "flopcount.part:"
"""How the name of a range begins that marks a call of a module, or of a wrapper around it."""

MODULES = "flopcount"
"""The key in a recording of the modules that ran, as a report without rows."""

HOW_TO_RECORD = (
    "record it with torch.profiler.profile(record_shapes=True), or with flopcount.record(model)"
)

Thread = tuple[Any, Any]
"""The process and the thread of an event."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments of an op as they were recorded.

    Attributes:
        name: the op.
        dims: the shape of each tensor, a list of shapes for a list of tensors, else empty.
        types: the dtype of each tensor in C++'s words, ``Scalar``, ``ScalarList``, ``TensorList``;
            nothing for all else.
        strides: likewise; None where they were not recorded.
        values: numbers as text; None where they were not recorded.
        backend: what compiled a kernel of a compiled program, ``triton`` or ``cpp``; else empty.
    """

    name: str
    dims: tuple[Any, ...]
    types: tuple[str, ...]
    strides: tuple[Any, ...] | None
    values: tuple[str, ...] | None
    backend: str = ""

    def last(self, number: int) -> Arguments:
        """The last of them."""
        first = len(self.types) - number
        strides, values = self.strides and self.strides[first:], self.values and self.values[first:]
        return Arguments(self.name, self.dims[first:], self.types[first:], strides, values)


class Event:
    """Something that happened, in nanoseconds.

    Attributes:
        outer: the event on the same thread inside which this one ran.
        arguments: those of an op with recorded shapes; equal ones are one object.
        sequence: the number that autograd's next node had; of a backward, that of its node.
        forward_thread: of a backward, torch's number of the thread that made its node; else 0.
        external: by which launches and device work name the op that they belong to.
        correlation: the same number for a launch and for what it launched.
        lane: the device and the stream of device work.
        around: what is open inside it, once the walk was here.
        posting: what its device time belongs to, likewise.
    """

    __slots__ = (
        "arguments",
        "around",
        "correlation",
        "end",
        "external",
        "forward_thread",
        "kind",
        "lane",
        "name",
        "outer",
        "posting",
        "sequence",
        "start",
        "thread",
    )

    def __init__(self, kind: str, name: str, start: int, end: int, thread: Thread) -> None:
        self.kind = kind
        self.name = name
        self.start = start
        self.end = end
        self.thread = thread
        self.outer: Event | None = None
        self.arguments: Arguments | None = None
        self.sequence: int | None = None
        self.forward_thread = 0
        self.external: int | None = None
        self.correlation: int | None = None
        self.lane: tuple[Any, Any] = (None, None)
        self.around: Any = None
        self.posting: Any = None

    @property
    def duration(self) -> int:
        """How long it took."""
        return self.end - self.start


def is_op(event: Event | None) -> bool:
    """Whether ``event`` is an op, and no part of torch around ops."""
    return event is not None and OP_NAME.fullmatch(event.name) is not None


@dataclass
class Recording:
    """A recording in memory: what counting needs of it.

    Attributes:
        name: the path of its file, for messages.
        host: ops, ranges, modules and launches, in the order in which they began; an event comes
            before those inside it.
        kernels: what devices did.
        threads: by process and torch's number of a thread, the thread, where the file tells.
        about: what the file says of the recording itself.
    """

    name: str
    host: list[Event] = field(default_factory=list)
    kernels: list[Event] = field(default_factory=list)
    threads: dict[tuple[Any, int], Thread] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)


def read(path: str | PathLike[str]) -> Recording:
    """The recording at ``path``.

    Raises:
        TraceError: the file is damaged, or no recording of torch's ops with their shapes.
    """
    recording = Recording(fspath(path))
    reader = _Reader(recording)
    for key, value in contents(path):
        if key == EVENTS:
            reader.add(value)
        else:
            recording.about[key] = value
    reader.finish()
    return recording


class _Reader:
    """Takes the events of a file one by one."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.known: dict[Any, Arguments] = {}
        self.number = 0
        self.flows: dict[Any, Thread] = {}  # where the forward of each flow to backward ran
        self.ends: list[tuple[Any, Thread, int]] = []

    def add(self, event: Any) -> None:
        """Take an event, as JSON has it."""
        self.number += 1
        try:
            category = event.get("cat")
            if category == "fwdbwd":
                self._add_flow(event)
                return
            kind = KINDS.get(category) or KINDS.get(str(category).lower())
            if kind is None or event.get("ph") == "M":
                return
            if kind is MODULE and not event["name"].startswith(MODULE_NAME):
                return
            if event["ph"] == "X":
                self._add(kind, event)
            elif event["ph"] in ("B", "E"):
                raise ValueError("a beginning and an end apart, which torch.profiler never writes")
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            missing = f"it has no {error}" if isinstance(error, KeyError) else error
            raise TraceError(
                f"{self.recording.name}: event {self.number} is damaged: {missing}"
            ) from error

    def _add(self, kind: str, raw: dict[str, Any]) -> None:
        start, duration = float(raw["ts"]), float(raw["dur"])
        if duration < 0 or not math.isfinite(start + duration):
            raise ValueError(f"{raw['name']} takes {duration} µs from {start} on")
        # torch writes microseconds with three digits
        start, end = round(1000 * start), round(1000 * start) + round(1000 * duration)
        event = Event(kind, str(raw["name"]), start, end, _thread(raw))
        args = raw.get("args") or {}
        event.external = _number(args.get("External id", args.get("external id")))
        if kind is KERNEL:
            event.correlation = _number(args.get("correlation"))
            device, stream = args.get("device", raw.get("pid")), args.get("stream", raw.get("tid"))
            event.lane = _name(device), _name(stream)
            self.recording.kernels.append(event)
            return
        if kind is LAUNCH:
            event.correlation = _number(args.get("correlation"))
        elif kind is not MODULE:
            event.sequence = _number(args.get("Sequence number")) if kind is OP else None
            event.forward_thread = _number(args.get("Fwd thread id")) or 0
            if "Input Dims" in args or "Input dims" in args:
                event.arguments = self._arguments(event.name, args)
            elif FUSED.fullmatch(event.name):
                told = {"Input Dims": [], "kernel_backend": CPP}
                event.arguments = self._arguments(event.name, told)
        self.recording.host.append(event)

    def _arguments(self, name: str, args: dict[str, Any]) -> Arguments:
        dims: Any = args.get("Input Dims", args.get("Input dims"))
        types = args.get("Input type", [""] * len(dims))
        strides, values = args.get("Input Strides"), args.get("Concrete Inputs")
        backend = str(args.get("kernel_backend", ""))
        key = name, repr(dims), repr(types), repr(strides), repr(values), backend
        arguments = self.known.get(key)
        if arguments is None:
            for told in (types, strides, values):
                if told is not None and (not isinstance(told, list) or len(told) != len(dims)):
                    raise ValueError("its numbers of shapes, dtypes, strides and values differ")
            arguments = Arguments(
                name,
                _shapes(dims),
                tuple(map(_kind, types, dims)),
                None if strides is None else _shapes(strides),
                None if values is None else tuple(map(str, values)),
                backend,
            )
            self.known[key] = arguments
        return arguments

    def _add_flow(self, raw: dict[str, Any]) -> None:
        flow, thread = _name(raw["id"]), _thread(raw)
        if raw["ph"] == "s":
            self.flows[flow] = thread
        elif raw["ph"] == "f":
            self.ends.append((flow, thread, round(1000 * float(raw["ts"]))))

    def finish(self) -> None:
        """Check that there are ops with shapes; sort, and put events inside one another."""
        recording = self.recording
        ops = [event for event in recording.host if event.kind is OP]
        if str(recording.about.get("schema")).startswith("flopcount."):
            raise TraceError(
                f"{recording.name}: it is a report, which flopcount.Report.from_json reads; a "
                "recording is what torch.profiler exports"
            )
        if not ops and MODULES not in recording.about:
            raise TraceError(
                f"{recording.name}: no op of torch is in it: it is no recording of torch.profiler, "
                f"or one without the CPU's activities; {HOW_TO_RECORD}"
            )
        if not self.known and MODULES not in recording.about:
            raise TraceError(f"{recording.name}: it has no shapes; {HOW_TO_RECORD}")
        recording.host.sort(key=_order)
        try:
            _nest(recording.host)
        except ValueError as error:
            raise TraceError(f"{recording.name}: {error}") from error
        recording.threads = self._threads(ops)

    def _threads(self, ops: list[Event]) -> dict[tuple[Any, int], Thread]:
        """The threads by the numbers that backward ops call them by: flows lead there."""
        starts = {
            (event.thread, event.start): event.forward_thread
            for event in ops
            if event.forward_thread
        }
        threads: dict[tuple[Any, int], Thread] = {}
        for flow, thread, start in self.ends:
            number = starts.get((thread, start))
            if number and flow in self.flows:
                threads[thread[0], number] = self.flows[flow]
        return threads


RANK = {MODULE: 0, RANGE: 1, OP: 2, LAUNCH: 3}
"""Of events that begin and end together, which is outside."""


DEEPEST = 400
"""How deep events nest at most: modules nest as Python's calls do, of which 1,000 may be open."""


def _order(event: Event) -> tuple[int, int, int, int]:
    return event.start, -event.end, RANK[event.kind], event.external or 0


def _nest(events: list[Event]) -> None:
    """Put each event into the one that was open in its middle, on its thread.

    Times are rounded, so that the end of an event may seem to be behind that of the one around it.
    """
    open_events: dict[Thread, list[Event]] = {}
    for event in events:
        stack = open_events.setdefault(event.thread, [])
        while stack and event.start + event.end >= 2 * stack[-1].end:
            stack.pop()
        if stack:
            event.outer = stack[-1]
        stack.append(event)
        if len(stack) > DEEPEST:
            raise ValueError(f"more than {DEEPEST} events are nested in one another")


def _thread(raw: dict[str, Any]) -> Thread:
    return _name(raw.get("pid")), _name(raw.get("tid"))


def _name(value: Any) -> Any:
    """A number or a word that something is called by, if it is one."""
    if isinstance(value, (list, dict)):
        raise ValueError(f"{value!r} is neither a number nor a word")
    return value


def _number(value: Any) -> int | None:
    """A whole number, if it is one, or none."""
    if value is not None and type(value) is not int:
        raise ValueError(f"{value!r} is no whole number")
    return value


def _kind(kind: Any, dims: Any) -> str:
    """The recorded type of an argument with these dimensions."""
    kind = LIST if isinstance(kind, list) else kind
    if not isinstance(kind, str):
        raise ValueError(f"{kind!r} is no type")
    nested = [isinstance(item, list) for item in dims]
    if not all(nested) if kind == LIST else kind and any(nested):
        raise ValueError(f"{dims!r} is no shape of a {kind}")
    return kind


def _shapes(items: Any) -> tuple[Any, ...]:
    """Shapes, or strides: a list of numbers for each tensor, and of such for a list of tensors."""

    def shape(item: Any) -> tuple[Any, ...]:
        if not isinstance(item, list):
            raise ValueError(f"{item!r} is no shape")
        if any(isinstance(part, list) for part in item):
            return tuple(map(shape, item))
        if any(type(part) is not int or not 0 <= part < 1 << 62 for part in item):
            raise ValueError(f"{item!r} is no shape")
        return tuple(item)

    if not isinstance(items, list):
        raise ValueError(f"{items!r} are no shapes")
    return tuple(map(shape, items))
