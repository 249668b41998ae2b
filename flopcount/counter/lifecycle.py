"""When a counter counts: each thread opens it, pauses it and closes it for itself."""

from __future__ import annotations

import threading
import weakref
from typing import Any, TypeVar

from flopcount.attribution.forward import Attribution
from flopcount.attribution.thread_state import ThreadState
from flopcount.counter.captures import Captures
from flopcount.counter.handlers import CountingMode, Handlers
from flopcount.counter.open_counters import OPEN
from flopcount.counter.tally import ThreadTally, Totals
from flopcount.errors import FlopcountError
from flopcount.torch_private.autograd import backward_task
from flopcount.torch_private.mode_stack import close_elsewhere, close_mode, open_mode, take_off
from flopcount.torch_private.modes import modes

Self = TypeVar("Self", bound="Lifecycle")


class Lifecycle(CountingMode):
    """A counting mode that can be opened, paused and closed in any order, by any thread.

    A thread can change its own stack of modes alone. If another one closes the counter for it, the
    mode counts nothing from then on. It goes when the thread next opens, closes or reads a counter.
    """

    def __init__(self, handlers: Handlers, totals: Totals, attribution: Attribution) -> None:
        super().__init__(handlers, ThreadTally(totals, attribution.here))
        self._totals = totals
        self._captures = Captures(totals)
        self._attribution = attribution
        self._threads = attribution.threads
        self._threads.when_ended = weakref.WeakMethod(self._let_go)
        self._num_let_go = 0  # how often threads had entered that ended without leaving
        self._life_lock = threading.RLock()

    def __enter__(self: Self) -> Self:
        self._take_off_left_modes()
        thread = self._attribution.here.thread
        thread.entries += 1
        self._settle(thread)
        return self

    def __exit__(self, *exception: Any) -> None:
        thread = self._thread_to_close("entries")
        if thread is not None:
            thread.entries -= 1
            self._settle(thread)
        elif self._num_let_go:
            self._num_let_go -= 1
        else:
            raise FlopcountError(
                "the counter is not open here: it was left without being entered, or twice. `with "
                "counter:` enters and leaves it once; what start() opens, stop() closes"
            )

    def start(self) -> None:
        """Open the counter until :meth:`stop`, as callbacks do.

        >>> import torch, flopcount
        >>> counter = flopcount.FlopCounter()
        >>> counter.start()
        >>> product = torch.ones(4, 8) @ torch.ones(8, 2)
        >>> counter.stop()
        >>> counter.report().total.macs
        64

        If it is started already, nothing changes: a step that raised may have skipped its
        ``stop()``. Several counters may start and stop in any order.

        Raises:
            FlopcountError: inside a backward pass, in a hook say. When the node that runs is done,
                torch forgets what was opened in it.
        """
        self._take_off_left_modes()
        thread = self._attribution.here.thread
        if backward_task() != -1 and not thread.is_watched:
            raise FlopcountError(
                "start() inside a backward pass would count one node alone: torch closes what is "
                "opened there when the node is done; call start() before backward()"
            )
        thread.is_started = True
        self._settle(thread)

    def stop(self) -> None:
        """Close what :meth:`start` opened; without a ``start()`` nothing happens.

        >>> import torch, flopcount
        >>> counter = flopcount.FlopCounter()
        >>> counter.start()
        >>> try:
        ...     torch.ones(4, 8) @ torch.ones(7, 2)
        ... except RuntimeError:
        ...     pass
        ... finally:
        ...     counter.stop()
        >>> counter.stop()

        A thread that has not started the counter stops it for the one that has.

        Raises:
            FlopcountError: this thread has not started the counter, but several others have.
        """
        thread = self._thread_to_close("is_started")
        if thread is not None:
            thread.is_started = False
            self._settle(thread)

    def paused(self) -> Pause:
        """A context whose ops, calls of modules and steps this counter leaves out.

        >>> import torch, flopcount
        >>> model = torch.nn.Linear(8, 2)
        >>> with flopcount.FlopCounter(model) as counter:
        ...     loss = model(torch.ones(4, 8)).sum()
        ...     with counter.paused():
        ...         accuracy = model(torch.ones(100, 8)).mean()
        ...     loss.backward()
        >>> counter.report().model.calls, counter.report().phases["forward"].macs
        (1, 64)

        The thread that opens the pause is paused, others are not. Inside, the program runs as it
        would without the counter; opening the counter there has no effect before the pause ends.
        A backward pass that runs outside is counted, of what was computed in the pause, too: it
        belongs to the module that the pause stood in, else to the row ``unattributed``.
        """
        return Pause(self)

    def _thread_to_close(self, opened: str) -> ThreadState | None:
        """The thread that is closed where this one asks: itself if it has ``opened``, else another.

        None: no thread has.
        """
        self._take_off_left_modes()
        having = [thread for thread in self._threads.states if getattr(thread, opened)]
        here = [thread for thread in having if thread.is_running]
        if not here and len(having) > 1:
            raise FlopcountError(
                f"thread {threading.current_thread().name!r} closes a counter that it has not "
                f"opened, and {len(having)} other threads have; close it in those that opened it"
            )
        return next(iter(here or having), None)

    def _settle(self, thread: ThreadState) -> None:
        """Watch ``thread`` or stop watching, whichever it asks for now."""
        with self._life_lock:
            wants = thread.is_open and not thread.pauses
            if wants and not thread.is_watched and thread.is_running:
                OPEN.begin(self)
                self._attribution.watch()
                self._totals.wake(thread)
                open_mode(self)
            elif thread.is_watched and not wants:
                self._attribution.unwatch(thread)
                self._totals.rest(thread, all_do=not self._threads.are_watched())
                self._captures.abandon()
                OPEN.end(self)
                (close_mode if thread.is_running else close_elsewhere)(self)
            if not thread.is_open:
                self._attribution.leave(thread)

    def _let_go(self, thread: ThreadState) -> None:
        """Close the counter for ``thread``, which has ended without that."""
        self._num_let_go += thread.entries
        thread.entries = thread.pauses = 0
        thread.is_started = False
        self._settle(thread)

    def _leave_in_child(self) -> None:
        """Close the counter in a process that was forked while it was open."""
        self._life_lock = threading.RLock()
        self._handlers.renew_lock()
        self._totals.renew_lock()
        self._attribution.renew_locks()
        for thread in self._threads.states:
            self._let_go(thread)

    def _begin_pause(self) -> None:
        self._take_off_left_modes()
        thread = self._attribution.here.thread
        thread.pauses += 1
        self._settle(thread)

    def _end_pause(self) -> None:
        thread = self._thread_to_close("pauses")
        if thread is None:
            raise FlopcountError("the counter is not paused: the pause was left twice")
        thread.pauses -= 1
        self._settle(thread)
        if not thread.is_running:
            raise FlopcountError(
                f"thread {threading.current_thread().name!r} ends a pause that another thread "
                "began: nothing is counted there until it enters the counter again"
            )

    @staticmethod
    def _take_off_left_modes() -> None:
        """Take counters off this thread's stack that are closed, and came back or stayed there."""
        for mode in modes():
            if isinstance(mode, Lifecycle) and mode._local.tally.is_resting:
                take_off(mode)


class Pause:
    """What ``with counter.paused():`` opens; it can be opened again, and inside itself."""

    def __init__(self, counter: Lifecycle) -> None:
        self._counter = counter

    def __enter__(self) -> None:
        self._counter._begin_pause()

    def __exit__(self, *exception: Any) -> None:
        self._counter._end_pause()
