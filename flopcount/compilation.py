"""Compiled functions run eagerly while a counter is open, op by op, and stay compiled after it."""

from __future__ import annotations

import sys
import threading
from typing import Any

__all__ = ["EAGERLY"]


class Eagerly:
    """The process's switch between compiled and eager functions, for all counters together.

    Without it, torch would find a dispatch mode on the stack when it compiles, and remember to
    leave the function eager for ever. The first counter that opens throws the switch, the last
    that closes takes it back. A program that has not loaded the compiler does not pay for that.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = 0
        self._stance: Any = None

    def begin(self) -> None:
        """From here on compiled functions run eagerly; undone by :meth:`end`."""
        with self._lock:
            self._open += 1
            if self._open == 1 and "torch._dynamo" in sys.modules:
                import torch

                self._stance = torch.compiler.set_stance("force_eager")
                self._stance.__enter__()

    def end(self) -> None:
        """Undo one :meth:`begin`."""
        with self._lock:
            self._open -= 1
            if self._open == 0 and self._stance is not None:
                self._stance.__exit__(None, None, None)
                self._stance = None


EAGERLY = Eagerly()
