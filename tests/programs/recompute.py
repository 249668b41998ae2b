"""Forward work that is done again while backward runs: activation checkpointing of every kind."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    checkpoint_sequential,
    create_selective_checkpoint_contexts,
    set_checkpoint_early_stop,
)

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
from tests.programs.hooks import Again, applied

aten = torch.ops.aten


def reentrant(function: Any, *args: Any) -> Any:
    """Runs the whole function again, in a backward pass inside the other one."""
    return checkpoint(function, *args, use_reentrant=True)


def saved(function: Any, *args: Any, **options: Any) -> Any:
    """Not reentrant: runs the function again up to the last tensor that is wanted."""
    return checkpoint(function, *args, use_reentrant=False, **options)


@program({"": Row(2, 4, 2), "0": Row(1, 2, 1), "1": Row(1, 2, 1)})
def a_reentrant_checkpoint(device: str) -> Made:
    """Both layers run again; recomputation is no call."""
    model, x = chain(device, 2), batch(device, grad=True)
    return model, lambda: [descend(reentrant(model, x)), x.grad]


@program({"": Row(2, 4, 1), "0": Row(1, 2, 1), "1": Row(1, 2)})
def a_checkpoint_that_is_not_reentrant(device: str) -> Made:
    """The second layer saves the output of the first, and nobody saves its own: it stops there."""
    model, x = chain(device, 2), batch(device, grad=True)
    return model, lambda: [descend(saved(model, x)), x.grad]


@program({"": Row(2, 4, 2), "0": Row(1, 2, 1), "1": Row(1, 2, 1)})
def a_checkpoint_that_may_not_stop_early(device: str) -> Made:
    """Without early stop all of it runs again."""
    model, x = chain(device, 2), batch(device, grad=True)

    def step() -> Any:
        with set_checkpoint_early_stop(False):
            loss = saved(model, x).sum()
        loss.backward()
        return loss, x.grad

    return model, step


def product_and_layer(device: str, again: Any) -> Made:
    """A model that multiplies by itself, and then calls a layer."""
    model = Composed(
        lambda self, x: self.layer(x @ self.weight), weight=weight(device), layer=linear(device)
    )
    x = batch(device, grad=True)
    return model, lambda: descend(again(model, x))


@program({"": Row(2, 4, 2), "layer": Row(1, 2, 1)})
def a_reentrant_checkpoint_of_a_product_of_the_models_own(device: str) -> Made:
    """The product and the layer run again."""
    return product_and_layer(device, reentrant)


@program({"": Row(2, 4, 1), "layer": Row(1, 2)})
def a_checkpoint_of_a_product_of_the_models_own(device: str) -> Made:
    """Not reentrant: the product before the layer runs again, for the layer has saved it."""
    return product_and_layer(device, saved)


def method(device: str, again: Any) -> Made:
    """A model that checkpoints not a module, but a method that calls two."""

    def features(self: Any, x: Tensor) -> Tensor:
        return self.body[1](self.body[0](x))

    model = Composed(
        lambda self, x: self.head(again(lambda x: features(self, x), x)),
        body=chain(device, 2),
        head=linear(device),
    )
    x = batch(device, grad=True)
    return model, lambda: descend(model(x))


@program(
    {
        "": Row(3, 6, 2),
        "body": Row(2, 4, 2, calls=0),
        "body.0": Row(1, 2, 1),
        "body.1": Row(1, 2, 1),
        "head": Row(1, 2),
    }
)
def a_reentrant_checkpoint_of_a_method(device: str) -> Made:
    """The layers that it calls run again under their names."""
    return method(device, reentrant)


@program(
    {
        "": Row(3, 6, 1),
        "body": Row(2, 4, 1, calls=0),
        "body.0": Row(1, 2, 1),
        "body.1": Row(1, 2),
        "head": Row(1, 2),
    }
)
def a_checkpoint_of_a_method(device: str) -> Made:
    """Not reentrant: the first layer's output is the last that was saved inside."""
    return method(device, saved)


def two_products(device: str, again: Any) -> Made:
    """A checkpoint that no module is called in."""
    v, w = weight(device), weight(device)
    model = Composed(lambda self, x: again(lambda x: x @ self.v @ self.w, x), v=v, w=w)
    x = batch(device, grad=True)
    return model, lambda: descend(model(x))


