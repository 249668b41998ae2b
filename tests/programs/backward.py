"""Losses, gradients by leaves and activations, and gradients of gradients."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import grad

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


@program({"": Row(2, 3), "0": Row(1, 1), "1": Row(1, 2)})
def two_layers_and_a_loss(device: str) -> Made:
    """The first layer's input needs no gradient: 1 U back, then 2 U."""
    model, x = chain(device, 2), batch(device)
    return model, lambda: descend(model(x))


@program({"": Row(1, 1)}, outside=Row(1, 2))
def a_loss_that_multiplies(device: str) -> Made:
    """Its product, and the two of its backward, are outside of the model."""
    model, x, w = linear(device), batch(device), weight(device)
    return model, lambda: descend(model(x) @ w)


@program({"": Row(6, 9, calls=3), "0": Row(3, 3, calls=3), "1": Row(3, 6, calls=3)})
def gradients_accumulated_over_three_batches(device: str) -> Made:
    """Three times one step: adding to a gradient multiplies nothing."""
    model, batches = chain(device, 2), [batch(device) for _ in range(3)]
    return model, lambda: [descend(model(x)) for x in batches]


@program({"": Row(1, 4)})
def the_same_graph_run_twice(device: str) -> Made:
    """retain_graph: 2 U for each of two backward passes, the input being a leaf with gradient."""
    model, x = linear(device), batch(device, grad=True)

    def step() -> Any:
        loss = model(x).sum()
        loss.backward(retain_graph=True)
        loss.backward()
        return loss, x.grad

    return model, step


def two_heads(device: str) -> nn.Module:
    """A model of two outputs, and so of two losses."""

    def run(self: Any, x: Tensor) -> Any:
        y = self.trunk(x)
        return self.left(y), self.right(y)

    return Composed(run, **{name: linear(device) for name in ("trunk", "left", "right")})


@program({"": Row(3, 6), "trunk": Row(1, 2), "left": Row(1, 2), "right": Row(1, 2)})
def two_losses_run_back_one_after_the_other(device: str) -> Made:
    """The trunk's gradient is computed for each loss: 2 times 1 U; each head has 2 U."""
    model, x = two_heads(device), batch(device)

    def step() -> Any:
        left, right = model(x)
        left.sum().backward(retain_graph=True)
        return left, descend(right)

    return model, step


@program({"": Row(3, 5), "trunk": Row(1, 1), "left": Row(1, 2), "right": Row(1, 2)})
def two_losses_run_back_together(device: str) -> Made:
    """autograd.backward of both: the trunk's gradient is computed once, 1 U."""
    model, x = two_heads(device), batch(device)

    def step() -> Any:
        losses = [output.sum() for output in model(x)]
        torch.autograd.backward(losses)
        return losses

    return model, step


@program(
    {
        "": Row(2, 3, calls=0),
        "first": Row(1, 1),
        "second": Row(1, 2),
    }
)
def graphs_run_back_in_the_order_they_were_made(device: str) -> Made:
    """Not the usual order, which is the last first; the second's input needs a gradient."""
    model = nn.ModuleDict({"first": linear(device), "second": linear(device)})
    inputs = {"first": batch(device), "second": batch(device, grad=True)}

    def step() -> Any:
        outputs = {name: model[name](x) for name, x in inputs.items()}
        return [descend(output) for output in outputs.values()]

    return model, step


@program({"": Row(2, 2), "0": Row(1, 1), "1": Row(1, 1)})
def backward_for_one_weight_alone(device: str) -> Made:
    """inputs=[the first weight]: a gradient flows through the second layer, 1 U, to it: 1 U."""
    model, x = chain(device, 2), batch(device)

    def step() -> Any:
        loss = model(x).sum()
        loss.backward(inputs=[model[0].weight])
        return loss, model[0].weight.grad

    return model, step


@program({"": Row(1, 1)})
def the_gradient_by_a_leaf_input(device: str) -> Made:
    """autograd.grad computes the input's gradient, and no weight's."""
    model, x = linear(device), batch(device, grad=True)
    return model, lambda: grad(model(x).sum(), x)


@program({"": Row(3, 2, calls=0), "0": Row(1), "1": Row(1, 1), "2": Row(1, 1)})
def the_gradient_by_an_activation(device: str) -> Made:
    """It flows back to the first layer's output, which has none itself: 1 U in each of two."""
    model, x = chain(device, 3), batch(device)

    def step() -> Any:
        hidden = model[0](x)
        return grad(model[2](model[1](hidden)).sum(), hidden)

    return model, step


@program({"": Row(2, 2), "0": Row(1, 1), "1": Row(1, 1)})
def the_gradient_by_an_input_two_layers_away(device: str) -> Made:
    """A saliency map: 1 U in each layer, though all weights want a gradient."""
    model, x = chain(device, 2), batch(device, grad=True)
    return model, lambda: grad(model(x).square().sum(), x)


@program({"": Row(1, 3)})
def a_batch_of_gradients_at_once(device: str) -> Made:
    """is_grads_batched: three rows of the Jacobian by its input, 1 U each."""
    model, x = linear(device), batch(device, grad=True)
    vectors = torch.randn(3, 4, 8).to(device)
    return model, lambda: grad(model(x), x, vectors, is_grads_batched=True)


