"""Nested tensors, whose components differ in shape: ops that are no sum over these components.

Most ops cost what they do for each component alone, and have no formula here. Weights have
gradients that are sums over all components; and some ops only exist for nested tensors.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import Tensor

from flopcount.cost import ZERO, Cost
from flopcount.formulas import bytes as traffic
from flopcount.formulas.call import components
from flopcount.formulas.ops.matmul import affine_backward, linear_backward_traffic
from flopcount.formulas.ops.movement import moves
from flopcount.formulas.ops.normalization import layer_norm_backward
from flopcount.formulas.ops.softmax import softmax_steps
from flopcount.formulas.registry import Gradients, formula, free
from flopcount.formulas.steps import contraction
from flopcount.torch_private.ops import component_shapes

# -- products of each component with its counterpart


@formula("aten::matmul", nested=True)
def matmul(a: Tensor, b: Tensor, *, out: Tensor) -> Cost:
    """(…, m, k) @ (…, k, n) for each component: a dot product of length k for each element."""
    cost = ZERO
    for times, (x, _, product) in components(a, b, out):
        cost += times * contraction(dots=product.numel(), length=x.shape[-1])
    return cost


@formula("aten::matmul_backward", nested=True)
def matmul_backward(
    grad: Tensor, a: Tensor, b: Tensor, mask: Sequence[bool], *, out: Sequence[Tensor | None]
) -> Gradients:
    """da = g·bᵀ, dot products of length n for each component; db = aᵀ·g, of length m."""
    cost, (for_a, for_b) = ZERO, mask
    for times, (g, x, y) in components(grad, a, b):
        into_a = contraction(dots=x.numel(), length=g.shape[-1])
        into_b = contraction(dots=y.numel(), length=g.shape[-2])
        cost += times * ((into_a if for_a else ZERO) + (into_b if for_b else ZERO))
    return Gradients(input=cost)


# -- gradients of weights, which are sums over the rows of all components


@formula("aten::linear_backward", traffic=linear_backward_traffic, nested=True)
def linear_backward(
    x: Tensor, grad: Tensor, weight: Tensor, output_mask: Sequence[bool], *, out: Any
) -> Gradients:
    """As for one matrix of all rows: dw = gᵀ·x, dot products as long as there are rows."""
    return affine_backward(grad, weight, output_mask)


@formula("aten::native_layer_norm_backward", traffic=traffic.reading_all_but(6), nested=True)
def native_layer_norm_backward(
    grad: Tensor,
    x: Tensor,
    normalized_shape: Sequence[int],
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    output_mask: Sequence[bool],
    *,
    out: Any,
) -> Gradients:
    """As for one matrix of all rows, over which the gradients of weight and bias are sums."""
    n, k = x.numel(), prod(normalized_shape)
    return layer_norm_backward(n, n // k if k else 0, k, output_mask, scaled=weight is not None)


# -- attention of sequences that are padded


@formula("aten::_nested_tensor_softmax_with_shape", traffic=traffic.reading_all_but(1), nested=True)
def softmax_with_shape(scores: Tensor, query: Tensor, *, out: Tensor) -> Cost:
    """A softmax of the t·t scores of each head that are no padding, a sequence being t long."""
    h = scores.shape[1]
    lengths = [shape[0] for shape in component_shapes(query)]
    return sum((softmax_steps(h * t * t, h * t) for t in lengths), ZERO)


# -- ops that only move


# a view of a part of each component
free("aten::chunk", "aten::narrow", traffic=traffic.nothing, nested=True)

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
moves("_padded_dense_to_jagged_forward", traffic=traffic.gathered)  # padding is not read

# gradients of a part, and of a sum, that are placed or spread
moves("_nested_select_backward", "_nested_sum_backward")
