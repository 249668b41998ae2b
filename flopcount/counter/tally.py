"""What each thread has counted, and what all threads of a counter have counted together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from torch import Tensor

from flopcount.attribution.forward import Here, close_abandoned_step
from flopcount.attribution.outside import phase_outside
from flopcount.attribution.phase import OPTIMIZER
from flopcount.attribution.thread_state import ThreadState
from flopcount.attribution.tree import Place
from flopcount.counter.unwritten import Unwritten
from flopcount.errors import UncountedOpError
from flopcount.formulas import Bill, Plan, describe
from flopcount.formulas.plan import symbolic_bill
from flopcount.report.ledger import Ledger, negative
from flopcount.report.tree import Row
from flopcount.torch_private.autograd import running_node
from flopcount.torch_private.modes import without_functions, without_modes

Check = Callable[[Place, Plan, Any], None]
"""Looks at a new call with its arguments, and raises where it is wrong."""

TALLY_LIMIT = 1 << 14
"""How many distinct calls a thread keeps before they are folded into the ledger."""


class Watcher(Protocol):
    """Looks, for a while, at each op that a thread runs."""

    @property
    def covers(self) -> bool:
        """Whether a formula counts these ops together, so that they do not count one by one."""

    def observe(self, plan: Plan, args: Any, kwargs: Any, out: Any) -> None:
        """Look at one call of an op."""

    def see_named(self) -> None:
        """Something ran that no op shows, and is counted by its name."""

    def is_over(self) -> bool:
        """Whether there is nothing to look at any more."""


class NoneKnown(dict[Any, Any]):
    """Stands for the calls of a tally that rests, or whose ops are watched: it knows none."""

    def __getitem__(self, key: Any) -> Any:
        hash(key)  # a symbolic number has no hash
        raise KeyError


NONE_KNOWN = NoneKnown()


class Totals:
    """What all threads of a counter have counted."""

    def __init__(self, *, strict: bool) -> None:
        self.strict = strict  # raise at the first op that has no formula
        self.check: Check | None = None  # what may refuse a call
        self.unknown: dict[str, str] = {}  # an uncounted op's name -> why it is uncounted
        self._ledger = Ledger()
        self._has_taken = False  # so that some rows of the ledger may be empty
        self._tallies: list[Tally] = []
        self._unproven: list[tuple[list[Tensor], Place, Bill]] = []
        self._lock = threading.RLock()  # garbage collection may close another counter meanwhile

    def renew_lock(self) -> None:
        """Forget who holds the lock, in a forked process where that thread is not."""
        self._lock = threading.RLock()

    def add(self, tally: Tally) -> None:
        """Take in a thread's tally, and let go of those of threads that ended and left nothing."""
        with self._lock:
            kept = [t for t in self._tallies if t.counted or not t.thread.has_ended()]
            self._tallies = [*kept, tally]

    def post(self, place: Place, bill: Bill) -> None:
        """Post one call straight to the ledger."""
        with self._lock:
            self._ledger.post(place, bill, 1)

    def post_if(self, flags: list[Tensor], place: Place, bill: Bill) -> None:
        """Post one call if one of ``flags`` is true; no device is asked before the next report."""
        with self._lock:
            self._unproven.append((flags, place, bill))

    def prove(self) -> None:
        """Post what waited for its flags."""
        with self._lock, without_modes():
            for flags, place, bill in self._unproven:
                if any(map(bool, flags)):
                    self._ledger.post(place, bill, 1)
                    self.unknown.setdefault(bill.op, bill.unknown)
            self._unproven = []

    def fold(self, tally: Tally) -> None:
        """Post what ``tally`` holds, and empty it."""
        with self._lock:
            tally.post_to(self._ledger)
            tally.counted.clear()

    def rest(self, thread: ThreadState, *, all_do: bool) -> None:
        """Count nothing in ``thread`` from here on, nor in any other if ``all_do``."""
        for tally in self._tallies:
            if all_do or tally.thread is thread:
                tally.rest()

    def wake(self, thread: ThreadState) -> None:
        """Count in ``thread`` again, and where torch takes the counter along."""
        for tally in self._tallies:
            if tally.thread is thread or tally.thread.is_watched is None:
                tally.wake()

    def ledger(self) -> Ledger:
        """A ledger of what was counted so far, which does not change any more."""
        self.prove()
        with self._lock:
            ledger = Ledger(self._ledger.rows)
            for tally in self._tallies:
                tally.post_to(ledger)
        if self._has_taken:
            ledger.rows = {k: row for k, row in ledger.rows.items() if row.calls or row.cost}
        return ledger

    def take(self, before: Ledger) -> list[Row]:
        """Take out what was counted since the totals were those of ``before``."""
        rows = self.ledger().since(before)
        self._has_taken = True
        self.put(map(negative, rows))
        return rows

    def put(self, rows: Iterable[Row]) -> None:
        """Count what :meth:`take` returned."""
        with self._lock:
            for row in rows:
                self._ledger.add(row)

    def reset(self) -> None:
        """Forget what was counted."""
        with self._lock:
            self._ledger = Ledger()
            self._unproven = []
            for tally in self._tallies:
                tally.counted.clear()
        self.unknown.clear()


