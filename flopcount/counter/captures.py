"""Graphs of kernels that were captured while a counter was open, and what they cost."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from flopcount.counter.tally import Totals
from flopcount.report.ledger import Ledger
from flopcount.report.tree import Row


class Captures:
    """Counts what a graph captured each time that it is replayed, in the modules that it ran in.

    A capture only writes down what is to run, so it counts nothing itself.
    """

    def __init__(self, totals: Totals) -> None:
        self._totals = totals
        self._begun: WeakKeyDictionary[Any, Ledger] = WeakKeyDictionary()
        self._captured: WeakKeyDictionary[Any, list[Row]] = WeakKeyDictionary()

    def begin(self, graph: Any) -> None:
        """From here on ``graph`` captures."""
        self._begun[graph] = self._totals.ledger()

    def end(self, graph: Any) -> None:
        """Take what was captured out of the totals, to put it in at each replay."""
        before = self._begun.pop(graph, None)
        self._captured.pop(graph, None)
        if before is not None:
            self._captured[graph] = self._totals.take(before)

    def replay(self, graph: Any) -> bool:
        """Count what ``graph`` captured, if that is known."""
        rows = self._captured.get(graph)
        if rows is not None:
            self._totals.put(rows)
        return rows is not None

    def abandon(self) -> None:
        """Forget captures that have begun, since what they capture is not seen to the end."""
        self._begun.clear()
