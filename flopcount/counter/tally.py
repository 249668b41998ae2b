"""What each thread has counted, and what all threads of a counter have counted together."""

from __future__ import annotations

import threading
from typing import Any

from flopcount.attribution.forward import Here
from flopcount.attribution.tree import Place
from flopcount.errors import UncountedOpError
from flopcount.formulas import Bill, Plan, describe
from flopcount.report.ledger import Ledger
from flopcount.torch_private.autograd import running_node

TALLY_LIMIT = 1 << 14
"""How many distinct calls a thread keeps before they are folded into the ledger."""


class Totals:
    """What all threads of a counter have counted."""

    def __init__(self, *, strict: bool) -> None:
        self.strict = strict  # raise at the first op that has no formula
        self.unknown: dict[str, str] = {}  # an uncounted op's name -> why it is uncounted
        self._ledger = Ledger()
        self._tallies: list[Tally] = []
        self._lock = threading.Lock()

    def add(self, tally: Tally) -> None:
        """Take in a thread's tally, and let go of those of threads that ended and left nothing."""
        with self._lock:
            kept = [t for t in self._tallies if t.calls or not t.thread.has_ended()]
            self._tallies = [*kept, tally]

    def post(self, place: Place, bill: Bill) -> None:
        """Post one call straight to the ledger."""
        with self._lock:
            self._ledger.post(place, bill, 1)

    def fold(self, tally: Tally) -> None:
        """Post what ``tally`` holds, and empty it."""
        with self._lock:
            tally.post_to(self._ledger)
            tally.calls.clear()

    def ledger(self) -> Ledger:
        """A ledger of what was counted so far, which does not change any more."""
        with self._lock:
            ledger = Ledger(self._ledger.rows)
            for tally in self._tallies:
                tally.post_to(ledger)
        return ledger

    def reset(self) -> None:
        """Forget what was counted."""
        with self._lock:
            self._ledger = Ledger()
            for tally in self._tallies:
                tally.calls.clear()
        self.unknown.clear()


class Tally:
    """What one thread has counted since it was folded last.

    Attributes:
        calls: how often each call came, and its bill: ``{key: [number, bill]}``. A key is
            ``(place, plan, *signature)``, made in ``signature.py``.
        thread, backward, gradients: as in ``here``, which is slower to ask.
    """

    __slots__ = ("_totals", "backward", "calls", "gradients", "thread")

    def __init__(self, totals: Totals, here: Here) -> None:
        self.calls: dict[Any, list[Any]] = {}
        self.thread, self.backward, self.gradients = here.thread, here.backward, here.gradients
        self._totals = totals

    def post_to(self, ledger: Ledger) -> None:
        """Post every bill as often as its call came."""
        for (place, *_), (calls, bill) in list(self.calls.items()):
            ledger.post(place, bill, calls)

    def count_new(
        self, key: Any, place: Place, plan: Plan, args: Any, kwargs: Any, out: Any
    ) -> None:
        """Count a call whose ``key`` the tally does not have, or that has none (None)."""
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
        key = place, plan
        if key in self.calls:
            self.calls[key][0] += 1
        else:
            self._add(key, place, plan.symbolic_bill(), args, kwargs)

    def count_shadow(self, bill: Bill, args: Any = ()) -> None:
        """Count work that ran here without an op that shows it: ``bill`` names it.

        Its ``unknown`` says why its cost is not known, unless it is. ``args`` are what a message
        tells about the call.
        """
        node = running_node()
        place = self.thread.place if node is None else self.backward.place(node, args)
        self._add(None, place, bill, args, {})

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
        self.calls[key] = [1, bill]
        if len(self.calls) >= TALLY_LIMIT:
            self._totals.fold(self)


class ThreadTally(threading.local):
    """Gives each thread a tally of its own."""

    def __init__(self, totals: Totals, here: Here) -> None:
        self.tally = Tally(totals, here)
        totals.add(self.tally)
