"""Layers that run in a module which does not own them: handed, closed over, or kept in lists."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.programs.catalogue import (
    Composed,
    Made,
    Row,
    Watch,
    batch,
    chain,
    descend,
    linear,
    program,
)
from tests.programs.recompute import reentrant, saved
from tests.programs.threads import aside


def calling() -> nn.Module:
    """Calls what it is handed, and adds its input."""
    return Composed(lambda self, x, layer: x + layer(x))


def handing(device: str, run: Any = None) -> nn.Module:
    """Two layers and two modules that call them: one by a lambda, one by being handed it."""

    def plain(self: Any, x: Tensor) -> Tensor:
        return self.sub[1](self.sub[0](x, lambda y: self.a(y)), self.b)

    return Composed(
        run or plain,
        a=linear(device),
        b=linear(device),
        sub=nn.ModuleList([calling(), calling()]),
    )


HANDING = {"sub": Row(calls=0), "sub.0": Row(), "sub.1": Row()}
"""What only calls computes nothing of its own that we count here."""


def below(path: str, rows: dict[str, Row]) -> dict[str, Row]:
    """These rows, of a module at ``path``."""
    return {f"{path}.{name}": row for name, row in rows.items()}


@program(
    {
        "": Row(4, 7),
        "0": Row(2, 3),
        "0.a": Row(1, 1),
        "0.b": Row(1, 2),
        **below("0", HANDING),
        "1": Row(2, 4),
        "1.a": Row(1, 2),
        "1.b": Row(1, 2),
        **below("1", HANDING),
    }
)
def layers_called_by_siblings_through_lambdas_and_arguments(device: str) -> Made:
    """As in the Annotated Transformer: the first layer has 1 U back, the others 2 U."""
    model, x = nn.Sequential(handing(device), handing(device)), batch(device)
    return model, lambda: descend(model(x))


@program({"": Row(2, 4, 2), "a": Row(1, 2, 1), "b": Row(1, 2, 1), **HANDING})
def layers_handed_to_siblings_in_a_reentrant_checkpoint(device: str) -> Made:
    """Both run again under their own names."""
    model, x = handing(device), batch(device, grad=True)
    return model, lambda: [descend(reentrant(model, x)), x.grad]


@program({"": Row(2, 4, 1), "a": Row(1, 2, 1), "b": Row(1, 2), **HANDING})
def layers_handed_to_siblings_in_a_checkpoint_that_is_not_reentrant(device: str) -> Made:
    """``b`` saves what ``a`` made; nobody saves its own result: it stops there."""
    model, x = handing(device), batch(device, grad=True)
    return model, lambda: [descend(saved(model, x)), x.grad]


@program({"": Row(2, 4, 2), "a": Row(1, 2, 1), "b": Row(1, 2, 1), **HANDING})
def a_checkpoint_of_the_function_that_hands_the_layers(device: str) -> Made:
    """Its function is no module: it runs again from nodes of what it called."""

    def run(self: Any, x: Tensor) -> Tensor:
        def hand(y: Tensor) -> Tensor:
            return self.sub[1](self.sub[0](y, lambda z: self.a(z)), self.b)

        return reentrant(hand, x)

    model, x = handing(device, run), batch(device, grad=True)
    return model, lambda: [descend(model(x)), x.grad]


@program(
    {
        "": Row(2, 3),
        "p": Row(1, 1),
        "p.shared": Row(1, 1, calls=0),
        "p.shared.0": Row(1, 1),
        "q": Row(1, 2),
        "q.shared": Row(1, 2, calls=0),
        "q.shared.0": Row(1, 2),
        "helper": Row(calls=2),
    }
)
def a_layer_of_two_owners_that_both_hand_to_one_helper(device: str) -> Made:
    """Who owns it nearest is told by who is open: ``p`` in the first call, ``q`` in the second."""
    shared, helper = chain(device, 1), calling()
    p, q = (Composed(lambda self, x: helper(x, self.shared[0]), shared=shared) for _ in "pq")
    model = Composed(lambda self, x: self.q(self.p(x)), p=p, q=q, helper=helper)
    x = batch(device)
    return model, lambda: descend(model(x))


@program(
    {
        "": Row(5, 9),
        "layers": Row(2, 3, calls=0),
        "layers.0": Row(1, 1),
        "layers.1": Row(1, 2, calls=1),
        "layers.1.0": Row(1, 2),
        "named": Row(3, 6, calls=0),
        "named.a": Row(1, 2),
        "named.b": Row(2, 4, calls=0),
        "named.b.0": Row(1, 2),
        "named.b.1": Row(1, 2),
    }
)
def layers_in_lists_and_dicts_of_the_model(device: str) -> Made:
    """They are not registered: the optimizer never sees them, the counter does."""

    def run(self: Any, x: Tensor) -> Tensor:
        for layer in (*self.layers, self.named["a"], *self.named["b"]):
            x = layer(x)
        return x

    model, x = Composed(run), batch(device)
    model.layers = [linear(device), chain(device, 1)]
    model.named = {"a": linear(device), "b": (linear(device), linear(device))}
    return model, lambda: descend(model(x))


@program(
    {
        "": Row(3, 5),
        "drop": Row(calls=2),
        "body": Row(2, 3, calls=0),
        "body.layers": Row(2, 3, calls=0),
        "body.layers.0": Row(1, 1),
        "body.layers.2": Row(1, 2),
        "head": Row(1, 2),
    }
)
def stochastic_depth_over_a_list_of_layers(device: str) -> Made:
    """Two of three layers run, each handed to the one module that may leave it out."""

    def run(self: Any, x: Tensor) -> Tensor:
        for index, layer in enumerate(self.body.layers):
            if index != 1:
                x = self.drop(x, layer)
        return self.head(x)

    body = nn.Module()
    body.layers = [linear(device) for _ in range(3)]
    model = Composed(run, body=body, drop=calling(), head=linear(device))
    x = batch(device)
    return model, lambda: descend(model(x))


class Around(nn.Module):
    """Made for one call, around a layer of the model."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """What the layer makes of it."""
        return self.layer(x) * 2


@program({"": Row(2, 3), "a": Row(1, 1), "b": Row(1, 2), "Around": Row(calls=2)})
def layers_wrapped_for_one_call(device: str) -> Made:
    """The wrapper owns the layer, too, but it is a guest: nobody in the model owns it."""
    model = Composed(
        lambda self, x: Around(self.b)(Around(self.a)(x)), a=linear(device), b=linear(device)
    )
    x = batch(device)
    return model, lambda: descend(model(x))


class Adjoint(torch.autograd.Function):
    """Runs a module without recording, and again in backward, as adjoint methods do."""

    @staticmethod
    def forward(ctx: Any, function: nn.Module, x: Tensor, *weights: Tensor) -> Tensor:
        """The module's result; ``weights`` are its parameters."""
        ctx.function = function
        ctx.save_for_backward(x, *weights)
        return Around(function)(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        """The gradients of what it computes again."""
        x, *weights = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            y = Around(ctx.function)(x)
        return (None, *torch.autograd.grad(y, (x, *weights), grad))


@program(
    {
        "": Row(2, 4, 1),
        "f": Row(1, 2, 1),
        "f.layer": Row(1, 2, 1),
        "head": Row(1, 2),
        "Around": Row(),
    }
)
def an_adjoint_that_runs_a_module_again_in_its_backward(device: str) -> Made:
    """Forward, again in backward, and the gradients of that: 1 U, 1 U and 2 U, all in ``f``."""

    def run(self: Any, x: Tensor) -> Tensor:
        return self.head(Adjoint.apply(self.f, x, *self.f.parameters()))

    f = Composed(lambda self, y: self.layer(y), layer=linear(device))
    model, x = Composed(run, f=f, head=linear(device)), batch(device, grad=True)
    return model, lambda: [descend(model(x)), x.grad]


@program({"": Row(3, 5), "a": Row(1, 1), "b": Row(2, 4, calls=2), "turn": Row(calls=3)})
def layers_that_call_each_other_by_way_of_one_helper(device: str) -> Made:
    """Each is named by the model, however deep it is called: a, b, b."""

    def run(self: Any, x: Tensor) -> Tensor:
        plan = [self.b, self.b, self.a]

        def proceed(y: Tensor) -> Tensor:
            return self.turn(y, plan.pop(), proceed) if plan else y

        return proceed(x)

    turn = Composed(lambda self, x, layer, proceed: proceed(layer(x)))
    model = Composed(run, a=linear(device), b=linear(device), turn=turn)
    x = batch(device)
    return model, lambda: descend(model(x))


@program({"": Row(2, 3), "a": Row(1, 1), "b": Row(1, 2), **HANDING})
def threads_in_which_layers_are_handed_to_siblings(device: str, watch: Watch) -> Made:
    """The whole model runs in a thread that entered the counter."""
    model, x = handing(device), batch(device)

    def work() -> Tensor:
        with watch():
            return descend(model(x))

    return model, lambda: aside(work)
