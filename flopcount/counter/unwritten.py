"""Memory that was allocated, written by nothing that was seen, and then read.

So a kernel shows that no op and no custom function does: it was handed a tensor to write to.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import torch
from torch import Tensor

from flopcount.cost import ZERO
from flopcount.counter.origins import reads, writes
from flopcount.formulas import Bill, Plan
from flopcount.torch_private.modes import without_functions, without_modes
from flopcount.torch_private.tensors import StorageRef, storage_of

KERNEL = Bill(
    "unseen kernel",
    "",
    ZERO,
    unknown="an op read memory that was allocated empty, and that no op which was seen has written",
)

SAMPLE = 64
"""How many bytes of each memory to look at, about."""

MEMORY = ctypes.c_char * sys.maxsize
"""Memory of any length: a slice of it says which bytes are read."""

PATIENCE = 64
"""For how many ops to wait: memory is nearly always written at once."""


class Unwritten:
    """Watches, from an allocation on, who writes to the memory first, or reads it.

    Args:
        tally: whose ops to watch.
    """

    covers = False

    def __init__(self, tally: Any) -> None:
        self._tally = tally
        self._waiting: dict[int, tuple[StorageRef, bytes | Tensor]] = {}  # and a sample of it
        self._patience = 0

    def expect(self, allocated: Any) -> None:
        """Wait for an op that writes to the memory of ``allocated``, what an op has returned.

        It is no tensor where the op was left to another class of tensors.
        """
        if not isinstance(allocated, Tensor):
            return
        with without_functions():
            storage = storage_of(allocated) if _may_be_of_kernel(allocated) else None
            if storage is not None:
                if not self._waiting:
                    self._tally.watch(self)
                self._waiting[storage._cdata] = StorageRef(storage), sample(storage)
                self._patience = PATIENCE

    def see_named(self) -> None:
        """Something was named that no op shows; it may have written any memory."""
        self._waiting.clear()

    def is_over(self) -> bool:
        """Whether no memory is waited for."""
        self._patience -= 1
        if self._patience < 0:
            self._waiting.clear()
        return not self._waiting

    def observe(self, plan: Plan, args: Any, kwargs: Any, out: Any) -> None:
        """Look at one call of an op."""
        written = writes(plan, args, kwargs)
        for tensor in written:
            self._forget(tensor)
        for tensor in reads(plan, args, kwargs, written) if self._waiting else ():
            held = self._forget(tensor)
            if held is not None and not self._tally.in_function:
                differs = _differs(tensor, held)
                if differs is not False:
                    flags = None if differs is True else [differs]
                    self._tally.count_shadow(KERNEL, args, flags=flags)
        if not self._waiting:
            self._tally.unwatch(self)

    def _forget(self, tensor: Tensor) -> bytes | Tensor | None:
        """Wait no more for the memory of ``tensor``; what it held, if it was waited for."""
        storage = storage_of(tensor) if self._waiting else None
        if storage is None:
            return None
        return self._waiting.pop(storage._cdata, (None, None))[1]


def _may_be_of_kernel(tensor: Tensor) -> bool:
    """Whether a kernel may write to ``tensor``; torch itself makes short lists of numbers so."""
    return tensor.is_floating_point() and (tensor.dim() > 1 or tensor.numel() >= SAMPLE)


def sample(storage: torch.UntypedStorage) -> bytes | Tensor:
    """Some bytes of ``storage``: of a device's memory in a tensor there, which nobody waits for.

    An odd step meets each byte of a number, be it the one that tells 1 from 2.
    """
    step = storage.nbytes() // SAMPLE | 1
    if storage.device.type == "cpu":  # without ops, since most programs that allocate do it often
        memory = memoryview(MEMORY.from_address(storage.data_ptr()))
        return memory[: storage.nbytes() : step].tobytes()
    with without_modes(), torch.no_grad():
        tensor = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
        return tensor[::step].clone()


def _differs(tensor: Tensor, held: bytes | Tensor) -> bool | Tensor:
    """Whether the memory of ``tensor`` holds something else than it held: nobody may have written.

    A program that only counts may compute with memory that holds anything.
    """
    storage = storage_of(tensor)
    assert storage is not None
    now = sample(storage)
    if len(now) != len(held):
        return False  # it was resized, and is other memory
    if isinstance(now, Tensor) and isinstance(held, Tensor):
        with without_modes():
            return torch.ne(now, held).any()
    return bool(now != held)
