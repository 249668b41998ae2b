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


def captures() -> bool:
    """Whether torch's compiler may trace a function: only where a control-flow op asks for it.

    Gradients of ``cond`` and its like need graphs; without gradients the functions themselves run.
    """
    return is_compiling_for_op() and is_grad_enabled()


class Stance:
    """Tells the compiler to leave functions alone, except those that :func:`captures` allows.

    A program may set this stance again after the last counter was closed, when a context ends that
    it opened inside the block. Then it is what ``prior`` is.
    """

    def __init__(self) -> None:
        self.is_forcing = True
        self.prior: Any = None  # the stance that it took the place of

    @property
    def stance(self) -> str:
        """One of the stances that ``torch.compiler.set_stance`` knows."""
        if self.is_forcing:
            return "default" if captures() else "force_eager"
        return str(self.prior.stance)

    @property
    def skip_guard_eval_unsafe(self) -> bool:
        """Whether guards of compiled functions go unchecked."""
        return not self.is_forcing and self.prior.skip_guard_eval_unsafe

    @property
    def backend(self) -> Any:
        """What compiles instead of a function's own backend."""
        return None if self.is_forcing else self.prior.backend


class ForceEager:
    """Makes compiled functions run eagerly while any counter of the process is open.

    Otherwise torch would find a dispatch mode on the stack when it compiles a function, and would
    leave it eager for ever. A program that has not loaded the compiler pays nothing.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # garbage collection may close another counter meanwhile
        self._num_open = 0
        self._ours = Stance()
        self._is_set = False
        self._is_late = False

    def begin(self) -> None:
        """Run compiled functions eagerly from here on; :meth:`end` undoes it."""
        with self._lock:
            self._num_open += 1
            self._ours.is_forcing = True
            self._set_stance()

    def compiler_was_loaded(self) -> None:
        """Set the stance now if the compiler was loaded inside the block."""
        with self._lock:  # the program may have set a stance of its own meanwhile
            if self._num_open and "torch._dynamo" in sys.modules and stance() is not self._ours:
                self._is_late = True
                self._set_stance()

    def _set_stance(self) -> None:
        if not self._is_set and "torch._dynamo" in sys.modules:
            self._is_set = True
            if stance() is not self._ours:
                self._ours.prior = stance()
                set_stance(self._ours)

    def end(self) -> None:
        """Undo one :meth:`begin`."""
        with self._lock:
            self._num_open -= 1
            if self._num_open == 0 and self._is_set:
                if stance() is self._ours:  # else the program has set one of its own, to keep
                    set_stance(self._ours.prior)
                self._ours.is_forcing = self._is_set = False
                if self._is_late:
                    forget_compiled()
                self._is_late = False

    def renew_lock(self) -> None:
        """Forget who holds the lock, in a forked process where that thread is not."""
        self._lock = threading.RLock()


FORCE_EAGER = ForceEager()
