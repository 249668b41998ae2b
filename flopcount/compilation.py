"""Compiled functions run eagerly while a counter is open, op by op, and stay compiled after it."""

from __future__ import annotations

import sys
import threading
from typing import Any

__all__ = ["run_eagerly", "run_as_before"]

_lock = threading.Lock()
_open = 0
_stance: Any = None


def run_eagerly() -> None:
    """From here on compiled functions run eagerly; undone by :func:`run_as_before`.

    Without this, torch would find a dispatch mode on the stack when it compiles, and remember to
    leave the function eager for ever. The stance is the process's: the first counter that opens
    sets it, the last that closes takes it back. A program that has not loaded the compiler does
    not pay for loading it.
    """
    global _open, _stance
    with _lock:
        _open += 1
        if _open == 1 and "torch._dynamo" in sys.modules:
            import torch

            _stance = torch.compiler.set_stance("force_eager")
            _stance.__enter__()


def run_as_before() -> None:
    """Undo one :func:`run_eagerly`."""
    global _open, _stance
    with _lock:
        _open -= 1
        if _open == 0 and _stance is not None:
            _stance.__exit__(None, None, None)
            _stance = None
