"""A machine that computes nothing, and knows what autograd has to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from torch import nn

from flopcount.attribution.phase import BACKWARD, FORWARD, RECOMPUTE
from tests.attribution.trees import Part


class LastTensorIsThere(Exception):
    """Recomputation need not go on."""


@dataclass(eq=False)
class Frame:
    """Where a checkpoint that is not reentrant keeps account of what autograd saves.

    Attributes:
        again: what computes them again; None while it does, when they are at hand.
        outer: the checkpoint that its own input was saved in.
        saved: how many tensors were saved in it.
        enough: how many are wanted, when it is recomputed.
    """

    again: Callable[[], Any] | None = None
    outer: Frame | None = None
    saved: int = 0
    enough: int | None = None


@dataclass(eq=False)
class Value:
    """A tensor, and the autograd node that made it, if it wants a gradient.

    Attributes:
        sources: the tensors that its gradient flows on to.
        saved_in: the checkpoint that the node's saved tensors are to be had from.
        path: the module that made it.
        weight: the weight that it is a product with.
        is_function: the product is one of the program's own.
        again: what runs in place of a derivative.
        number: grows from node to node.
    """

    wanted: bool
    sources: tuple[Value, ...] = ()
    saved_in: Frame | None = None
    path: str = ""
    weight: nn.Parameter | None = None
    is_function: bool = False
    again: Callable[[], None] | None = None
    number: int = field(default_factory=count().__next__)

    def graph(self) -> list[Value]:
        """This node and all that backward reaches from it; autograd runs the last made first.

        The order tells what a recomputation does that runs a pass of its own, and is stopped in it.
        """
        nodes: set[Value] = set()
        waiting = [self]
        while waiting:
            value = waiting.pop()
            if value.wanted and value not in nodes:
                nodes.add(value)
                waiting += value.sources
        return sorted(nodes, key=lambda node: node.number, reverse=True)


@dataclass
class Bookkeeper:
    """Keeps account, by module, of the products that a program takes, and why it takes them."""

    calls: Counter[str] = field(default_factory=Counter)
    products: Counter[tuple[str, str]] = field(default_factory=Counter)
    gradients: Counter[tuple[str, str]] = field(default_factory=Counter)
    path: str = ""
    phase: str = FORWARD
    records: bool = True
    frame: Frame | None = None

    @contextmanager
    def where(self, **state: Any) -> Iterator[None]:
        before = {name: getattr(self, name) for name in state}
        vars(self).update(state)
        try:
            yield
        finally:
            vars(self).update(before)

    def save(self) -> Frame | None:
        """A node saves tensors: in the innermost checkpoint that is open."""
        frame = self.frame
        if frame is not None:
            frame.saved += 1
            if frame.saved == frame.enough:
                raise LastTensorIsThere
        return frame

    def call(self, owner: Part, part: Part, x: Value) -> Value:
        name = owner.names[id(part)]
        with self.where(path=f"{self.path}.{name}" if self.path else name):
            self.calls[self.path] += self.phase == FORWARD
            return part.run(self, x)

    def product(self, x: Value, weight: nn.Parameter) -> Value:
        """The gradient of each factor is a product with the other, which is saved before."""
        wanted = self.records and (x.wanted or weight.requires_grad)
        frame = self.save() if wanted else None
        self.products[self.path, self.phase] += 1
        return Value(wanted, (x,), frame, self.path, weight)

    def function(self, x: Value, weight: nn.Parameter) -> Value:
        """Its factors are saved when it has run; it computes whatever may be wanted."""
        wanted = self.records and (x.wanted or weight.requires_grad)
        self.products[self.path, self.phase] += 1
        frame = self.save() if wanted else None
        return Value(wanted, (x,), frame, self.path, weight, is_function=True)

    def add(self, *terms: Value) -> Value:
        """Nothing is saved."""
        return Value(self.records and any(term.wanted for term in terms), terms)

    def tanh(self, x: Value) -> Value:
        """The result is saved."""
        wanted = self.records and x.wanted
        return Value(wanted, (x,), self.save() if wanted else None)

    change_view = tanh  # so it is by a ReLU in place, whoever looks at the tensor

    def detach(self, x: Value) -> Value:
        return Value(wanted=False)

    def no_grad(self) -> Any:
        return self.where(records=False)

    def slope(self, function: Any, x: Value) -> Value:
        with self.where(records=True):
            self.backward(function(Value(wanted=True)))
        return Value(wanted=False)

    def checkpoint(self, function: Any, x: Value, reentrant: bool) -> Value:
        if not self.records:
            return function(x)
        return (self.reentrant if reentrant else self.not_reentrant)(function, x)

    def not_reentrant(self, function: Any, x: Value) -> Value:
        """The input is saved outside; then the function runs, and hands its tensors to a frame."""
        outer, path = self.save(), self.path

        def again() -> None:
            with self.where(path=path, records=True, phase=RECOMPUTE):
                function(x)

        with self.where(frame=Frame(again, outer)):
            return function(x)

    def reentrant(self, function: Any, x: Value) -> Value:
        """The function runs unrecorded, and its input is saved thereafter.

        Backward runs it again, recorded, and differentiates it on the spot. Without a gradient
        of its input it is not differentiated at all.
        """
        with self.no_grad():
            function(x)
        if not x.wanted:
            return Value(wanted=False)
        path = self.path

        def again() -> None:
            with self.where(path=path, records=True, phase=RECOMPUTE):
                y = function(Value(wanted=True))
            self.backward(y)

        return Value(True, (x,), self.save(), again=again)

    def backward(self, y: Value, only: Value | None = None) -> None:
        """Each node runs once, if its gradient leads to anything that is asked for."""
        done: set[Frame] = set()
        for node in y.graph():
            if only is not None and only not in node.graph():
                continue
            if node.saved_in is not None:
                self.recompute(node.saved_in, done)
            if node.weight is not None:
                factor, every = node.sources[0], only is None or node.is_function
                by_input = factor.wanted and (every or only in factor.graph())
                by_weight = node.weight.requires_grad and every
                self.products[node.path, BACKWARD] += by_input + by_weight
                if not node.is_function:
                    self.gradients[node.path, "input"] += by_input
                    self.gradients[node.path, "weight"] += by_weight
            if node.again is not None:
                node.again()

    def recompute(self, frame: Frame, done: set[Frame]) -> None:
        """Once in a pass, up to the last tensor that was saved."""
        if frame in done or frame.again is None:
            return
        done.add(frame)
        if frame.outer is not None:
            self.recompute(frame.outer, done)
        with suppress(LastTensorIsThere), self.where(frame=Frame(enough=frame.saved)):
            frame.again()
