"""Where the numbers in a tensor come from, as the ops that run tell it.

A kernel that no op shows leaves a trace: a tensor with numbers in it that no op has written.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from flopcount.formulas import Plan
from flopcount.formulas import bytes as traffic
from flopcount.torch_private.modes import is_fake, without_modes
from flopcount.torch_private.tensors import StorageRef, storage_of, tensors_in

FILLING = frozenset(("zeros", "ones", "full", "zero", "fill", "zero_", "fill_"))
COPYING = frozenset(("clone", "copy_", "_to_copy"))

LIMIT = 1 << 12
"""How many storages to remember before those that are gone are forgotten."""


class Origin(IntEnum):
    """Where the numbers in a storage come from."""

    EMPTY = 0  # it was allocated, and no op has written it
    UNSEEN = 1  # no op that was seen has written it, or only from other unseen numbers
    FILLED = 2  # one number everywhere
    GIVEN = 3  # they were there before
    SEEN = 4  # ops computed them from what was given, or drew them


class Origins:
    """The origins of the storages that ops use while something runs.

    Attributes:
        read_empty: whether an op has read what no op has written.
    """

    def __init__(self) -> None:
        self.read_empty = False
        self._known: dict[int, tuple[StorageRef, Origin]] = {}

    def give(self, *values: Any) -> None:
        """Note that the numbers in the tensors among ``values`` were there before."""
        for tensor in tensors_in(*values):
            if self.of(tensor) is Origin.UNSEEN:
                self._note(tensor, Origin.GIVEN)

    def of(self, tensor: Tensor) -> Origin:
        """Where the numbers in ``tensor`` come from; GIVEN for one without memory of its own."""
        storage = storage_of(tensor)
        if storage is None:
            return Origin.GIVEN
        return self._known.get(storage._cdata, (None, Origin.UNSEEN))[1]

    def observe(self, plan: Plan, args: Any, kwargs: Any, out: Any) -> None:
        """Note what one call of an op reads and writes."""
        written = writes(plan, args, kwargs)
        read = reads(plan, args, kwargs, written)
        if written:  # a number that the program assigns is a tensor that no op has made
            read = [tensor for tensor in read if tensor.dim()]
        origins = {self.of(tensor) for tensor in read}
        if Origin.EMPTY in origins:
            self.read_empty = True
        for tensor in written:
            self._note(tensor, self._of_changed(plan, tensor, origins))
        for tensor in tensors_in(out):
            is_new = is_allocation(plan) or self.of(tensor) < Origin.GIVEN
            if is_new and not any(tensor is other for other in written):
                self._note(tensor, _of_result(plan, origins))

    def _of_changed(self, plan: Plan, tensor: Tensor, read: set[Origin]) -> Origin:
        """The origin of an argument that an op changes, perhaps in part, or by what it was."""
        before = self.of(tensor)
        if before >= Origin.GIVEN:
            return Origin.SEEN
        is_read = before is not Origin.EMPTY and plan.rule.traffic is not traffic.refilled
        after = _of_result(plan, read | {before} if is_read else read)
        return Origin.SEEN if before is after is Origin.FILLED else after

    def _note(self, tensor: Tensor, origin: Origin) -> None:
        storage = storage_of(tensor)
        if storage is None:
            return
        if len(self._known) >= LIMIT:
            alive = ((key, known) for key, known in self._known.items() if not known[0].expired())
            self._known = dict(alive)
        self._known[storage._cdata] = StorageRef(storage), origin


def _of_result(plan: Plan, read: set[Origin]) -> Origin:
    """The origin of what an op writes, from those of what it reads."""
    name = plan.name.removeprefix("aten.")
    if is_allocation(plan):
        return Origin.EMPTY
    if name.removesuffix("_like").removeprefix("new_") in FILLING and not read:
        return Origin.FILLED
    if read == {Origin.UNSEEN} or (read == {Origin.FILLED} and name in COPYING):
        return next(iter(read))
    return Origin.SEEN  # what reads EMPTY is noted once, and not again for its result


def is_allocation(plan: Plan) -> bool:
    """Whether an op's result holds nothing yet."""
    return "empty" in plan.name and plan.rule.traffic is traffic.nothing


def writes(plan: Plan, args: Any, kwargs: Any) -> list[Tensor]:
    """The arguments that an op may change; of another library's op, all."""
    if not plan.name.startswith("aten."):
        return list(tensors_in(*args, *kwargs.values()))
    places = [args[i] if i < len(args) else kwargs.get(name) for i, name in plan.written]
    return list(tensors_in(*places))


def reads(plan: Plan, args: Any, kwargs: Any, written: list[Tensor]) -> list[Tensor]:
    """The arguments whose numbers an op reads, without those that it changes.

    With a fake tensor among them it reads none: a tracer asks for shapes.
    """
    if plan.rule.traffic is traffic.nothing:
        return []
    operands = args[1:] if plan.rule.traffic is traffic.refilled else args
    tensors = list(tensors_in(*operands, *kwargs.values()))
    if any(map(is_fake, tensors)):
        return []
    return [tensor for tensor in tensors if not any(tensor is other for other in written)]


def varies(tensor: Tensor) -> Tensor:
    """Whether a tensor holds more than one number, as a tensor, so that no device is waited for."""
    with without_modes(), torch.no_grad():
        return (tensor != tensor.flatten()[:1]).any()
