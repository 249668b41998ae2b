"""What runs kernels without an op: it is named where it runs, since no op shows what it costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from flopcount.cost import ZERO
from flopcount.formulas import Bill
from flopcount.torch_private.autograd import backward_task
from flopcount.torch_private.custom_classes import SCRIPTS, methods_of_classes
from flopcount.torch_private.kernels import (
    CAPTURE_END,
    GRAPHS,
    RUNNERS,
    TRITON,
    graph_methods,
    only_calls_ops,
)
from flopcount.torch_private.method_hook import Hook, Methods
from flopcount.torch_private.modes import modes

COMPILED = "it runs kernels of its own, which no op shows; in a custom op it can have a formula"
LAUNCHED = "it is a kernel of Triton, which no op shows; in a custom op it can have a formula"
OF_A_CLASS = "it is a method of a C++ class, whose own kernels no op shows"
CAPTURED = "what it runs again was captured when the counter was not open"


class Shadows:
    """Posts what runs without an op to the counters that are open in the thread where it runs.

    Args:
        counters: every FlopCounter that is open in any thread.
    """

    def __init__(self, counters: Sequence[Any]) -> None:
        self._counters = counters

    def hooks(self) -> Iterator[tuple[Methods, Hook]]:
        """The methods to be watched, each with what is called before it."""
        for name, runners in RUNNERS.items():
            bill = Bill(name, "unknown", ZERO, unknown=COMPILED)
            for methods in runners:
                yield methods, partial(self._run, bill)
        for methods in TRITON:
            yield methods, self._launch
        for methods in SCRIPTS:
            yield methods, self._run_script
        for name, base in GRAPHS.items():
            bill = Bill(name, "unknown", ZERO, unknown=CAPTURED)
            yield graph_methods(base, "replay"), partial(self._replay, bill)
            yield graph_methods(base, "capture_begin"), self._begin_capture
            yield graph_methods(base, *CAPTURE_END), self._end_capture

    def _run(self, bill: Bill, runner: Any) -> None:
        if only_calls_ops(runner):
            return
        for counter in self._watching(bill.op):
            counter._local.tally.count_shadow(bill)

    def _launch(self, kernel: Any) -> None:
        name = f"triton.{kernel.__name__}"
        bill = Bill(name, "unknown", ZERO, unknown=LAUNCHED)
        for counter in self._watching(name):
            counter._local.tally.count_shadow(bill)

    def _run_script(self, script: Any) -> None:
        for name in methods_of_classes(script):
            bill = Bill(name, "unknown", ZERO, unknown=OF_A_CLASS)
            for counter in self._watching(name):
                counter._local.tally.count_shadow(bill)

    def _replay(self, bill: Bill, graph: Any) -> None:
        for counter in self._watching(bill.op):
            if not counter._captures.replay(graph):
                counter._local.tally.count_shadow(bill)

    def _begin_capture(self, graph: Any) -> None:
        for counter in self._watching(""):
            counter._captures.begin(graph)

    def _end_capture(self, graph: Any) -> None:
        for counter in self._watching(""):
            counter._captures.end(graph)

    def _watching(self, what: str) -> list[Any]:
        """The counters that see this thread now; the others note ``what`` runs unwatched in it.

        A counter that is handling an op does not see what that op is made of.
        """
        open_here = modes()
        counters = {id(counter): counter for counter in tuple(self._counters)}
        # autograd runs in threads of its own, which do not enter
        for counter in counters.values() if what and backward_task() == -1 else ():
            attribution = counter._attribution
            if not attribution.here.thread.is_open and counter not in open_here:
                attribution.threads.add_unwatched(what)
        return [counters[id(mode)] for mode in open_here if id(mode) in counters]
