"""Compiled functions run eagerly while a counter is open, op by op, and stay compiled after it."""

from __future__ import annotations

import sys
import threading
from typing import Any

from torch import is_grad_enabled

from flopcount._private import forget_compiled, is_compiling_for_op, set_stance

__all__ = ["EAGERLY", "captures"]


def captures() -> bool:
    """Whether torch's compiler may take a function in: only on the account of a control-flow op.

    ``cond`` and its like have the functions that they are given turned into graphs: without that
    their gradients fail. Where none is wanted, the functions themselves run, as anything else.
    """
    return is_compiling_for_op() and is_grad_enabled()


class Stance:
    """What the compiler does with a function that is called: nothing, but for those."""

    skip_guard_eval_unsafe = False
    backend = None

    @property
    def stance(self) -> str:
        """One of the stances that ``torch.compiler.set_stance`` knows."""
        return "default" if captures() else "force_eager"


class Eagerly:
    """The process's switch between compiled and eager functions, for all counters together.

    Without it, torch would find a dispatch mode on the stack when it compiles, and remember to
    leave the function eager for ever. The first counter that opens throws the switch, the last
    that closes takes it back. A program that has not loaded the compiler does not pay for that.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = 0
        self._is_late = False
        self._prior: Any = None

    def begin(self) -> None:
        """From here on compiled functions run eagerly; undone by :meth:`end`."""
        with self._lock:
            self._open += 1
            self._throw()

    def begin_late(self) -> None:
        """The same for a program that loads the compiler only now, inside the block."""
        with self._lock:
            self._is_late |= self._throw()

    def _throw(self) -> bool:
        """Throw the switch, if that can be done and is not done yet; tells whether it was."""
        if not self._open or self._prior is not None or "torch._dynamo" not in sys.modules:
            return False
        self._prior = set_stance(Stance())
        return True

    def end(self) -> None:
        """Undo one :meth:`begin`."""
        with self._lock:
            self._open -= 1
            if self._open == 0 and self._prior is not None:
                set_stance(self._prior)
                self._prior = None
                if self._is_late:  # what was called before the switch is marked as eager
                    forget_compiled()
                self._is_late = False


EAGERLY = Eagerly()
