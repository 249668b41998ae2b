"""Activations and dropout, forward and backward: so many steps for each element.

A select on a comparison of its own (ReLU's gradient, leaky ReLU) is one comparison. Letters: g is
the output's gradient, y the output, s = sigmoid(x), which takes 4 operations.
"""

from typing import Any

from torch import Tensor

from flopcount.cost import ZERO, Cost
from flopcount.formulas import bytes as traffic
from flopcount.formulas.ops.pointwise import in_words, steps
from flopcount.formulas.registry import Gradients, formula
from flopcount.formulas.steps import elementwise

steps("relu", "threshold", compare=1)  # max(x, 0)
steps("leaky_relu", "_prelu_kernel", compare=1, mul=1)  # x if x > 0 else slope · x
steps("hardtanh", compare=2)  # min(max(x, a), b)
steps("hardshrink", compare=2)  # x if |x| > λ else 0
steps("softshrink", compare=2, add=2)  # x - λ if x > λ, x + λ if x < -λ, else 0
steps("hardsigmoid", add=1, compare=2, div=1)  # clamp(x + 3, 0, 6) / 6
steps("hardswish", add=1, compare=2, mul=1, div=1)  # x · clamp(x + 3, 0, 6) / 6
steps("sigmoid", special=1, compare=1, add=1, div=1)  # 1 / (1 + e^-x)
steps("silu", special=1, compare=1, add=1, div=1, mul=1)  # x · sigmoid(x)
steps("glu", special=1, compare=1, add=1, div=1, mul=1)  # a · sigmoid(b), a and b halves of x
steps("elu", compare=1, special=1, mul=3)  # scale · x, or scale · α · expm1(x · s)
steps("celu", compare=1, special=1, mul=1, div=1)  # x, or α · expm1(x / α)
steps("softplus", compare=1, special=2, mul=1, div=1)  # x, or log1p(e^(β · x)) / β
steps("mish", special=3, mul=1)  # x · tanh(log1p(e^x))


def gradient_steps(*names: str, **counts: int) -> None:
    """Like :func:`steps`, for ops that compute the gradient of an activation's input."""

    def cost(*args: Any, out: Tensor, **kwargs: Any) -> Gradients:
        return Gradients(input=elementwise(out, **counts))

    cost.__doc__ = f"{in_words(counts)} for each element of the input's gradient."
    formula(*(f"aten::{name}" for name in names))(cost)


gradient_steps("threshold_backward", compare=1)  # g if x > 0
gradient_steps("hardtanh_backward", compare=2)  # g if a < x < b
gradient_steps("hardshrink_backward", "softshrink_backward", compare=2)  # g if |x| > λ
gradient_steps("leaky_relu_backward", compare=1, mul=1)  # g, or g · slope
gradient_steps("hardsigmoid_backward", compare=2, mul=1)  # g / 6 if -3 < x < 3
gradient_steps("hardswish_backward", compare=2, div=1, add=1, mul=1)  # g · (x / 3 + 1/2)
gradient_steps("sigmoid_backward", add=1, mul=2)  # g · y · (1 - y)
gradient_steps("tanh_backward", mul=2, add=1)  # g · (1 - y²)
gradient_steps("logit_backward", compare=2, add=1, mul=1, div=1)  # g / (x · (1 - x)) within bounds
# g · s · (1 + x · (1 - s))
gradient_steps("silu_backward", special=1, compare=1, add=3, div=1, mul=3)
# with z = e^(β · x): g, or g · z / (z + 1)
gradient_steps("softplus_backward", compare=1, special=1, mul=2, add=1, div=1)
# with t = tanh(log1p(e^x)): g · (t + x · s · (1 - t²))
gradient_steps("mish_backward", special=4, compare=1, add=3, div=1, mul=4)


@formula("aten::elu_backward", by_name=True)
def elu_backward(*, is_result: bool, out: Tensor, **others: Any) -> Gradients:
    """g·scale, or g·s·scale·α·e^(s·x); with the result in place of x, g·s·(y + scale·α)."""
    if is_result:
        return Gradients(input=elementwise(out, compare=1, mul=3, add=1))
    return Gradients(input=elementwise(out, compare=1, mul=5, special=1))


GELU = {"mul": 3, "add": 1, "special": 1}
"""x/2·(1 + erf(x/√2))."""


@formula("aten::gelu")
def gelu(x: Tensor, *, approximate: str = "none", out: Tensor) -> Cost:
    """x/2·(1 + erf(x/√2)), or x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³))).

    Hendrycks & Gimpel, arXiv 1606.08415.
    """
    if approximate == "tanh":
        return elementwise(out, mul=6, add=2, special=1)
    return elementwise(out, **GELU)


