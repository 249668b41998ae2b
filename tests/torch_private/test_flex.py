from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask

from flopcount.torch_private.flex import block_sizes, listed_blocks


def causal(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
    return q >= k


def test_a_block_mask_lists_the_blocks_that_are_computed() -> None:
    """32 queries in blocks of 16, 24 keys in blocks of 8: the first 8 keys are seen by all."""
    mask = create_block_mask(causal, None, None, 32, 24, device="cpu", BLOCK_SIZE=(16, 8))
    given = mask.as_tuple()
    assert block_sizes(given) == (16, 8)
    (partial, partly), (full, wholly) = listed_blocks(given)
    assert partial.shape == full.shape == (1, 1, 2)
    assert partly.shape == wholly.shape == (1, 1, 2, 3)
    assert partial.tolist() == [[[2, 1]]]  # queries 0 to 15 see a part of keys 0 to 7 and 8 to 15
    assert partly[0, 0, 0, :2].tolist() == [0, 1]
    assert partly[0, 0, 1, 0] == 2
    assert full.tolist() == [[[0, 2]]]
    assert wholly[0, 0, 1, :2].tolist() == [0, 1]


def test_a_mask_may_list_no_whole_blocks() -> None:
    mask = create_block_mask(causal, None, None, 32, 32, device="cpu", BLOCK_SIZE=16)
    *first, _full, _places = mask.as_tuple()[:6]
    given = (*first, None, None, *mask.as_tuple()[6:])
    ((counts, _),) = listed_blocks(given)
    assert torch.equal(counts, mask.kv_num_blocks)
