"""A mistake that meta kernels let pass: a product of tensors of different dtypes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flopcount.attribution.phase import FORWARD
from flopcount.attribution.tree import Place
from flopcount.errors import FlopcountError
from flopcount.formulas import Plan, describe
from flopcount.torch_private.modes import is_under_autocast

FACTORS = {
    "aten::mm": (0, 1),
    "aten::addmm": (0, 1, 2),
    "aten::addmv": (0, 1, 2),
    "aten::mv": (0, 1),
    "aten::bmm": (0, 1),
    "aten::convolution": (0, 1),
}
"""Ops that real devices refuse for different dtypes, and their operands. Others check on meta, and
``bmm`` does from torch 2.12 or 2.13 on."""


def require_same_dtypes(place: Place, plan: Plan, args: Sequence[Any]) -> None:
    """Refuse a product that would fail on real tensors.

    Under autocast it would not, since that casts real tensors alone; nor is there an autocast
    around the backward pass of such a program.

    Raises:
        FlopcountError: the factors have different dtypes.
    """
    factors = [args[n] for n in FACTORS.get(plan.func.name(), ()) if n < len(args)]
    is_mixed = len({factor.dtype for factor in factors}) > 1
    if not is_mixed or place.phase != FORWARD or is_under_autocast():
        return
    raise FlopcountError(
        f"{plan.name} was called with ({describe(factors)}) in {place.scope.path or 'no module'}: "
        "on meta nobody minds, but a real device takes one dtype; cast the input, or the model"
    ) from None  # not from the KeyError by which the handler came here
