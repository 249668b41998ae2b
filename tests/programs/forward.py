"""What modules take and return, how they are called, and by whom."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

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

# -- inputs


@program(
    {
        "": Row(3, 5),
        "blocks": Row(3, 5, calls=0),
        "blocks.0": Row(1, 1),
        "blocks.0.layer": Row(1, 1),
        "blocks.1": Row(1, 2),
        "blocks.1.layer": Row(1, 2),
        "blocks.2": Row(1, 2),
        "blocks.2.layer": Row(1, 2),
    }
)
def three_blocks_called_with_keywords_only(device: str) -> Made:
    """The first block's input needs no gradient: its backward is 1 U, the others' 2 U."""
    blocks = [Composed(lambda self, *, x: self.layer(input=x), layer=linear(device)) for _ in "123"]

    def run(self: Any, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x=x)
        return x

    model, x = Composed(run, blocks=nn.ModuleList(blocks)), batch(device)
    return model, lambda: descend(model(x=x))


@program({"": Row(2, 2), "left": Row(1, 1), "right": Row(1, 1)})
def two_towers_on_inputs_that_need_no_gradient(device: str) -> Made:
    """Neither tower has to compute the gradient of its input: 1 U backward each."""
    model = Composed(
        lambda self, x, y: self.left(x) + self.right(y), left=linear(device), right=linear(device)
    )
    x, y = batch(device), batch(device)
    return model, lambda: descend(model(x, y))


@program(
    {
        "": Row(4, 7),
        "stem": Row(1, 1),
        "query": Row(1, 2),
        "key": Row(1, 2),
        "value": Row(1, 2),
    }
)
def a_tensor_shared_by_three_modules(device: str) -> Made:
    """Each of the three has 2 U back, one of them for what they share; the stem has 1 U."""

    def run(self: Any, x: Tensor) -> Tensor:
        shared = self.stem(x)
        return self.query(shared) + self.key(shared) * self.value(shared)

    parts = {name: linear(device) for name in ("stem", "query", "key", "value")}
    model, x = Composed(run, **parts), batch(device)
    return model, lambda: descend(model(x))


@program({"": Row(2, 4), "first": Row(1, 2), "second": Row(1, 2)})
def a_leaf_that_needs_a_gradient_and_is_the_input_of_two_modules(device: str) -> Made:
    """Each product with the leaf has the gradients of both its factors: 2 U each."""
    model = Composed(
        lambda self, x: self.first(x) * self.second(x), first=linear(device), second=linear(device)
    )
    x = batch(device, grad=True)
    return model, lambda: [descend(model(x)), x.grad]


@dataclass
class Output:
    """What a block returns."""

    value: Tensor
    others: list[Any]


@program({"": Row(2, 3), "block": Row(1, 1), "block.layer": Row(1, 1), "head": Row(1, 2)})
def a_block_that_returns_a_dataclass(device: str) -> Made:
    """As if it returned the tensor: 1 U back in the block, whose input needs no gradient."""

    def run(self: Any, x: Tensor) -> Output:
        y = self.layer(x)
        return Output(y, [None, y])

    block = Composed(run, layer=linear(device))
    model = Composed(
        lambda self, x: self.head(self.block(x).value), block=block, head=linear(device)
    )
    x = batch(device)
    return model, lambda: descend(model(x))


@program(
    {
        "": Row(3, 5),
        "block": Row(2, 3),
        "block.a": Row(1, 1),
        "block.b": Row(1, 2),
        "head": Row(1, 2),
    }
)
def a_block_that_returns_nested_dicts_and_tuples(device: str) -> Made:
    """Both outputs are used: the block's first layer 1 U back, its second 2 U, the head 2 U."""

    def run(self: Any, x: Tensor) -> Any:
        a = self.a(x)
        return {"first": (None, [a]), "second": {"deep": (self.b(a),)}}

    def both(self: Any, x: Tensor) -> Tensor:
        y = self.block(x)
        return self.head(y["first"][1][0] + y["second"]["deep"][0])

    block = Composed(run, a=linear(device), b=linear(device))
    model, x = Composed(both, block=block, head=linear(device)), batch(device)
    return model, lambda: descend(model(x))