@program({"": Row(2, 4, 2)})
def a_reentrant_checkpoint_of_a_lambda(device: str) -> Made:
    """Both products run again in the scope that called it."""
    return two_products(device, reentrant)


@program({"": Row(2, 4, 1)})
def a_checkpoint_of_a_lambda(device: str) -> Made:
    """Not reentrant: the first product, which the second has saved, in the scope that called it."""
    return two_products(device, saved)


def loss(device: str, again: Any) -> Made:
    """A checkpoint outside of all modules, up to the loss."""
    w, x = weight(device), batch(device, grad=True)

    def step() -> Any:
        result = again(lambda x: (x @ w).sin().sum(), x)
        result.backward()
        return result, x.grad, w.grad

    return None, step


@program({}, outside=Row(1, 2, 1))
def a_reentrant_checkpoint_of_a_loss(device: str) -> Made:
    """The product runs again, as the first thing that backward does."""
    return loss(device, reentrant)


@program({}, outside=Row(1, 2, 1))
def a_checkpoint_of_a_loss(device: str) -> Made:
    """Not reentrant: sin's gradient wants its argument, so that the product runs again."""
    return loss(device, saved)


@program({}, outside=Row(1, 1, 1))
def a_checkpoint_in_a_pass_that_makes_a_graph(device: str) -> Made:
    """cos needs the product again; the gradient by the input is one."""
    w, x = weight(device), batch(device, grad=True)

    def step() -> Any:
        return grad(saved(lambda x: (x @ w).sin(), x).sum(), x, create_graph=True)

    return None, step


def nested(device: str, outer: Any, inner: Any) -> Made:
    """A checkpoint of a layer and of another checkpoint, of two layers."""
    model = nn.ModuleDict({"outer": linear(device), "inner": chain(device, 2)})
    x = batch(device, grad=True)
    return model, lambda: descend(outer(lambda x: inner(model["inner"], model["outer"](x)), x))


@program(
    {
        "": Row(3, 6, 5, calls=0),
        "outer": Row(1, 2, 1),
        "inner": Row(2, 4, 4),
        "inner.0": Row(1, 2, 2),
        "inner.1": Row(1, 2, 2),
    }
)
def a_reentrant_checkpoint_in_a_reentrant_one(device: str) -> Made:
    """The outer one runs all three again, then the inner one its two."""
    return nested(device, reentrant, reentrant)


@program(
    {
        "": Row(3, 6, 2, calls=0),
        "outer": Row(1, 2, 1),
        "inner": Row(2, 4, 1),
        "inner.0": Row(1, 2, 1),
        "inner.1": Row(1, 2),
    }
)
def a_checkpoint_in_a_checkpoint(device: str) -> Made:
    """Neither is reentrant: the last tensor that anyone saved is the output of inner.0."""
    return nested(device, saved, saved)


@program(
    {
        "": Row(3, 6, 4, calls=0),
        "outer": Row(1, 2, 1),
        "inner": Row(2, 4, 3),
        "inner.0": Row(1, 2, 2),
        "inner.1": Row(1, 2, 1),
    }
)
def a_checkpoint_in_a_reentrant_one(device: str) -> Made:
    """The outer one runs all three again; the inner one then stops at the output of inner.0."""
    return nested(device, reentrant, saved)


@program(
    {
        "": Row(3, 6, 5, calls=0),
        "outer": Row(1, 2, 1),
        "inner": Row(2, 4, 4),
        "inner.0": Row(1, 2, 2),
        "inner.1": Row(1, 2, 2),
    }
)
def a_reentrant_checkpoint_in_one_that_is_not(device: str) -> Made:
    """The outer one stops at the inner one's input, which is saved when that has run: all three
    run again, and the inner one runs its two once more.
    """
    return nested(device, saved, reentrant)


@program(
    {
        "": Row(4, 8, 2, calls=0),
        "0": Row(1, 2, 1),
        "1": Row(1, 2, 1),
        "2": Row(1, 2),
        "3": Row(1, 2),
    }
)
def checkpoint_sequential_in_two_segments(device: str) -> Made:
    """Reentrant; the last segment is not checkpointed."""
    model, x = chain(device, 4), batch(device, grad=True)
    return model, lambda: descend(checkpoint_sequential(model, 2, x, use_reentrant=True))