@formula("aten::gelu_backward")
def gelu_backward(grad: Tensor, x: Tensor, *, approximate: str = "none", out: Tensor) -> Gradients:
    """g·(Φ(x) + x·φ(x)); with tanh, g·(½·(1 + t) + ½·x·(1 - t²)·u′(x)), t = tanh(u(x)).

    Φ takes 2 products, a sum and erf; φ = c·exp(-x²/2) takes 3 products and exp. With tanh:
    u 5 steps, u′ = √(2/π)·(1 + 3·0.044715·x²) 3 (x² is there), the rest 9.
    """
    if approximate == "tanh":
        return Gradients(input=elementwise(out, mul=12, add=5, special=1))
    return Gradients(input=elementwise(out, mul=7, add=2, special=2))


@formula("aten::logit")
def logit(x: Tensor, eps: float | None = None, *, out: Tensor) -> Cost:
    """log(x / (1 - x)), of x between eps and 1 - eps if there are bounds."""
    return elementwise(out, add=1, div=1, special=1, compare=0 if eps is None else 2)


@formula("aten::log_sigmoid_forward")
def log_sigmoid_forward(x: Tensor, *, out: tuple[Tensor, Tensor]) -> Cost:
    """min(x, 0) - log1p(e^-|x|)."""
    return elementwise(x, compare=3, special=2, add=1)


@formula("aten::log_sigmoid_backward")
def log_sigmoid_backward(grad: Tensor, x: Tensor, z: Tensor, *, out: Tensor) -> Gradients:
    """g·(z / (1 + z)), or g·(1 - z / (1 + z)) if x < 0, with z = e^-|x|, which may be there."""
    slope = elementwise(out, add=2, div=1, compare=1, mul=1)
    return Gradients(
        input=slope, recompute=ZERO if z.numel() else elementwise(out, compare=2, special=1)
    )


@formula("aten::glu_backward")
def glu_backward(grad: Tensor, x: Tensor, dim: int, *, out: Tensor) -> Gradients:
    """g·s and g·a·s·(1 - s), with s = sigmoid(b), for each element of the output."""
    return Gradients(input=elementwise(grad, special=1, compare=1, add=2, div=1, mul=4))


@formula("aten::glu_jvp")
def glu_jvp(y: Tensor, x: Tensor, dx: Tensor, dim: int, *, out: Tensor) -> Cost:
    """da·s + y·(1 - s)·db, with s = sigmoid(b), for each element of the output."""
    return elementwise(out, special=1, compare=1, add=1 + 2, div=1, mul=3)


@formula("aten::glu_backward_jvp")
def glu_backward_jvp(
    grad_x: Tensor, g: Tensor, x: Tensor, dg: Tensor, dx: Tensor, dim: int, *, out: Tensor
) -> Cost:
    """dg·s + g·p·db, and p·(dg·a + g·da) + v·(1 - 2·s)·db, with p = s·(1 - s) and v = g·a·p.

    v is there, half of ``grad_x``. s takes 4 operations and p 2, the first sum 4, the second 9.
    """
    return elementwise(g, special=1, compare=1, add=1 + 1 + 1 + 3, div=1, mul=1 + 3 + 6)


@formula(
    "aten::rrelu_with_noise",
    "aten::rrelu_with_noise_functional",
    traffic=traffic.reading_all_but(1),  # the noise is written
)
def rrelu_with_noise(x: Tensor, noise: Tensor, *args: Any, out: Any, **how: Any) -> Cost:
    """x if x > 0 else slope·x; the slope is drawn, which is free."""
    return elementwise(x, compare=1, mul=1)


@formula("aten::rrelu_with_noise_backward", by_name=True)
def rrelu_with_noise_backward(*, training: bool, out: Tensor, **others: Any) -> Gradients:
    """g·noise, which is 1 where x > 0; in inference the gradient of leaky ReLU."""
    return Gradients(input=elementwise(out, mul=1, compare=int(not training)))


@formula("aten::_prelu_kernel_backward")
def prelu_kernel_backward(
    grad: Tensor, x: Tensor, weight: Tensor, *, out: tuple[Tensor, Tensor]
) -> Gradients:
    """g, or w·g; of the weight 0, or x·g, yet to be summed."""
    steps = elementwise(x, compare=1, mul=1)
    return Gradients(input=steps, weight=steps)


@formula("aten::native_dropout")
def native_dropout(x: Tensor, p: float, train: bool | None, *, out: tuple[Tensor, ...]) -> Cost:
    """x·mask / (1 - p): two products. Drawing the mask is free."""
    return elementwise(x, mul=2) if train or train is None else ZERO


@formula("aten::_masked_scale")
def masked_scale(x: Tensor, mask: Tensor, scale: float, *, out: Tensor) -> Cost:
    """x·mask·scale, also the gradient of a fused dropout."""
    return elementwise(out, mul=2)


@formula("aten::native_dropout_backward")
def native_dropout_backward(grad: Tensor, mask: Tensor, scale: float, *, out: Tensor) -> Gradients:
    """g·mask·scale."""
    return Gradients(input=elementwise(grad, mul=2))
