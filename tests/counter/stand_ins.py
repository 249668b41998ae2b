"""Stand-ins for classes of libraries and devices that are not here."""

from __future__ import annotations

import pytest

from flopcount.counter.open_counters import OPEN
from flopcount.counter.shadows import Shadows
from flopcount.torch_private.method_hook import MethodHooks


def look_for_stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for all classes again, as in a new process; each is looked for until it is there."""
    monkeypatch.setattr(OPEN, "_hooks", MethodHooks(Shadows(OPEN._counters).hooks()))