class Tally:
    """What one thread has counted since it was folded last.

    A mode may come back to the stack of a thread that has left the counter: torch restores the
    stack after each node of backward, and after each op. Its tally rests: it counts nothing.

    Attributes:
        counted: how often each call came, and its bill: ``{key: [number, bill]}``. A key is
            ``(place, plan, *signature)``, made in ``signature.py``.
        calls: where a handler looks a call up: the same dictionary, unless the tally rests, or its
            ops are watched. Then a handler finds none, and each op comes to :meth:`count_new`. So
            neither costs anything where nobody rests or watches.
        is_resting: whether nothing is counted.
        num_opened: how many ops are open that are made of others.
        unwritten: the memory that was allocated, and that no op has written yet.
        thread, backward, gradients: as in ``here``, which is slower to ask.
    """

    __slots__ = (
        "_totals",
        "_watchers",
        "backward",
        "calls",
        "counted",
        "gradients",
        "is_resting",
        "num_opened",
        "thread",
        "unwritten",
    )

    def __init__(self, totals: Totals, here: Here) -> None:
        self.calls: dict[Any, list[Any]] = {}
        self.counted = self.calls
        self.is_resting = False
        self.num_opened = 0
        self.unwritten = Unwritten(self)
        self._watchers: list[Watcher] = []
        self.thread, self.backward, self.gradients = here.thread, here.backward, here.gradients
        self._totals = totals
        if self.thread.is_watched is False:
            self.rest()  # the thread had left before its first op

    def rest(self) -> None:
        """Count nothing from here on, until :meth:`wake`."""
        self.is_resting = True
        self.calls = NONE_KNOWN

    def wake(self) -> None:
        """Count again."""
        self.is_resting = False
        self.calls = NONE_KNOWN if self._watchers else self.counted

    def place(self, node: Any, args: Any) -> Place:
        """The place of an op with ``args`` that runs in autograd node ``node``, if any."""
        place = self.thread.place if node is None else self.backward.place(node, args)
        return self.refined(place, args) if place.is_vague else place

    def refined(self, place: Place, args: Any, *, hides_mode: bool = False) -> Place:
        """What the frames of the program tell about an op with ``args`` at a vague ``place``."""
        if place.lines is not None:
            row: Place = place.lines.place(self.thread, place)
            return row
        return place.places[phase_outside(self.thread, args, hides_mode=hides_mode)]

    def log_line(self) -> None:
        """Log the node that a view may make, if a line of a graph module runs."""
        place = self.thread.place
        if place.lines is not None:
            place.lines.place(self.thread, place)

    def post_to(self, ledger: Ledger) -> None:
        """Post every bill as often as its call came."""
        for (place, *_), (calls, bill) in list(self.counted.items()):
            ledger.post(place, bill, calls)

    def count_new(
        self, key: Any, place: Place, plan: Plan, args: Any, kwargs: Any, out: Any
    ) -> None:
        """Count a call whose ``key`` the handler did not find, or that has none (None)."""
        if self.is_resting or (self._watchers and self._is_covered(plan, args, kwargs, out)):
            return
        if key not in self.counted and (other := self._other_place(place, args)):
            place = other
            key = key and (place, *key[1:])
        if key in self.counted:
            self.counted[key][0] += 1
            return
        if self._totals.check is not None:
            self._totals.check(place, plan, args)
        signature = None if key is None else key[2:]
        bill = plan.bills.get(signature)
        if bill is None:
            bill = plan.bill(args, kwargs, out)
            if not plan.is_lasting(args, kwargs, out):
                key = None
            elif bill.counted and signature:
                plan.remember(signature, bill)
        self._add(key, place, bill, args, kwargs)

    def count_symbolic(self, place: Place, plan: Plan, args: Any, kwargs: Any) -> None:
        """Count a call with symbolic sizes: how often it came, but not what it costs."""
        if self.is_resting or any(watcher.covers for watcher in self._watchers):
            return
        key = place, plan
        if key in self.counted:
            self.counted[key][0] += 1
        else:
            self._add(key, place, symbolic_bill(plan.name), args, kwargs)

    def _other_place(self, place: Place, args: Any) -> Place | None:
        """Where a call belongs that is new, if it shows what no hook has told: a step, or its end.

        Steps without hooks are looked for here where gradients are on. One that has hooks may have
        been ended by an exception.
        """
        if place.is_outside and not self.thread.asks_frames:
            phase = phase_outside(self.thread, args)
            return place.places[phase] if phase == OPTIMIZER else None
        if place.phase == OPTIMIZER and close_abandoned_step(self.thread):
            return self.place(running_node(), args)
        return None

    def watch(self, watcher: Watcher) -> None:
        """Show each op to ``watcher`` from here on."""
        self._watchers.append(watcher)
        self.calls = NONE_KNOWN

    def unwatch(self, watcher: Watcher) -> None:
        """Show no more ops to ``watcher``."""
        self._watchers = [other for other in self._watchers if other is not watcher]
        if not self._watchers and not self.is_resting:
            self.calls = self.counted

    def show(self, plan: Plan, args: Any, kwargs: Any, out: Any) -> None:
        """Show an op to all who watch that is made of others, and so does not count itself."""
        if self._watchers:
            self._is_covered(plan, args, kwargs, out)

    @property
    def in_function(self) -> bool:
        """Whether a custom function runs, which is watched itself."""
        return any(watcher is not self.unwritten for watcher in self._watchers)

    def _is_covered(self, plan: Plan, args: Any, kwargs: Any, out: Any) -> bool:
        """Show an op to all who watch; whether a formula counts it together with others."""
        with without_functions():
            for watcher in self._watchers:
                if watcher.is_over():  # an exception ended it
                    self.unwatch(watcher)
                else:
                    watcher.observe(plan, args, kwargs, out)
        return any(watcher.covers for watcher in self._watchers)

    def count_shadow(
        self, bill: Bill, args: Any = (), *, flags: list[Tensor] | None = None
    ) -> None:
        """Count work that ran here without an op that shows it: ``bill`` names it.

        Its ``unknown`` says why its cost is not known, unless it is. ``args`` are what a message
        tells about the call. With ``flags`` it counts only if one of them is true.
        """
        for watcher in self._watchers:
            watcher.see_named()
        if self.is_resting or any(watcher.covers for watcher in self._watchers):
            return
        place = self.place(running_node(), args)
        if flags is None or (self._totals.strict and any(map(bool, flags))):
            self._add(None, place, bill, args, {})
        else:
            self._totals.post_if(flags, place, bill)

    def _add(self, key: Any, place: Place, bill: Bill, args: Any, kwargs: Any) -> None:
        if not bill.counted:
            if self._totals.strict:
                called_with = describe([*args, *kwargs.values()])
                raise UncountedOpError(
                    f"{bill.op} is uncounted: {bill.unknown}; it was called "
                    f"{f'with ({called_with}) ' if called_with else ''}in "
                    f"{place.scope.path or 'no module'}, phase {place.phase}"
                ) from None  # not from the KeyError by which the handler came here
            self._totals.unknown.setdefault(bill.op, bill.unknown)
        if key is None:
            self._totals.post(place, bill)
            return
        self.counted[key] = [1, bill]
        if len(self.counted) >= TALLY_LIMIT:
            self._totals.fold(self)


class ThreadTally(threading.local):
    """Gives each thread a tally of its own."""

    def __init__(self, totals: Totals, here: Here) -> None:
        self.tally = Tally(totals, here)
        totals.add(self.tally)