@program({"": Row(3, 5, 1), "0": Row(1, 1), "1": Row(1, 2, 1), "2": Row(1, 2)})
def one_layer_of_three_checkpointed(device: str) -> Made:
    """sin after the second layer saves its argument, so that its product runs again."""

    def run(self: Any, x: Tensor) -> Tensor:
        first, second, third = self.children()
        return third(saved(lambda x: second(x).sin(), first(x)))

    model = Composed(run)
    for index in range(3):
        model.add_module(str(index), linear(device))
    x = batch(device)
    return model, lambda: descend(model(x))


@program({"": Row(2, 4), "0": Row(1, 2), "1": Row(), "2": Row(1, 2)})
def a_selective_checkpoint_that_saves_all_products(device: str) -> Made:
    """Only the activation is computed again."""
    model = nn.Sequential(linear(device), nn.Tanh(), linear(device))
    x = batch(device, grad=True)

    def contexts() -> Any:
        return create_selective_checkpoint_contexts([aten.mm.default])

    return model, lambda: descend(saved(model, x, context_fn=contexts).sin())


@program({"": Row(3, 6, 1), "0": Row(1, 2), "1": Row(1, 2, 1), "2": Row(1, 2)})
def a_selective_checkpoint_that_saves_every_second_product(device: str) -> Made:
    """Three products in sin's chain: the first and third are saved, the second runs again."""
    model, x = chain(device, 3), batch(device, grad=True)

    def contexts() -> Any:
        products = {"forward": 0, "recompute": 0}

        def policy(context: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
            if op is not aten.mm.default:
                return CheckpointPolicy.PREFER_RECOMPUTE
            phase = "recompute" if context.is_recompute else "forward"
            products[phase] += 1
            is_second = products[phase] == 2
            return CheckpointPolicy.MUST_RECOMPUTE if is_second else CheckpointPolicy.MUST_SAVE

        return create_selective_checkpoint_contexts(policy)

    return model, lambda: descend(saved(lambda x: model(x).sin(), x, context_fn=contexts))


@program({"": Row(2, 4, 2), "energy": Row(1, 2, 1), "head": Row(1, 2, 1)})
def a_backward_pass_inside_a_checkpoint(device: str) -> Made:
    """The forces are one backward product, 1 U, in forward and once more when it is recomputed."""

    def run(self: Any, x: Tensor) -> Tensor:
        with torch.enable_grad():
            probe = x.detach().requires_grad_()
            (force,) = grad(self.energy(probe).sum(), probe)
        return self.head(x + force)

    model = Composed(run, energy=linear(device), head=linear(device))
    x = batch(device, grad=True)
    return model, lambda: descend(reentrant(model, x))


@program({"": Row(4, 8, 2, calls=2), "0": Row(2, 4, 2, calls=2), "1": Row(2, 4, calls=2)})
def a_checkpoint_used_twice_before_backward(device: str) -> Made:
    """Not reentrant: each of the two graphs has the first layer's output computed again."""
    model, x, y = chain(device, 2), batch(device, grad=True), batch(device, grad=True)
    return model, lambda: descend(saved(model, x) + saved(model, y))


@program({"": Row(2, 8, 2), "0": Row(1, 4, 2), "1": Row(1, 4)})
def a_checkpoint_run_back_twice(device: str) -> Made:
    """retain_graph: each of the two backward passes computes the first layer again."""
    model, x = chain(device, 2), batch(device, grad=True)

    def step() -> Any:
        loss = saved(model, x).sum()
        loss.backward(retain_graph=True)
        loss.backward()
        return loss, x.grad

    return model, step


@program({"": Row(1, 2, 1)}, outside=Row(1, 1, 1))
def a_checkpoint_of_the_programs_own_after_one_of_torchs(device: str) -> Made:
    """The loss runs again, 1 U, and passes 1 U on; then the model computes itself again, 1 U."""
    model, constant = applied(Again, device), torch.randn(8, 8).to(device)
    x = batch(device, grad=True)
    return model, lambda: descend(saved(lambda y: (y @ constant).sin(), model(x)))
