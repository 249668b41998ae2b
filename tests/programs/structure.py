"""Modules that contain, share or replace others, and forwards that are more than a chain."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
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


@program(
    {
        "": Row(3, 5),
        "layers": Row(3, 5, calls=0),
        "layers.0": Row(1, 1),
        "layers.1": Row(2, 4, calls=0),
        "layers.1.a": Row(1, 2),
        "layers.1.b": Row(1, 2),
    }
)
def lists_and_dicts_of_modules(device: str) -> Made:
    """Containers are never called, and add up what is in them: 1, 2 and 2 U back."""
    inner = nn.ModuleDict({"a": linear(device), "b": linear(device)})

    def run(self: Any, x: Tensor) -> Tensor:
        first, named = self.layers
        return named["b"](named["a"](first(x)))

    model, x = Composed(run, layers=nn.ModuleList([linear(device), inner])), batch(device)
    return model, lambda: descend(model(x))


@program(
    {
        "": Row(3, 5),
        "p": Row(2, 3, calls=2),
        "p.shared": Row(2, 3, calls=2),
        "q": Row(1, 2),
        "q.shared": Row(1, 2),
    }
)
def a_module_shared_by_two_others(device: str) -> Made:
    """Each path has its own calls: q(p(p(x))) is 1 + 2 U back by way of p, 2 U by way of q."""
    shared = linear(device)
    p, q = (Composed(lambda self, x: self.shared(x), shared=shared) for _ in "pq")
    model, x = Composed(lambda self, x: self.q(self.p(self.p(x))), p=p, q=q), batch(device)
    return model, lambda: descend(model(x))


@program({"": Row(2, 3), "0": Row(1, 1), "1": Row(1, 2)})
def tied_weights(device: str) -> Made:
    """Each gradient is computed where the weight was used: as for two layers of their own."""
    model, x = chain(device, 2), batch(device)
    model[1].weight = model[0].weight
    return model, lambda: descend(model(x))


@program({"": Row(1, 2), "embed": Row(), "head": Row(1, 2)})
def an_embedding_tied_to_the_head(device: str) -> Made:
    """The look-up multiplies nothing; the head's input is what was looked up: 2 U back."""
    model = nn.Sequential()
    model.embed, model.head = nn.Embedding(8, 8, device=device), linear(device)
    model.head.weight = model.embed.weight
    tokens = torch.arange(4, device=device)
    return model, lambda: descend(model(tokens))


@program({"": Row(2, 3), "body": Row(1, 1)}, outside=Row(1, 2))
def weights_used_by_a_function_inside_and_outside_the_module(device: str) -> Made:
    """F.linear by the body's weight is the caller's own: the model's 2 U back, the block's 2 U."""

    def run(self: Any, x: Tensor) -> Tensor:
        return F.linear(self.body(x), self.body.weight)

    model, x = Composed(run, body=linear(device)), batch(device)
    return model, lambda: descend(F.linear(model(x), model.body.weight))


@program({"": Row(3, 2), "0": Row(1), "1": Row(1, 1), "2": Row(1, 1)})
def frozen_layers_at_both_ends(device: str) -> Made:
    """The first needs no gradient at all; the last passes one on: 1 U."""
    model, x = chain(device, 3), batch(device)
    model[0].requires_grad_(False)
    model[2].requires_grad_(False)
    return model, lambda: descend(model(x))


@program(
    {
        "": Row(6, 8),
        "0": Row(3, 3),
        "0.base": Row(1),
        "0.down": Row(1, 1),
        "0.up": Row(1, 2),
        "1": Row(3, 5),
        "1.base": Row(1, 1),
        "1.down": Row(1, 2),
        "1.up": Row(1, 2),
    }
)
def low_rank_adapters_beside_frozen_layers(device: str) -> Made:
    """The frozen weights have no gradient; the second base passes one on to the first adapter."""

    def adapted() -> nn.Module:
        return Composed(
            lambda self, x: self.base(x) + self.up(self.down(x)),
            base=linear(device).requires_grad_(False),
            down=linear(device),
            up=linear(device),
        )

    model, x = nn.Sequential(adapted(), adapted()), batch(device)
    return model, lambda: descend(model(x))


@program({"Linear": Row(2, 3, calls=2), "Linear#2": Row(1, 2), "Linear#3": Row(1, 2)})
def several_roots_of_one_class(device: str) -> Made:
    """They are numbered as they are called: the second first, on an input without gradient."""
    first, second, third = (linear(device) for _ in range(3))
    x = batch(device)
    return None, lambda: descend(third(second(first(second(x)))))


@program({"Linear": Row(50, calls=50), "Tanh": Row(calls=50)})
def roots_that_are_gone_when_the_next_of_their_class_comes(device: str) -> Made:
    """Fifty layers that live for a call each share a row."""
    x, act = batch(device), nn.Tanh()
    return None, lambda: [act(linear(device)(x)) for _ in range(50)]


@program({"": Row(1, 1), "Linear": Row(1, 2)})
def a_root_beside_the_given_model(device: str) -> Made:
    """It keeps its class as its name; its input is the model's output, so that it has 2 U back."""
    model, other = Composed(lambda self, x: x @ self.w, w=weight(device)), linear(device)
    x = batch(device)
    return model, lambda: descend(other(model(x)))


class Odd(nn.ModuleList):
    """Empty, hence false."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.weight = weight(device)

    def forward(self, x: Tensor) -> Tensor:
        """The container's own product."""
        return x @ self.weight