@program({"": Row(3, 2), "used": Row(1, 1), "unused": Row(1), "later": Row(1, 1)})
def outputs_that_nobody_uses_in_time(device: str) -> Made:
    """Of three outputs two get a gradient, in backward passes of their own: 1 U each."""

    def run(self: Any, x: Tensor) -> Any:
        return self.used(x), self.unused(x), self.later(x)

    parts = {name: linear(device) for name in ("used", "unused", "later")}
    model, x = Composed(run, **parts), batch(device)

    def step() -> Any:
        used, _, later = model(x)
        return descend(used), descend(later)

    return model, step


@program(
    {
        "": Row(2, 3),
        "outer": Row(2, 3),
        "outer.inner": Row(1, 1),
        "outer.inner.layer": Row(1, 1),
        "outer.layer": Row(1, 2),
    }
)
def modules_that_hand_their_result_over_by_an_attribute(device: str) -> Made:
    """They return None; the chain is the same: 1 U back in the first layer, 2 U in the second."""

    def keep(self: Any, x: Tensor) -> None:
        self.kept = self.layer(x)

    def keep_more(self: Any, x: Tensor) -> None:
        self.inner(x)
        self.kept = self.layer(self.inner.kept)

    def run(self: Any, x: Tensor) -> Tensor:
        self.outer(x)
        return self.outer.kept

    inner = Composed(keep, layer=linear(device))
    outer = Composed(keep_more, inner=inner, layer=linear(device))
    model, x = Composed(run, outer=outer), batch(device)

    def step() -> Tensor:
        loss = descend(model(x))
        del inner.kept, outer.kept
        return loss

    return model, step


# -- views and in-place ops across borders


@program({"": Row(3, 5), "0": Row(1, 1), "1": Row(), "2": Row(1, 2), "3": Row(), "4": Row(1, 2)})
def activations_that_work_in_place(device: str) -> Made:
    """ReLU changes what the layer before it returned: 1 + 2 + 2 U back, none in the activations."""
    act = nn.ReLU(inplace=True), nn.LeakyReLU(inplace=True)
    model = nn.Sequential(linear(device), act[0], linear(device), act[1], linear(device))
    x = batch(device)
    return model, lambda: descend(model(x))


@program({"": Row(3, 5), "make": Row(1, 1), "add": Row(1, 2), "use": Row(1, 2)})
def a_product_added_in_place_to_a_view_of_anothers_output(device: str) -> Made:
    """Its product has the gradients of both factors, 2 U; the output's own layer has one, 1 U."""

    def add(self: Any, x: Tensor, y: Tensor) -> None:
        y[:4].add_(x @ self.weight)

    def run(self: Any, x: Tensor) -> Tensor:
        y = self.make(x)
        self.add(2 * y, y)
        return self.use(y)

    adder = Composed(add, weight=weight(device))
    model, x = Composed(run, make=linear(device), add=adder, use=linear(device)), batch(device)
    return model, lambda: descend(model(x))


@program({"": Row(2, 3), "first": Row(1, 1), "split": Row(), "twice": Row(), "second": Row(1, 2)})
def views_made_in_one_module_and_changed_in_the_next(device: str) -> Made:
    """Halves of the first layer's output, one of them doubled in place: 1 U back, then 2 U."""

    def run(self: Any, x: Tensor) -> Tensor:
        y = self.first(x)
        self.twice(self.split(y)[0])
        return self.second(y)

    split = Composed(lambda self, y: (y[:2], y[2:]))
    twice = Composed(lambda self, half: half.mul_(2))
    model = Composed(run, first=linear(device), split=split, twice=twice, second=linear(device))
    x = batch(device)
    return model, lambda: descend(model(x))


# -- calls


@program({"": Row(2, 3, calls=2)})
def a_layer_applied_to_its_own_result(device: str) -> Made:
    """The second call's input needs a gradient, the first one's does not: 2 + (2 + 1) U."""
    layer, x = linear(device), batch(device)
    return layer, lambda: descend(layer(layer(x)))


@program({"": Row(3, 5, calls=3)})
def a_module_that_calls_itself(device: str) -> Made:
    """Three deep: three products, and all but the first have both gradients: 1 + 2 + 2 U."""

    def run(self: Any, x: Tensor, depth: int = 3) -> Tensor:
        x = x @ self.weight
        return self(x, depth - 1) if depth > 1 else x

    model, x = Composed(run, weight=weight(device)), batch(device)
    return model, lambda: descend(model(x))


