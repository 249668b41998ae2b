"""Ways of using layers, each a ``Linear(8, 8)`` on 4 samples or a few of them: U = 4·8·8."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

from benchmarks.peers.cases.catalogue import Made, alone, layer, matrix, x
from tests.models import Product
from tests.programs.catalogue import Composed

U = 4 * 8 * 8
"""One layer, forward."""


def linear() -> nn.Linear:
    """The layer."""
    return nn.Linear(8, 8, bias=False)


@layer(U, U)
def first_layer_of_a_network() -> Made:
    """The input needs no gradient: one product backward."""
    return alone(linear()), (x(4, 8, grad=False),)


@layer(2 * U, 3 * U)
def frozen_layer() -> Made:
    """Of the second layer only the input has a gradient."""
    model = nn.Sequential(linear(), linear())
    model[1].weight.requires_grad_(False)
    return model, (x(4, 8),)


@layer(2 * U, U)
def frozen_backbone() -> Made:
    """A head on layers without gradient: one product backward, that of the head's weight."""
    model = nn.Sequential(linear(), linear())
    model[0].weight.requires_grad_(False)
    return model, (x(4, 8, grad=False),)


@layer(2 * U, 4 * U)
def module_called_twice() -> Made:
    """Two calls are two products."""
    return Composed(lambda self, x: self.layer(self.layer(x)), layer=linear()), (x(4, 8),)


@layer(2 * U, 4 * U)
def tied_weights() -> Made:
    """The second product is with the transposed weight of the first layer."""
    model = Composed(lambda self, x: self.layer(x) @ self.layer.weight, layer=linear())
    return model, (x(4, 8),)


@layer(2 * U, 4 * U)
def layer_and_function_in_one_module() -> Made:
    """One product is a module's, the other a function's."""
    model = Composed(
        lambda self, x: F.linear(self.layer(x), self.w), layer=linear(), w=matrix(8, 8)
    )
    return model, (x(4, 8),)


@layer(U, 2 * U)
def layer_called_with_a_keyword() -> Made:
    """How it is called changes nothing."""
    return Composed(lambda self, x: self.layer(input=x), layer=linear()), (x(4, 8),)


@layer(U, 2 * U)
def forward_called_by_hand() -> Made:
    """Without hooks, it is the same product."""
    return Composed(lambda self, x: self.layer.forward(x), layer=linear()), (x(4, 8),)


class LowRank(nn.Module):
    """A weight and a product of two thin matrices, Hu et al. 2021."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = matrix(2, 8), matrix(8, 2)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.b @ self.a


@layer(N := U + 8 * 2 * 8, 2 * N)
def parametrised_layer() -> Made:
    """The layer, and the product (8, 2)·(2, 8) that is added to its weight."""
    part = linear()
    parametrize.register_parametrization(part, "weight", LowRank())
    return alone(part), (x(4, 8),)


@layer(2 * U, 4 * U, recomputed=U)
def checkpoint_of_two_layers() -> Made:
    """Recomputed until the last saved tensor is there, the input of the second layer."""

    def run(self: Any, x: Tensor) -> Any:
        return checkpoint(self.block, x, use_reentrant=False)

    return Composed(run, block=nn.Sequential(linear(), linear())), (x(4, 8),)


@layer(2 * U, 4 * U, recomputed=2 * U)
def reentrant_checkpoint_of_two_layers() -> Made:
    """Recomputed whole."""

    def run(self: Any, x: Tensor) -> Any:
        return checkpoint(self.block, x, use_reentrant=True)

    return Composed(run, block=nn.Sequential(linear(), linear())), (x(4, 8),)


@layer(U, 2 * U)
def custom_autograd_function() -> Made:
    """Its backward is the usual one."""
    return Composed(lambda self, x: Product.apply(x, self.w), w=matrix(8, 8)), (x(4, 8),)


@layer(2 * U, 4 * U)
def scripted_module() -> Made:
    """TorchScript runs the same products."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.script(nn.Sequential(linear(), nn.ReLU(), linear()))
    return alone(script), (x(4, 8),)


@layer(2 * U, 4 * U)
def compiled_module() -> Made:
    """Compiled before it is counted; the same products."""
    block = nn.Sequential(linear(), nn.ReLU(), linear())
    compiled: Any = torch.compile(block, backend="aot_eager")
    compiled(x(4, 8))
    return Composed(lambda self, x: self.block(x), block=compiled), (x(4, 8),)


@layer(U, 2 * U)
def vmapped_layer() -> Made:
    """One product of a vector for each sample."""
    return Composed(lambda self, x: torch.vmap(self.layer)(x), layer=linear()), (x(4, 8),)


@layer(U, None)
def inference_mode() -> Made:
    """A product as any other, without gradients."""

    def run(self: Any, x: Tensor) -> Any:
        with torch.inference_mode():
            return self.layer(x)

    return Composed(run, layer=linear()), (x(4, 8),)


@layer(3 * U, 2 * U)
def branch_that_the_loss_does_not_see() -> Made:
    """Of three products one is thrown away, and one is no function of the parameters."""

    def run(self: Any, x: Tensor) -> Any:
        self.layer(x)
        with torch.no_grad():
            self.layer(x)
        return self.layer(x)

    return Composed(run, layer=linear()), (x(4, 8),)
