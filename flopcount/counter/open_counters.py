"""The counters of this process that are open, and what is watched as long as any of them is."""

from __future__ import annotations

import os
import threading
from typing import Any

from flopcount.counter.children import Children
from flopcount.counter.eager import FORCE_EAGER
from flopcount.counter.shadows import Shadows
from flopcount.torch_private.autograd import BackwardPreHook
from flopcount.torch_private.functions import FunctionHook
from flopcount.torch_private.method_hook import MethodHooks


class OpenCounters:
    """Keeps every FlopCounter that is open, as often as threads have it open."""

    def __init__(self) -> None:
        self._counters: list[Any] = []
        self._lock = threading.RLock()
        self._children = Children(self._counters)
        self._hooks = MethodHooks([*Shadows(self._counters).hooks(), *self._children.hooks()])
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                after_in_parent=self._children.note_fork, after_in_child=self._leave_in_child
            )

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

    def _leave_in_child(self) -> None:
        """A forked child is not counted: it runs as if no counter had been opened."""
        self._lock = threading.RLock()  # a thread that is not here may have held a lock
        FORCE_EAGER.renew_lock()
        BackwardPreHook.renew_lock()
        FunctionHook.renew_lock()
        for counter in dict.fromkeys(self._counters):
            counter._leave_in_child()


OPEN = OpenCounters()
"""The one object of its kind."""
