"""Random programs: trees of modules that are called, shared, detached and checkpointed.

Each part's ``run`` says what it does as calls of a machine. :class:`TorchMachine` executes them
with tensors; :class:`tests.attribution.bookkeeper.Bookkeeper` works out what they should cost, and
explains how. :func:`trees` draws a program for hypothesis.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from functools import partial, reduce
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.models import Product


class Fault(Exception):
    """Raised by parts that fail."""


class Part(nn.Module, ABC):
    """A module of a random program.

    It owns its children in a list or one by one, takes its input by position or by keyword, and
    returns a tensor, or a tuple or a dictionary with the tensor in it.
    """

    def __init__(self, *children: Part, listed: bool, keyword: bool, wrapped: str) -> None:
        super().__init__()
        self.keyword, self.wrapped = keyword, wrapped
        if listed:
            self.parts = nn.ModuleList(children)
        else:
            for name, child in zip("abc", children, strict=False):
                self.add_module(name, child)
        self.inner = list(children)
        names = [f"parts.{i}" if listed else "abc"[i] for i in range(len(children))]
        # a module that its caller owns twice has the first name
        self.names = dict(reversed(list(zip(map(id, children), names, strict=True))))

    def forward(self, x: Tensor) -> Any:
        y = self.run(TORCH, x)
        return {"tensor": y, "tuple": (y, None), "dict": {"y": y}}[self.wrapped]

    @abstractmethod
    def run(self, machine: Any, x: Any) -> Any:
        """What the part does, on any machine."""


class Layer(Part):
    """One product. A frozen weight wants no gradient."""

    def __init__(self, frozen: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.weight = nn.Parameter(torch.ones(8, 8) / 8, requires_grad=not frozen)

    def run(self, machine: Any, x: Any) -> Any:
        return machine.product(x, self.weight)


class Applied(Layer):
    """One product by a ``Function``, which does not say which gradients it computes."""

    def run(self, machine: Any, x: Any) -> Any:
        return machine.function(x, self.weight)


class Chain(Part):
    """Its children, one after the other."""

    def run(self, machine: Any, x: Any) -> Any:
        for child in self.inner:
            x = machine.call(self, child, x)
        return x


class Weighted(Chain):
    """Its children, and a product of its own before and after them."""

    own = "product"

    def __init__(self, *children: Part, **kwargs: Any) -> None:
        super().__init__(*children, **kwargs)
        self.weight = nn.Parameter(torch.ones(8, 8) / 8)

    def run(self, machine: Any, x: Any) -> Any:
        multiply = getattr(machine, self.own)
        return multiply(super().run(machine, multiply(x, self.weight)), self.weight)


class Towers(Part):
    """The sum of what its children make of one input."""

    def run(self, machine: Any, x: Any) -> Any:
        return reduce(machine.add, [machine.call(self, child, x) for child in self.inner])


class Twice(Chain):
    """Its children, applied again to what they make."""

    def run(self, machine: Any, x: Any) -> Any:
        return super().run(machine, super().run(machine, x))


class Saving(Chain):
    """Its children, and an op whose backward needs its result."""

    def run(self, machine: Any, x: Any) -> Any:
        return machine.tanh(super().run(machine, x))


class InPlace(Chain):
    """Its children, and an op in place on a view of their result."""

    def run(self, machine: Any, x: Any) -> Any:
        return machine.change_view(super().run(machine, x))


class Detached(Chain):
    """A branch that no gradient flows through."""

    def run(self, machine: Any, x: Any) -> Any:
        return machine.add(x, machine.detach(super().run(machine, x)))


class NoGrad(Chain):
    """A branch that autograd does not record."""

    def run(self, machine: Any, x: Any) -> Any:
        with machine.no_grad():
            branch = super().run(machine, x)
        return machine.add(x, branch)


class Failing(Chain):
    """Its children, and then an exception."""

    def run(self, machine: Any, x: Any) -> Any:
        super().run(machine, x)
        raise Fault


class Caught(Part):
    """A branch that fails, which the part catches."""

    def __init__(self, *children: Part, **kwargs: Any) -> None:
        super().__init__(Failing(*children, **kwargs), **kwargs)

    def run(self, machine: Any, x: Any) -> Any:
        with suppress(Fault):
            machine.call(self, self.inner[0], x)
        return x


class Slope(Chain):
    """The gradient of its children's result, by a backward pass inside forward."""

    def run(self, machine: Any, x: Any) -> Any:
        return machine.add(x, machine.slope(partial(super().run, machine), x))