@program({"Linear": Row(1, 1), "Odd": Row(1, 2)})
def an_empty_container_that_multiplies(device: str) -> Made:
    """It is a module like any other, though bool() says no: 1 U back, then 2 U."""
    first, odd, x = linear(device), Odd(device), batch(device)
    return None, lambda: descend(odd(first(x)))


# -- forwards with a plan


@program(
    {
        "": Row(4, 4),
        "gate": Row(2, 2),
        "experts": Row(2, 2, calls=0),
        "experts.0": Row(1, 1),
        "experts.2": Row(1, 1),
    }
)
def experts_that_run_on_the_tokens_routed_to_them(device: str) -> Made:
    """The gate sees 8 tokens: 2 U. Two experts get 4 each, and the third none."""
    routes = {0: [0, 2, 5, 7], 1: [], 2: [1, 3, 4, 6]}

    def run(self: Any, x: Tensor) -> Tensor:
        scores, out = self.gate(x).softmax(-1), torch.zeros_like(x)
        for index, tokens in routes.items():
            if tokens:
                chosen = torch.tensor(tokens, device=x.device)
                y = self.experts[index](x.index_select(0, chosen))
                y = y * scores.index_select(0, chosen)[:, index, None]
                out = out.index_add(0, chosen, y)
        return out

    experts = nn.ModuleList(linear(device) for _ in routes)
    model, x = Composed(run, gate=linear(device), experts=experts), torch.randn(8, 8).to(device)
    return model, lambda: descend(model(x))


@program({"": Row(4, 1), "layer": Row(4, 1, calls=4)})
def a_loop_that_detaches_before_each_turn(device: str) -> Made:
    """Only the last of four turns has a gradient, that of its weight."""

    def run(self: Any, x: Tensor) -> Tensor:
        for _ in range(4):
            x = self.layer(x.detach())
        return x

    model, x = Composed(run, layer=linear(device)), batch(device)
    return model, lambda: descend(model(x))


@program({"": Row(4, 6, calls=4)})
def backpropagation_through_time_truncated_at_two_steps(device: str) -> Made:
    """Each stretch of two steps starts from a state without gradient: 1 + 2 U, twice."""
    cell, start = linear(device), batch(device)

    def step() -> Any:
        state, losses = start, []
        for _ in range(2):
            state = cell(cell(state.detach()))
            losses.append(descend(state))
        return losses

    return cell, step


@program({"": Row(3, 4), "make": Row(2, 2)})
def weights_that_a_module_makes(device: str) -> Made:
    """8 × 8 weights from 8 rows: 2 U, and 2 U back. Their product is the model's own: 1 + 2 U."""
    model = Composed(lambda self, x, z: x @ self.make(z), make=linear(device))
    x, z = batch(device, grad=True), torch.randn(8, 8).to(device)
    return model, lambda: descend(model(x, z))


@program({"": Row(2, 3), "conv": Row(1, 1), "flat": Row(), "head": Row(1, 2)})
def a_convolution_and_a_layer(device: str) -> Made:
    """1 × 1 taps at 4 places: 4·8·8 MACs, as in the unit; the head sees 4 rows of 8."""
    model = nn.Sequential()
    model.conv = nn.Conv2d(8, 8, 1, bias=False, device=device)
    model.flat = Composed(lambda self, y: y.flatten(2).mT)
    model.head = linear(device)
    x = torch.randn(1, 8, 2, 2).to(device)
    return model, lambda: descend(model(x))


@program({"": Row(2, 1), "teacher": Row(1), "student": Row(1, 1)})
def a_teacher_without_gradients(device: str) -> Made:
    """It has a forward only, under no_grad()."""

    def run(self: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            target = self.teacher(x)
        return (self.student(x) - target).square()

    model = Composed(run, teacher=linear(device), student=linear(device))
    x = batch(device)
    return model, lambda: descend(model(x))


@program({"": Row(3, 3), "enc": Row(3, 3, calls=3)})
def one_encoder_for_three_inputs(device: str) -> Made:
    """A triplet: three calls, each with the gradient of the weight alone."""
    model = Composed(lambda self, *inputs: [self.enc(x) for x in inputs], enc=linear(device))
    inputs = [batch(device) for _ in range(3)]

    def step() -> Tensor:
        anchor, near, far = model(*inputs)
        return descend((anchor - near).square() - (anchor - far).square())

    return model, step


@program({"": Row(3, 3, calls=0), "0": Row(1, 1), "1": Row(1, 2), "2": Row(1)})
def an_early_exit(device: str) -> Made:
    """The last layer ran, and the loss is taken before it: 1 and 2 U back, and none."""
    model, x = chain(device, 3), batch(device)

    def step() -> Any:
        outputs = [x]
        for layer in model:
            outputs.append(layer(outputs[-1]))
        return descend(outputs[2]), outputs[3]

    return model, step


@program({"": Row(2, 3), "head": Row(1, 1), "head.0": Row(1, 1), "last": Row(1, 2)})
def a_module_that_its_caller_owns_beside_a_child_that_owns_it_too(device: str) -> Made:
    """Its caller's own attribute names it, the child's where the child calls it: 1 U, then 2 U."""
    head = chain(device, 1)
    model = Composed(lambda self, x: self.last(self.head(x)), head=head, last=head[0])
    x = batch(device)
    return model, lambda: descend(model(x))
