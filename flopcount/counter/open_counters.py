"""The counters of this process that are open, and what is watched as long as any of them is."""

from __future__ import annotations

import threading
from typing import Any

from flopcount.counter.eager import FORCE_EAGER
from flopcount.counter.shadows import Shadows
from flopcount.torch_private.method_hook import MethodHooks


class OpenCounters:
    """Keeps every FlopCounter that is open, as often as threads have it open."""

    def __init__(self) -> None:
        self._counters: list[Any] = []
        self._lock = threading.Lock()
        self._hooks = MethodHooks(Shadows(self._counters).hooks())

    def begin(self, counter: Any) -> None:
        """A thread opens ``counter``."""
        FORCE_EAGER.begin()
        with self._lock:
            self._counters.append(counter)
            if len(self._counters) == 1:
                self._hooks.install()

    def end(self, counter: Any) -> None:
        """A thread closes ``counter``."""
        with self._lock:
            self._counters.remove(counter)
            if not self._counters:
                self._hooks.remove()
        FORCE_EAGER.end()


OPEN = OpenCounters()
"""The one object of its kind."""
