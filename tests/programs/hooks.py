"""Gradients that the program computes itself: hooks, and functions with a backward of their own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function, grad
from torch.autograd.function import once_differentiable

from tests.programs.catalogue import (
    Composed,
    Made,
    Row,
    batch,
    chain,
    descend,
    linear,
    program,
    weight,
)

# -- hooks


@program({"": Row(2, 4), "hooked": Row(1, 2), "hooked.layer": Row(1, 2), "head": Row(1, 2)})
def a_hook_on_an_activation(device: str) -> Made:
    """It multiplies the gradient of the layer's output: 1 U beside the weight's gradient."""
    constant = torch.randn(8, 8).to(device)

    def run(self: Any, x: Tensor) -> Tensor:
        y = self.layer(x)
        y.register_hook(lambda gradient: gradient @ constant)
        return y

    model = Composed(
        lambda self, x: self.head(self.hooked(x)),
        hooked=Composed(run, layer=linear(device)),
        head=linear(device),
    )
    x = batch(device)
    return model, lambda: descend(model(x))


@program({"": Row(2, 5), "0": Row(1, 3), "1": Row(1, 2)})
def a_hook_on_a_weight(device: str) -> Made:
    """The product of two 8 × 8 gradients is 2 U, in the module that owns the weight."""
    model, x = chain(device, 2), batch(device)
    model[0].weight.register_hook(lambda gradient: gradient @ gradient)
    return model, lambda: descend(model(x))


@program({"": Row(2, 5), "0": Row(1, 1), "1": Row(1, 4)})
def a_hook_after_a_gradient_was_accumulated(device: str) -> Made:
    """As an optimizer in backward would: 2 U in the module that owns the weight."""
    model, x = chain(device, 2), batch(device)

    def whiten(parameter: Tensor) -> None:
        parameter.grad = parameter.grad @ parameter.grad

    model[1].weight.register_post_accumulate_grad_hook(whiten)
    return model, lambda: descend(model(x))


@program({"": Row(3, 6), "0": Row(1, 1), "1": Row(1, 3), "2": Row(1, 2)})
def a_full_backward_hook_of_a_module(device: str) -> Made:
    """It multiplies the gradient of the module's input: 1 U more than the 2 U back."""
    model, x, constant = chain(device, 3), batch(device), torch.randn(8, 8).to(device)
    model[1].register_full_backward_hook(lambda module, inputs, outputs: (inputs[0] @ constant,))
    return model, lambda: descend(model(x))


@program({"": Row(3, 6), "0": Row(1, 1), "1": Row(1, 3), "2": Row(1, 2)})
def a_full_backward_pre_hook_of_a_module(device: str) -> Made:
    """It multiplies the gradient of the module's output: 1 U more than the 2 U back."""
    model, x, constant = chain(device, 3), batch(device), torch.randn(8, 8).to(device)
    model[1].register_full_backward_pre_hook(lambda module, outputs: (outputs[0] @ constant,))
    return model, lambda: descend(model(x))


@program({"": Row(2, 4), "0": Row(1, 2), "1": Row(1, 2)})
def a_full_backward_hook_of_a_module_whose_input_needs_no_gradient(device: str) -> Made:
    """It looks at the gradient of the output: 1 U beside that of the weight."""
    model, x, constant = chain(device, 2), batch(device), torch.randn(8, 8).to(device)

    def look(module: nn.Module, inputs: Any, outputs: Any) -> None:
        module.seen = (outputs[0] @ constant).sum()

    model[0].register_full_backward_hook(look)

    def step() -> Any:
        return [descend(model(x)), model[0].seen]

    return model, step


@program({"": Row(1, 2), "0": Row(1, 2), "Linear": Row(1, 1)})
def a_module_called_by_a_forward_hook(device: str) -> Made:
    """The hook's layer, which the model does not own, is a root; it makes the input: 1 U back."""
    model, extra, x = chain(device, 1), linear(device), batch(device)
    model[0].register_forward_pre_hook(lambda module, inputs: (extra(inputs[0]),))
    return model, lambda: descend(model(x))


# -- functions with a backward of their own


class ByWeight(Function):
    """x·w, whose backward multiplies by w only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        """One product."""
        ctx.save_for_backward(w)
        return x @ w

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """One product, too."""
        (w,) = ctx.saved_tensors
        return gradient @ w.T, None


class Product(Function):
    """x·w; backward computes both gradients, asked or not, and can be differentiated."""

    @staticmethod
    def forward(x: Tensor, w: Tensor) -> Tensor:
        """One product."""
        return x @ w

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, _: Tensor) -> None:
        """Both factors are saved."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Two products."""
        x, w = ctx.saved_tensors
        return gradient @ w.T, x.T @ gradient


class Again(Function):
    """x·w, computed again for its backward, by autograd: a checkpoint of the program's making."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        """One product."""
        ctx.save_for_backward(x, w)
        return x @ w

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """The product again, and its two gradients."""
        x, w = (t.detach().requires_grad_() for t in ctx.saved_tensors)
        with torch.enable_grad():
            y = x @ w
        return grad(y, (x, w), gradient)


class Through(Function):
    """A straight-through estimator: the module's forward, and no gradient but the output's."""

    @staticmethod
    def forward(_: Any, x: Tensor, module: nn.Module) -> Tensor:
        """Call the module."""
        return module(x)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Any:
        """Nothing."""
        return gradient, None


def applied(function: type[Function], device: str) -> Composed:
    """A module that applies such a function to a weight of its own."""
    return Composed(lambda self, x: function.apply(x, self.weight), weight=weight(device))


@program({"": Row(3, 4), "0": Row(1, 1), "1": Row(1, 1), "2": Row(1, 2)})
def a_function_that_is_differentiable_once(device: str) -> Made:
    """Its backward is one product, in the module that applied it."""
    model = nn.Sequential(linear(device), applied(ByWeight, device), linear(device))
    x = batch(device)
    return model, lambda: descend(model(x))


@program({"": Row(1, 6)})
def a_gradient_of_the_gradient_of_a_custom_function(device: str) -> Made:
    """First both gradients, 2 U. dx = cos(h)·wᵀ goes back to cos(h) and to w, 2 U; cos(h) to h,
    whose backward is the function's own again, 2 U.
    """
    model, x = applied(Product, device), batch(device, grad=True)

    def step() -> Any:
        (slope,) = grad(model(x).sin().sum(), x, create_graph=True)
        return [descend(slope), x.grad]

    return model, step


@program({"": Row(2, 3, 1), "0": Row(1, 2, 1), "1": Row(1, 1)})
def a_checkpoint_of_the_programs_own_making(device: str) -> Made:
    """The function's product is recomputed; the second layer is frozen, and passes on 1 U."""
    model = nn.Sequential(applied(Again, device), linear(device).requires_grad_(False))
    x = batch(device)
    return model, lambda: descend(model(x))


@program({"": Row(3, 3), "first": Row(1, 1), "body": Row(1), "last": Row(1, 2)})
def a_module_inside_a_custom_function(device: str) -> Made:
    """It runs without gradients; around it the gradient passes straight through: 1 and 2 U."""
    model = Composed(
        lambda self, x: self.last(Through.apply(self.first(x), self.body)),
        first=linear(device),
        body=linear(device),
        last=linear(device),
    )
    x = batch(device)
    return model, lambda: descend(model(x))
