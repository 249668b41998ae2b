"""Compiled functions run eagerly while a counter is open, op by op, and stay compiled after it."""

from __future__ import annotations

import sys
import threading
from typing import Any

from torch import is_grad_enabled

from flopcount.torch_private.compiler import (
    forget_compiled,
    is_compiling_for_op,
    set_stance,
    stance,
)

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
        self._ours = Stance()
        self._prior: Any = None
        self._is_late = False

    def begin(self) -> None:
        """From here on compiled functions run eagerly; undone by :meth:`end`."""
        with self._lock:
            self._open += 1
            self._throw()

    def compiler_was_loaded(self) -> None:
        """The compiler asks, before it marks a function as eager for ever.

        The program has loaded it inside the block, or has set a stance of its own there.
        """
        with self._lock:
            if self._open and "torch._dynamo" in sys.modules and stance() is not self._ours:
                self._is_late = True
                self._throw()

    def _throw(self) -> None:
        """Throw the switch, if there is one and it is not thrown yet."""
        if self._prior is None and "torch._dynamo" in sys.modules:
            self._prior = stance()
            set_stance(self._ours)

    def end(self) -> None:
        """Undo one :meth:`begin`."""
        with self._lock:
            self._open -= 1
            if self._open == 0 and self._prior is not None:
                if stance() is self._ours:  # else the program has set another one, for good
                    set_stance(self._prior)
                self._prior = None
                if self._is_late:
                    forget_compiled()
                self._is_late = False


EAGERLY = Eagerly()
