"""Nested tensors, whose rows differ in length: keeping account of lengths, padding and unpadding.

What a nested tensor holds is not looked at: of bytes only those of dense operands are counted.
"""

from __future__ import annotations

from flopcount.formulas import traffic
from flopcount.formulas.movement import moves

# lengths and places, which are integers
moves("_nested_compute_contiguous_strides_offsets", "_nested_tensor_size", traffic=traffic.nothing)
moves("_nested_tensor_strides", "_nested_tensor_storage_offsets", traffic=traffic.nothing)
moves(
    "_nested_get_lengths", "_nested_get_offsets", "_nested_get_ragged_idx", traffic=traffic.nothing
)
moves("_nested_get_min_seqlen", "_nested_get_max_seqlen", traffic=traffic.nothing)
moves("_nested_get_jagged_dummy", traffic=traffic.nothing)
moves("_nested_tensor_from_mask_left_aligned")  # reads the mask

# copies
moves("_nested_tensor_from_tensor_list", "_nested_view_from_buffer_copy")
moves("_nested_view_from_jagged_copy", "_nested_get_values_copy")

# padded and unpadded
moves("to_padded_tensor", "_nested_from_padded", "_nested_from_padded_and_nested_example")
moves("_nested_from_padded_tensor", "_nested_tensor_from_mask", "_jagged_to_padded_dense_forward")
moves("_padded_dense_to_jagged_forward", traffic=traffic.gathered)  # what is padding is not read

# gradients of a part, and of a sum, that are placed or spread
moves("_nested_select_backward", "_nested_sum_backward")
