"""Checkpointed functions that enter no module, and work where autograd is off.

A function of the program's own, a region under no_grad, and a reentrant checkpoint run their
forward without gradients: in backward that looks like backward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

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
from tests.programs.hooks import Again, Product
from tests.programs.recompute import reentrant, saved

Function = Callable[[Tensor, Tensor], Tensor]


def between_layers(device: str, again: Any, function: Function) -> Made:
    """A module that checkpoints a function of its input and its weight, between two layers."""
    middle = Composed(
        lambda self, x: again(lambda x: function(x, self.weight), x), weight=weight(device)
    )
    model, x = nn.Sequential(linear(device), middle, linear(device)), batch(device, grad=True)
    return model, lambda: [descend(model(x)), x.grad]


def of_its_own(x: Tensor, w: Tensor) -> Tensor:
    """A product by a custom function; the sine wants its result."""
    result: Tensor = Product.apply(x, w).sin()
    return result


def without_gradients(x: Tensor, w: Tensor) -> Tensor:
    """A product that no gradient flows through."""
    with torch.no_grad():
        factor = x @ w
    return (x * factor).sin()


def with_a_checkpoint(x: Tensor, w: Tensor) -> Tensor:
    """A product in a reentrant checkpoint."""
    result: Tensor = reentrant(lambda x: (x @ w).sin(), x)
    return result


@program({"": Row(3, 6, 1), "0": Row(1, 2), "1": Row(1, 2, 1), "2": Row(1, 2)})
def a_checkpoint_of_a_custom_function(device: str) -> Made:
    """It runs once more, and its backward has two products."""
    return between_layers(device, saved, of_its_own)


@program({"": Row(3, 6, 1), "0": Row(1, 2), "1": Row(1, 2, 1), "2": Row(1, 2)})
def a_reentrant_checkpoint_of_a_custom_function(device: str) -> Made:
    """Likewise; its node is made by the pass that recomputes."""
    return between_layers(device, reentrant, of_its_own)


@program({"": Row(3, 4, 1), "0": Row(1, 2), "1": Row(1, 0, 1), "2": Row(1, 2)})
def a_checkpoint_of_a_product_without_gradients(device: str) -> Made:
    """The product runs once more, and has no backward."""
    return between_layers(device, saved, without_gradients)


@program({"": Row(3, 4, 1), "0": Row(1, 2), "1": Row(1, 0, 1), "2": Row(1, 2)})
def a_reentrant_checkpoint_of_a_product_without_gradients(device: str) -> Made:
    """Likewise."""
    return between_layers(device, reentrant, without_gradients)


@program({"": Row(3, 6, 2), "0": Row(1, 2), "1": Row(1, 2, 2), "2": Row(1, 2)})
def a_function_with_a_reentrant_checkpoint_checkpointed(device: str) -> Made:
    """The outer one runs the inner one again, 1 U, and that itself for its backward, 1 U."""
    return between_layers(device, saved, with_a_checkpoint)


@program({"": Row(3, 6, 2), "0": Row(1, 2), "1": Row(1, 2, 2), "2": Row(1, 2)})
def a_function_with_a_reentrant_checkpoint_in_a_reentrant_one(device: str) -> Made:
    """Likewise."""
    return between_layers(device, reentrant, with_a_checkpoint)


@program({"": Row(1, 2, 1)})
def a_checkpoint_of_a_custom_function_that_backward_begins_with(device: str) -> Made:
    """The first node that runs recomputes, before any op of backward was seen."""
    model = Composed(
        lambda self, x: reentrant(lambda x: of_its_own(x, self.weight).sum(), x),
        weight=weight(device),
    )
    x = batch(device, grad=True)

    def step() -> Any:
        loss = model(x)
        loss.backward()
        return loss, x.grad

    return model, step


@program(
    {
        "": Row(4, 8, 3),
        "0": Row(1, 2),
        "1": Row(2, 4, 3),
        "1.a": Row(1, 2, 2),
        "1.b": Row(1, 2, 1),
        "2": Row(1, 2),
    }
)
def reentrant_checkpoints_of_methods_in_each_other(device: str) -> Made:
    """The inner layer runs for the outer checkpoint, and once more for its own."""

    def inner(self: Any, x: Tensor) -> Any:
        return self.a(x)

    def outer(self: Any, x: Tensor) -> Any:
        return self.b(reentrant(lambda x: inner(self, x), x))

    middle = Composed(
        lambda self, x: reentrant(lambda x: outer(self, x), x), a=linear(device), b=linear(device)
    )
    model, x = nn.Sequential(linear(device), middle, linear(device)), batch(device, grad=True)
    return model, lambda: [descend(model(x)), x.grad]


@program({"": Row(100, 200, 100), **{str(index): Row(1, 2, 1) for index in range(100)}})
def a_hundred_checkpoints_of_the_programs_own_making(device: str) -> Made:
    """Each runs a backward pass inside the one that all are part of."""
    parts = [
        Composed(lambda self, x: Again.apply(x, self.weight), weight=weight(device))
        for _ in range(100)
    ]
    model, x = nn.Sequential(*parts), batch(device, grad=True)
    with torch.no_grad():
        for part in parts:
            part.weight.div_(4)
    return model, lambda: [descend(model(x)), x.grad]


@program({"": Row(1, 2, 1)})
def a_checkpoint_of_the_programs_own_that_backward_begins_with(device: str) -> Made:
    """Gradients are on in the first op that is seen of backward, and yet no graph is made of it."""
    model = Composed(lambda self, x: Again.apply(x, self.weight), weight=weight(device))
    x, gradient = batch(device, grad=True), batch(device)

    def step() -> Any:
        result = model(x)
        result.backward(gradient)
        return result, x.grad

    return model, step


@program(
    {
        "": Row(3, 6, 2),
        "layers": Row(3, 6, 2, calls=0),
        "layers.0": Row(1, 2, 1),
        "layers.1": Row(1, 2),
        "layers.2": Row(1, 2, 1),
    }
)
def two_checkpoints_in_one_model(device: str) -> Made:
    """Reentrant, and not; the layer between them runs once."""

    def run(self: Any, x: Tensor) -> Any:
        y = reentrant(lambda x: self.layers[0](x).sin(), x)
        return saved(lambda y: self.layers[2](y).sin(), self.layers[1](y))

    model, x = Composed(run, layers=chain(device, 3)), batch(device, grad=True)
    return model, lambda: [descend(model(x)), x.grad]
