"""The report of a call in which every op must be counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flopcount
from flopcount import Cost, Report


def report_of(function: Callable[..., Any], *args: Any) -> Report:
    """What a counter reports of a call of ``function``."""
    with flopcount.FlopCounter() as counter:
        function(*args)
    report = counter.report()
    assert not report.uncounted
    return report


def only(function: Callable[[], Any]) -> Cost:
    """The cost of the only op that is more than a view."""
    costs = report_of(function).by_operator()
    assert len(costs) == 1, set(costs)
    return next(iter(costs.values()))