class Helper(nn.Module):
    """Calls a module that it does not own."""

    def forward(self, x: Tensor, back: nn.Module) -> Tensor:
        """Call ``back``."""
        return back(x, None)


@program({"": Row(1, 1), "outer": Row(1, 1, calls=2), "outer.layer": Row(1, 1), "Helper": Row()})
def recursion_by_way_of_a_module_that_does_not_own_it(device: str) -> Made:
    """The product is one, in the layer; the helper, which nobody owns, has only called."""
    outer = Composed(
        lambda self, x, helper: helper(x, self) if helper else self.layer(x), layer=linear(device)
    )
    helper = [Helper()]
    model = Composed(lambda self, x: self.outer(x, helper[0]), outer=outer)
    x = batch(device)
    return model, lambda: descend(model(x))


@program({"": Row(3, 5), "body": Row(2, 3, calls=0), "body.0": Row(1, 1), "body.1": Row(1, 2)})
def submodules_whose_forward_is_called_by_hand(device: str) -> Made:
    """``forward()`` is no call: the body's layers are named, the head's product is the caller's."""
    model = Composed(
        lambda self, x: self.head.forward(self.body.forward(x)),
        body=chain(device, 2),
        head=linear(device),
    )
    x = batch(device)
    return model, lambda: descend(model(x))


class Coder(nn.Module):
    """Never called itself: it has methods."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.enc, self.dec = linear(device), linear(device)

    def encode(self, x: Tensor) -> Tensor:
        """Half of the way."""
        return self.enc(x)

    def loss(self, x: Tensor) -> Tensor:
        """All of it."""
        return self.dec(self.encode(x)).sum()


@program({"": Row(2, 3, calls=0), "enc": Row(1, 1), "dec": Row(1, 2)})
def a_method_of_the_model_instead_of_its_forward(device: str) -> Made:
    """enc and dec are found under the model's name: 1 U and 2 U back."""
    model, x = Coder(device), batch(device)
    return model, lambda: descend(model.loss(x))


@program({"": Row(2, 3), "coder": Row(1, 1, calls=0), "coder.enc": Row(1, 1), "head": Row(1, 2)})
def a_method_of_a_submodule(device: str) -> Made:
    """The submodule has a row, and no call."""
    model = Composed(
        lambda self, x: self.head(self.coder.encode(x)), coder=Coder(device), head=linear(device)
    )
    x = batch(device)
    return model, lambda: descend(model(x))


@program({"Composed": Row(), "Linear": Row(1, 1)})
def a_module_called_by_one_that_does_not_own_it(device: str) -> Made:
    """It is a root of its own, and its caller did nothing."""
    hidden = [linear(device)]
    model, x = Composed(lambda self, x: hidden[0](x)), batch(device)
    return None, lambda: descend(model(x))


@program(
    {
        "": Row(4, 4),
        "failing": Row(1),
        "failing.layer": Row(1),
        "best": Row(2, 3),
        "best.0": Row(1, 1),
        "best.1": Row(1, 2),
        "spare": Row(1, 1),
    },
    outside=Row(1),
)
def a_module_that_fails_and_is_caught_by_its_caller(device: str) -> Made:
    """What ran before the failure counts, 1 U forward, and nothing later comes under it."""

    def fail(self: Any, x: Tensor) -> Tensor:
        self.layer(x)
        raise ValueError

    def run(self: Any, x: Tensor) -> Tensor:
        with contextlib.suppress(ValueError):
            self.failing(x)
        return self.best(x) + self.spare(x)

    model = Composed(
        run,
        failing=Composed(fail, layer=linear(device)),
        best=chain(device, 2),
        spare=linear(device),
    )
    x = batch(device)

    def step() -> Any:
        loss = descend(model(x))
        return loss, x @ model.spare.weight

    return model, step


@program({"": Row(3, 2), "0": Row(1), "0.layer": Row(1), "1": Row(2, 2, calls=2)})
def a_failure_that_leaves_the_model_and_a_second_try(device: str) -> Made:
    """First "0" fails after its product; then "1" alone runs, twice: 2 U, and 1 U back each."""

    def fail(self: Any, x: Tensor) -> Tensor:
        self.layer(x)
        raise ValueError

    model = nn.Sequential(Composed(fail, layer=linear(device)), linear(device))
    x = batch(device)

    def step() -> Any:
        with contextlib.suppress(ValueError):
            model(x)
        return descend(model[1](x)), descend(model[1](x))

    return model, step
