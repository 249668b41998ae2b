"""Fused optimizer steps, and what gradient scaling needs.

A fused step costs what the same step of torch.optim costs op by op, on every element of every
parameter. The few numbers that a step computes once, such as Adam's bias corrections, are Python
arithmetic there, and not counted here either.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from flopcount.cost import ZERO, Cost
from flopcount.formulas import bytes as traffic
from flopcount.formulas.call import Call
from flopcount.formulas.registry import formula
from flopcount.formulas.steps import elementwise

Tensors = Sequence[Tensor]

HYPERPARAMETERS = (
    *("lr", "lr_decay", "weight_decay", "eps"),
    *("beta1", "beta2", "momentum", "dampening"),
)
"""Numbers of a step, which schedules change: only whether one is 0 or 1 matters."""


def fused_traffic(call: Call) -> tuple[int, int]:
    """Gradients, the second argument, are changed only when a scaler's factor is taken out.

    In its first step, momentum is written without being read.
    """
    _, grads, momenta, *_ = call.args
    operands, results = call.operands, call.results
    if call.kwargs.get("is_first_step"):
        operands = [value for value in operands if value is not momenta]
    if call.kwargs.get("grad_scale") is None:
        results = [value for value in results if value is not grads]
    return traffic.read_and_written(operands, results)


def per_element(params: Tensors, **steps: int) -> Cost:
    """So many steps for each element of all parameters."""
    return sum((elementwise(param, **steps) for param in params), ZERO)


def gradient_steps(
    *, maximize: bool, weight_decay: float, grad_scale: Tensor | None = None, **numbers: Any
) -> dict[str, int]:
    """What becomes of a gradient first: g / scale, -g, g + decay·param."""
    decays = int(weight_decay != 0)
    scaled = int(grad_scale is not None)
    return {"div": scaled, "compare": int(maximize), "add": decays, "mul": decays}


def adam(params: Tensors, *, amsgrad: bool) -> Cost:
    """m += c·(g - m); v = β₂·v + c·g·g; param += c·m / (√v / c + ε), c standing for numbers.

    3, 4 and 6 operations: 13. With amsgrad the root is of the largest v so far, a comparison.
    """
    return per_element(params, add=5, mul=5, div=2, sqrt=1, compare=int(amsgrad))


@formula("aten::_fused_adam", traffic=fused_traffic, coefficients=HYPERPARAMETERS)
def fused_adam(params: Tensors, *states: Tensors, amsgrad: bool, out: Any, **settings: Any) -> Cost:
    """Adam on g + decay·param."""
    gradient = per_element(params, **gradient_steps(**settings))
    return gradient + adam(params, amsgrad=amsgrad)


@formula("aten::_fused_adamw", traffic=fused_traffic, coefficients=HYPERPARAMETERS)
def fused_adamw(
    params: Tensors, *states: Tensors, weight_decay: float, amsgrad: bool, out: Any, **settings: Any
) -> Cost:
    """Adam on a parameter that decays by a product of its own, not through its gradient."""
    gradient = per_element(params, **gradient_steps(weight_decay=0, **settings))
    decay = per_element(params, mul=int(weight_decay != 0))
    return gradient + decay + adam(params, amsgrad=amsgrad)


@formula("aten::_fused_adagrad", traffic=fused_traffic, coefficients=HYPERPARAMETERS)
def fused_adagrad(params: Tensors, *states: Tensors, out: Any, **settings: Any) -> Cost:
    """s += g·g; param += c·g / (√s + ε): 2 and 5 operations."""
    gradient = per_element(params, **gradient_steps(**settings))
    return gradient + per_element(params, add=3, mul=2, div=1, sqrt=1)


@formula("aten::_fused_sgd", traffic=fused_traffic, coefficients=HYPERPARAMETERS)
def fused_sgd(
    params: Tensors,
    *states: Tensors,
    momentum: float,
    dampening: float,
    nesterov: bool,
    is_first_step: bool,
    out: Any,
    **settings: Any,
) -> Cost:
    """m = momentum·m + (1 - dampening)·g; g += momentum·m if Nesterov, else g = m; param -= lr·g.

    In the first step m is g. Without dampening the factor 1 - dampening is no product.
    """
    cost = per_element(params, **gradient_steps(**settings))
    if momentum != 0 and not is_first_step:
        cost += per_element(params, add=1, mul=2 if dampening else 1)
    if momentum != 0 and nesterov:
        cost += per_element(params, add=1, mul=int(momentum != 1))
    return cost + per_element(params, add=1, mul=1)


@formula("aten::_amp_foreach_non_finite_check_and_unscale")
def non_finite_check_and_unscale(
    grads: Tensors, found_inf: Tensor, inverse_scale: Tensor, *, out: Any
) -> Cost:
    """g·(1 / scale), and |g| = inf for each."""
    return per_element(grads, mul=1, compare=2)


@formula("aten::_amp_update_scale")
def update_scale(scale: Tensor, *args: Any, out: Any) -> Cost:
    """scale·factor if overflow was found, or not for so long: a select and a product."""
    return elementwise(scale, compare=1, mul=1)