@program({"": Row(3, 8), "energy": Row(1, 5), "head": Row(1, 2)})
def a_gradient_inside_a_forward(device: str) -> Made:
    """Forces: the gradient of an energy by the input, that the model goes on with.

    In the energy's row: dx of sum(sin(h)), h = x·W, is cos(h)·Wᵀ, 1 U; backward through that
    product has two gradients, and that of cos(h) reaches h, whose product has two more. The
    model's own product has one gradient, as its factor is no parameter.
    """

    def run(self: Any, x: Tensor) -> Tensor:
        energy = self.energy(x).sin().sum()
        (force,) = grad(energy, x, create_graph=True)
        return self.head(force @ self.constant)

    model = Composed(run, energy=linear(device), head=linear(device))
    model.register_buffer("constant", torch.randn(8, 8).to(device))
    x = batch(device, grad=True)
    return model, lambda: [descend(model(x)), x.grad]


@program({"": Row(2, 7), "0": Row(1, 5), "1": Row(), "2": Row(1, 2)}, outside=Row(1, 1))
def a_gradient_penalty(device: str) -> Made:
    """First order, by x alone: 1 U in each Linear. Second order: the product of "0" in the first
    gradient, g·Wᵀ, has two gradients, that of "2", 1·Wᵀ, one; by tanh's second derivative it
    reaches h = x·W, two more in "0". The penalty's own product is outside: 1 U, and 1 U back.
    """
    model = nn.Sequential(linear(device), nn.Tanh(), linear(device))
    x, constant = batch(device, grad=True), torch.randn(8, 8).to(device)

    def step() -> Any:
        (slope,) = grad(model(x).sum(), x, create_graph=True)
        return descend((slope @ constant).square())

    return model, step


@program({"Linear": Row(1, 5), "Linear#2": Row(1, 2)})
def a_module_applied_to_a_gradient(device: str) -> Made:
    """The critic has 2 U back; the model 1 U, then two gradients of that product, and two of
    h = x·W, which cos(h) reaches.
    """
    model, critic, x = linear(device), linear(device), batch(device, grad=True)

    def step() -> Any:
        (slope,) = grad(model(x).sin().sum(), x, create_graph=True)
        return descend(critic(slope))

    return None, step


@program({"": Row(1, 5)})
def gradients_of_third_order(device: str) -> Made:
    """With h = x·W: the first is cos(h)·Wᵀ, 1 U. The second goes back through that product to
    cos(h), and through x·W to x: 2 U, and is (1·W * -sin(h))·Wᵀ. The third takes the same two
    steps, since 1·W does not depend on x.
    """
    model, x = linear(device), batch(device, grad=True)

    def step() -> Any:
        y, slopes = model(x).sin().sum(), []
        for _ in range(3):
            (slope,) = grad(y, x, create_graph=True)
            slopes.append(slope)
            y = slope.sum()
        return slopes

    return model, step


@program({"": Row(1, 3)})
def a_hessian_times_a_vector(device: str) -> Made:
    """By the input: 1 U; its product with a vector back through cos(h)·Wᵀ and x·W to x: 2 U."""
    model, x, vector = linear(device), batch(device, grad=True), batch(device)

    def step() -> Any:
        (slope,) = grad(model(x).sin().sum(), x, create_graph=True)
        return grad(slope, x, vector)

    return model, step


@program({"": Row(2, 4, calls=2)})
def a_learner_that_learns_to_learn(device: str) -> Made:
    """The inner step: 1 U for the weight's gradient xᵀ·cos(h). The outer: 1 U for the gradient by
    the new weight; through xᵀ·cos(h) to cos(h), 1 U, and through h = x·W to W, 1 U.
    """
    model, x = linear(device), batch(device)

    def step() -> Any:
        (slope,) = grad(model(x).sin().sum(), model.weight, create_graph=True)
        new = {"weight": model.weight - 0.1 * slope}
        return descend(torch.func.functional_call(model, new, (x,)).sin())

    return model, step


@program({"": Row(4, 5, calls=0), "maker": Row(1, 1), "critic": Row(3, 4, calls=3)})
def a_maker_and_its_critic(device: str) -> Made:
    """The critic's own losses: real and detached input, 1 U back each. The maker's loss: 2 U back
    through the critic, whose weight's gradient is computed too, and 1 U in the maker.
    """
    model = nn.ModuleDict({"maker": linear(device), "critic": linear(device)})
    noise, real = batch(device), batch(device)

    def step() -> Any:
        made = model["maker"](noise)
        losses = [descend(model["critic"](real) - model["critic"](made.detach()))]
        return [*losses, descend(model["critic"](made))]

    return model, step


@program({"": Row(1, 1), "unattributed": Row(0, 2, calls=0)})
def a_graph_from_before_the_counter(device: str) -> Made:
    """Nobody saw which module made it: its 2 U back are unattributed, and the report says so."""
    model, unseen, x = linear(device), linear(device), batch(device, grad=True)
    y, z = unseen(x), batch(device)
    return model, lambda: [descend(y), descend(model(z))]


@program({"": Row(2, 5), "first": Row(1, 1), "second": Row(1, 4)})
def a_backward_pass_that_breaks_off_and_is_tried_again(device: str) -> Made:
    """A hook between the layers raises, once, after the second's 2 U; then all of it runs."""

    def run(self: Any, x: Tensor) -> Tensor:
        y = self.first(x)
        y.register_hook(self.hook)
        return self.second(y)

    model = Composed(run, first=linear(device), second=linear(device))
    x = batch(device)

    def step() -> Any:
        failures = [ValueError]

        def fail_once(gradient: Tensor) -> None:
            if failures:
                raise failures.pop()

        model.hook = fail_once
        loss = model(x).sum()
        with contextlib.suppress(ValueError):
            loss.backward(retain_graph=True)
        loss.backward()
        return loss

    return model, step
