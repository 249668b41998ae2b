"""What flex attention's kernel gets of a block mask."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch


def block_sizes(block_mask: tuple[Any, ...]) -> tuple[int, int]:
    """How many queries, and how many keys, a block holds."""
    *_, queries, keys, _mask_mod = block_mask
    return queries, keys


def listed_blocks(block_mask: tuple[Any, ...]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The blocks that the kernel computes: those that a mask hides in part, and whole ones.

    Of each kind how many blocks of keys there are for a block of queries, and which: the first so
    many of a list. The shapes are (batch or 1, heads or 1, blocks) and (…, blocks of keys).
    """
    for counts, places in (block_mask[2:4], block_mask[4:6]):
        if counts is not None:
            yield counts, places
