"""What attribution knows about each thread, and about all threads together."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

from torch import is_grad_enabled

from flopcount.attribution.node_log import NodeLog, NodeStamps
from flopcount.attribution.tree import Place, Scope
from flopcount.torch_private.autograd import next_sequence_nr, running_node


class ThreadLife:
    """Lives as long as its thread, and tells when that has ended."""

    __slots__ = ("__weakref__", "_threads", "thread")

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self.thread: ThreadState | None = None

    def __del__(self) -> None:
        if self.thread is not None and self.thread.is_open:
            when_ended = self._threads.when_ended()
            if when_ended is not None:
                when_ended(self.thread)


class ThreadState:
    """Where one thread is in the program, and whether the counter watches it.

    Attributes:
        ident: the thread's number, as :func:`threading.get_ident` has it.
        entries: how often the thread has entered the counter and not left it.
        is_started: whether it has called ``start()``, and not ``stop()``.
        pauses: how many of its pauses are open.
        is_watched: whether the counter is open in it and not paused; None if it never was.
        place: where ops run now. A thread that has not entered has one too, since
            ``torch.jit.fork`` takes the counter along into its threads.
        place_task: the backward pass that was running when ``place`` was set; -1 for none.
        stack: open modules and optimizer steps, each with the ``place`` and ``place_task`` before.
        functions: custom autograd functions that were called outside of modules, each with whether
            gradients were on; inside they are off. A reference dies with its call.
        first_node: the number of the first autograd node of the outermost open module.
        seen_number: the number that the next autograd node had when the op before this one ran, or
            when the last module was entered or left; it is kept for graph modules.
        is_stranger: whether it makes autograd nodes without having entered.
        asks_frames: whether frames tell of each op outside modules if it is part of a step: after
            backward, until the next forward pass. Where gradients are off, they are always asked.
        has_unhooked_steps: whether they are asked at all times, since there are steps, or closures
            of steps, that hooks do not tell.
    """

    __slots__ = (
        "_life",
        "asks_frames",
        "entries",
        "first_node",
        "functions",
        "has_unhooked_steps",
        "ident",
        "is_started",
        "is_stranger",
        "is_watched",
        "node_log",
        "pauses",
        "place",
        "place_task",
        "seen_number",
        "stack",
    )

    def __init__(self, unattributed: Scope, life: object) -> None:
        self._life = weakref.ref(life)
        self.ident = threading.get_ident()
        self.entries = 0
        self.is_started = False
        self.pauses = 0
        self.asks_frames = self.has_unhooked_steps = False
        self.is_watched: bool | None = None
        self.place = unattributed.forward
        self.place_task = -1
        self.stack: list[tuple[object, Place, int]] = []
        self.first_node = self.seen_number = 0
        self.functions: list[tuple[weakref.ref[object], bool]] = []
        self.node_log = NodeLog()
        self.is_stranger = is_grad_enabled() and running_node() is None

    def has_ended(self) -> bool:
        """Whether the thread has ended."""
        return self._life() is None

    @property
    def is_open(self) -> bool:
        """Whether the counter is open in this thread, be it paused or not."""
        return self.entries > 0 or self.is_started

    @property
    def is_running(self) -> bool:
        """Whether this is the thread that asks."""
        return self.ident == threading.get_ident() and not self.has_ended()

    def log_place(self) -> None:
        """Log where this thread, which asks, makes autograd nodes from here on.

        What a pause inside a module makes is the module's; outside of modules nobody watches.
        """
        is_inside = self.is_open and self.place.scope.parent is not None
        place = self.place if self.is_watched or is_inside else None
        if place is not self.node_log.places[-1]:
            self.node_log.start(place, next_sequence_nr())

    def pass_by(self, opened: object) -> None:
        """Put a module or an optimizer that is called in a pause on the stack: ops stay here."""
        self.stack.append((opened, self.place, self.place_task))

    def open_module(self, module: object, place: Place, task: int) -> None:
        """Put ``module`` on the stack: ops run at ``place`` now, in backward pass ``task``."""
        number = next_sequence_nr()
        if not self.stack:
            self.first_node = number
            self.expect_no_step()
        self.stack.append((module, self.place, self.place_task))
        self.place, self.place_task = place, task
        self.seen_number = number
        self.node_log.start(place, number)

    def begin_function(self, call: weakref.ref[object]) -> None:
        """Note a custom function that is about to be called: ``call`` dies with the call."""
        if not self.stack:
            self._forget_ended_functions()
            self.functions.append((call, is_grad_enabled()))

    def records(self) -> bool:
        """Whether the program has gradients on here, outside of modules."""
        self._forget_ended_functions()
        return self.functions[0][1] if self.functions else is_grad_enabled()

    def _forget_ended_functions(self) -> None:
        while self.functions and self.functions[-1][0]() is None:
            self.functions.pop()

    def ask_frames_of_steps(self) -> None:
        """Let frames tell steps from here on, which hooks do not."""
        self.asks_frames = self.has_unhooked_steps = True

    def expect_no_step(self) -> None:
        """Ask frames no longer, unless there are steps that hooks do not tell."""
        self.asks_frames = self.has_unhooked_steps

    def open_step(self, optimizer: object, place: Place, task: int) -> None:
        """Put a step of ``optimizer`` on the stack, likewise; it makes no nodes."""
        self.stack.append((optimizer, self.place, self.place_task))
        self.place, self.place_task = place, task

    def close(self, opened: object) -> bool:
        """Take ``opened`` off the stack, with all that an exception left open inside it.

        False: it was not there, since the counter was entered inside it.
        """
        stack = self.stack
        if stack and stack[-1][0] is opened:  # nearly always
            _, self.place, self.place_task = stack.pop()
            return True
        if not any(top is opened for top, _, _ in stack):
            return False
        top: object = None
        while top is not opened:
            top, self.place, self.place_task = stack.pop()
        return True


class Threads:
    """The threads that run modules, or ops that are counted."""

    def __init__(self) -> None:
        # what to do when a thread ends without having left; a thread must not keep a counter alive
        self.when_ended: Callable[[], Callable[[ThreadState], None] | None] = lambda: None
        self.states: list[ThreadState] = []
        self.are_several = False  # whether threads other than the main one make autograd nodes
        self.stamps = NodeStamps()  # written once there are several
        self.unwatched: dict[str, str] = {}  # thread that had not entered -> what ran first there
        self._forgot_a_stranger = False
        self._lock = threading.RLock()

    def renew_lock(self) -> None:
        """Forget who holds the lock, in a forked process where that thread is not."""
        self._lock = threading.RLock()

    def add(self, thread: ThreadState) -> None:
        """Add ``thread``, and forget those that have ended and logged no nodes."""
        with self._lock:
            kept = [t for t in self.states if not (t.has_ended() and t.node_log.is_empty)]
            self._forgot_a_stranger |= any(t.is_stranger for t in self.states if t not in kept)
            if thread.is_stranger and kept:
                self.are_several = True
            self.states = [*kept, thread]

    def are_watched(self) -> bool:
        """Whether any thread is watched."""
        return any(thread.is_watched for thread in self.states)

    def have_strangers(self) -> bool:
        """Whether any thread made autograd nodes that it did not log."""
        return self._forgot_a_stranger or any(thread.is_stranger for thread in self.states)

    def add_unwatched(self, what: str) -> None:
        """Note that ``what`` runs in this thread, which has not entered."""
        self.unwatched.setdefault(threading.current_thread().name, what)