class Checkpointed(Chain):
    """Its children in a checkpoint, which computes their activations again in backward."""

    reentrant = False

    def run(self, machine: Any, x: Any) -> Any:
        return machine.checkpoint(partial(super().run, machine), x, self.reentrant)


class CheckpointedProducts(Checkpointed, Weighted):
    """The same with products of its own, so the checkpoint has a function and not only modules."""


class CheckpointedFunctions(CheckpointedProducts):
    """The same, by functions of the program's own."""

    own = "function"


class Reentrant(Checkpointed):
    """A checkpoint that runs a backward pass inside backward."""

    reentrant = True


class ReentrantProducts(Reentrant, Weighted):
    """The same with products of its own."""


class ReentrantFunctions(ReentrantProducts):
    """The same, by functions of the program's own."""

    own = "function"


class Segments(Chain):
    """Each of its children in a checkpoint of its own."""

    reentrant = False

    def run(self, machine: Any, x: Any) -> Any:
        for child in self.inner:
            x = machine.checkpoint(partial(machine.call, self, child), x, self.reentrant)
        return x


class ReentrantSegments(Segments, Reentrant):
    """The same, reentrant."""

    reentrant = True


class TorchMachine:
    """Executes what a part says, with tensors."""

    product = staticmethod(torch.mm)
    function = staticmethod(Product.apply)
    add = staticmethod(torch.add)
    tanh = staticmethod(torch.tanh)
    detach = staticmethod(torch.detach)
    no_grad = staticmethod(torch.no_grad)

    def call(self, owner: Part, part: Part, x: Tensor) -> Tensor:
        y = part(x=x) if part.keyword else part(x)
        return y["y"] if isinstance(y, dict) else y[0] if isinstance(y, tuple) else y

    def change_view(self, x: Tensor) -> Tensor:
        x = x + 1
        x.view(2, 2, 8).relu_()
        return x

    def slope(self, function: Any, x: Tensor) -> Tensor:
        with torch.enable_grad():
            probe = x.detach().requires_grad_()
            function(probe).sum().backward()
        return probe.grad

    def checkpoint(self, function: Any, x: Tensor, reentrant: bool) -> Tensor:
        return checkpoint(function, x, use_reentrant=reentrant)


TORCH = TorchMachine()


CHECKPOINTS = [Checkpointed, CheckpointedProducts, Reentrant, ReentrantProducts]
CHECKPOINTS += [CheckpointedFunctions, ReentrantFunctions, Segments, ReentrantSegments]
KINDS = [
    *(Chain, Weighted, Towers, Twice, Saving, InPlace, Detached, NoGrad, Caught, Slope),
    *CHECKPOINTS,
]


@st.composite
def trees(
    draw: Any, depth: int = 4, known: list[Part] | None = None, kinds: Sequence[Any] = KINDS
) -> Part:
    """A random tree, in which some modules have several parents.

    When a checkpointed function runs again, only the node that wants its tensors tells which module
    the function belongs to. So what such a function calls is shared with no other part, or it would
    be found elsewhere. Its own products come last, or a node of another part would want tensors
    first.
    """
    known = [] if known is None else known
    if known and draw(st.integers(0, 5)) == 0:
        return draw(st.sampled_from(known))
    flags = {
        "listed": draw(st.booleans()),
        "keyword": draw(st.booleans()),
        "wrapped": draw(st.sampled_from(["tensor", "tuple", "dict"])),
    }
    if depth == 0 or (depth < 4 and draw(st.integers(0, 4)) == 0):
        kind = draw(st.sampled_from([Layer, Layer, Applied]))
        part: Part = kind(frozen=draw(st.integers(0, 2)) == 0, **flags)
    else:
        kind = draw(st.sampled_from(kinds))
        if issubclass(kind, CheckpointedProducts):
            kinds = [kind for kind in kinds if kind is not Slope]
        count = draw(st.integers(1, 3))
        apart = kind in CHECKPOINTS
        children = (draw(trees(depth - 1, [] if apart else known, kinds)) for _ in range(count))
        part = kind(*children, **flags)
    known.append(part)
    return part
