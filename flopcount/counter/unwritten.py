"""Memory that was allocated, written by nothing that was seen, and then read.

So a kernel shows that no op and no custom function does: it was handed a tensor to write to.
"""

from __future__ import annotations

from typing import Any

from flopcount.cost import ZERO
from flopcount.counter.origins import reads, writes
from flopcount.formulas import Bill, Plan
from flopcount.torch_private.modes import without_functions
from flopcount.torch_private.tensors import StorageRef, storage_of, tensors_in

KERNEL = Bill(
    "unseen kernel",
    "",
    ZERO,
    unknown="an op read memory that was allocated empty, and that no op which was seen has written",
)

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
        self._waiting: dict[int, StorageRef] = {}
        self._patience = 0

    def expect(self, allocated: Any) -> None:
        """Wait for an op that writes to the memory of the tensors in ``allocated``."""
        with without_functions():
            self._expect(allocated)

    def _expect(self, allocated: Any) -> None:
        storages = [s for tensor in tensors_in(allocated) if (s := storage_of(tensor)) is not None]
        if storages and not self._waiting:
            self._tally.watch(self)
        self._waiting.update((storage._cdata, StorageRef(storage)) for storage in storages)
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
        read = reads(plan, args, kwargs, written)
        is_read = any([self._forget(tensor) for tensor in read])  # noqa: C419  (forgets them all)
        if is_read and not self._tally.in_function:
            self._tally.count_shadow(KERNEL, args)

    def _forget(self, tensor: Any) -> bool:
        storage = storage_of(tensor) if self._waiting else None
        return storage is not None and self._waiting.pop(storage._cdata, None) is not None
