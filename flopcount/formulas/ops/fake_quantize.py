"""Training for quantisation: floats are rounded to the values that few bits can hold.

q = clamp(round(x / s) + z, low, high), with a scale s and a zero point z for all of x or for each
channel, and (q - z)·s is the result. Quantised tensors hold q as integers, whose arithmetic counts
nothing; here every step is arithmetic on floats. Jacob et al., arXiv 1712.05877; for scales that
are learned Esser et al., arXiv 1902.08153.
"""

from typing import Any

from torch import Tensor

from flopcount.cost import Cost
from flopcount.formulas.ops.lowprecision import quantized_rows
from flopcount.formulas.ops.movement import moves
from flopcount.formulas.registry import Gradients, formula
from flopcount.formulas.steps import elementwise, fold


def rounded(x: Tensor) -> Cost:
    """(clamp(round(x / s) + z, low, high) - z)·s: 4 operations, a rounding and two bounds."""
    return elementwise(x, div=1, compare=1 + 2, add=2, mul=1)


def inside(x: Tensor) -> Cost:
    """low ≤ q and q ≤ high: where a gradient passes."""
    return elementwise(x, compare=3)


@formula(
    "aten::fake_quantize_per_tensor_affine_cachemask",
    "aten::fake_quantize_per_channel_affine_cachemask",
    "aten::_fake_quantize_per_tensor_affine_cachemask_tensor_qparams",
)
def fake_quantize(x: Tensor, *args: Any, out: tuple[Tensor, Tensor]) -> Cost:
    """(clamp(round(x / s) + z, low, high) - z)·s, and where q is within its bounds.

    Whether a tensor says that it is switched off is not looked at: it is taken to be on.
    """
    return rounded(x) + inside(x)


@formula(
    "aten::_fake_quantize_learnable_per_tensor_affine",
    "aten::_fake_quantize_learnable_per_channel_affine",
)
def fake_quantize_learnable(
    x: Tensor, scale: Tensor, zero_point: Tensor, *args: Any, out: Tensor, **kwargs: Any
) -> Cost:
    """The same without the mask; a zero point is learned too: rounded and clamped itself."""
    return rounded(x) + elementwise(zero_point, compare=1 + 2)


@formula("aten::_fake_quantize_learnable_per_tensor_affine_backward")
def fake_quantize_learnable_backward(
    grad: Tensor,
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    quant_min: int,
    quant_max: int,
    grad_factor: float = 1,
    *,
    out: tuple[Tensor, Tensor, Tensor],
) -> Gradients:
    """dx = g where low < q < high; ds = Σ g·∂/∂s and dz = Σ g·(-s) there where it is not.

    ∂/∂s is low - z below, high - z above, else (y - x) / s with the result y, which is computed
    again.
    """
    return learned(x, scale, zero_point, grad_factor)


@formula("aten::_fake_quantize_learnable_per_channel_affine_backward")
def fake_quantize_learnable_per_channel_backward(
    grad: Tensor,
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    axis: int,
    quant_min: int,
    quant_max: int,
    grad_factor: float = 1,
    *,
    out: tuple[Tensor, Tensor, Tensor],
) -> Gradients:
    """The same with a scale for each channel."""
    return learned(x, scale, zero_point, grad_factor)


def learned(x: Tensor, scale: Tensor, zero_point: Tensor, grad_factor: float) -> Gradients:
    """dx, ds and dz for n elements with m scales.

    dx takes 2 selects each. ds takes 2 selects, a difference, a division, a product and a sum,
    n - m, and 2 differences for each scale. dz takes 2 selects, a product, a sum, and a negation
    for each. The factor of the gradients is a product for each.
    """
    sums, after = elementwise(x, fold(x.numel(), scale.numel()), add=1), int(grad_factor != 1)
    again = rounded(x) + elementwise(zero_point, compare=1 + 2)
    for_scale = elementwise(x, compare=2, add=1, div=1, mul=1) + sums
    for_zero = elementwise(x, compare=2, mul=1) + sums
    return Gradients(
        input=elementwise(x, compare=2),
        weight=for_scale + elementwise(scale, add=2, mul=after),
        bias=for_zero + elementwise(scale, compare=1, mul=after),
        recompute=again,
    )


@formula(
    "aten::_fused_moving_avg_obs_fq_helper", "aten::_fused_moving_avg_obs_fq_helper_functional"
)
def fused_moving_avg_obs_fq_helper(
    x: Tensor,
    observer_on: Tensor,
    fake_quant_on: Tensor,
    running_min: Tensor,
    running_max: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    averaging_const: float,
    quant_min: int,
    quant_max: int,
    ch_axis: int,
    per_row_fake_quant: bool = False,
    symmetric_quant: bool = False,
    *,
    out: Any,
) -> Cost:
    """The extremes of x, their running means, s and z from these, and ``fake_quantize``.

    For n elements in m rows (one, or one for each channel): 2·(n - m) comparisons, and r + c·(new
    - r) for each extreme. As torch/ao/quantization/observer.py has it, for each row low = min(r, 0)
    and high = max(r, 0), 2 comparisons; s = (high - low) / levels, at least ε, 3 operations;
    z = quant_min - round(low / s), 3, within its bounds, 2. If symmetric s = max(-low, high) /
    (levels / 2), 3, at least ε, 1, and z is known. Both switches are taken to be on.
    """
    m = x.shape[ch_axis] if per_row_fake_quant else 1
    observed = elementwise(x, 2 * fold(x.numel(), m), compare=1)
    averaged = elementwise(x, 2 * m, add=2, mul=1)
    if symmetric_quant:
        chosen = elementwise(x, m, compare=2 + 2 + 1, div=1)
    else:
        chosen = elementwise(x, m, compare=2 + 1 + 1 + 2, add=2, div=2)
    return observed + averaged + chosen + rounded(x) + inside(x)


@formula("aten::quantize_per_tensor_dynamic")
def quantize_per_tensor_dynamic(x: Tensor, *args: Any, out: Tensor, **kwargs: Any) -> Cost:
    """round(x / s) to integers, the scale being (max - min) / (levels - 1) of all of x."""
    return quantized_rows(x, x.numel())


# integers that are given a scale
moves("_make_per_tensor_quantized_tensor", "_make_per_channel_quantized_tensor")
