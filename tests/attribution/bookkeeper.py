"""A second autograd, without numbers, that says what the first one has to do.

Why: which module and phase a product belongs to is only interesting in programs that nobody would
derive by hand, such as a checkpoint inside a checkpoint whose function calls ``backward()``. So the
tests make such programs at random (``trees.py``) and work out the right rows a second way, which
shares nothing with the counter: no hooks, no log of nodes, no look at Python's frames.

How: a program is a tree of ``Part`` modules, and each part says what it does as calls of a machine:
``machine.product(x, weight)``, ``machine.checkpoint(function, x, ...)`` and so on. ``TorchMachine``
does it with tensors, under a counter. The ``Bookkeeper`` does it with ``Value`` objects, which have
no numbers, only a history, and writes down three tallies by module path:

- ``calls``: how often the module was called in the forward phase;
- ``products[path, phase]``: how many matrix products ran;
- ``gradients[path, "input" or "weight"]``: what those of the backward phase computed.

All products have one size, so the counter's FLOPs, divided by those of one product, must be equal.

The model of autograd, in the order of the code below:

1. A product makes a node if a factor wants a gradient and recording is on. In backward the node
   takes one product for each factor that wants a gradient: the input, the weight or both. In a
   pass for the model's input alone it leaves out the weight; a ``Function`` does not know that.
2. Backward runs each node once, from the last made to the first, if its gradient leads to anything
   that is asked for.
3. A non-reentrant checkpoint does not keep what its nodes save, but counts it, in a ``Frame``. The
   first node of the frame that backward runs computes the function again, once in a pass, and only
   up to the last tensor that was saved (``LastTensorIsThere``). A node inside two checkpoints
   recomputes the outer one first.
4. A reentrant checkpoint runs its function unrecorded. Its one node runs the function again,
   recorded, and then a backward pass of its own on the result.

For example, a non-reentrant checkpoint of two layers ``a`` and ``b`` on an input that wants no
gradient: forward runs two products. Backward reaches the node of ``b`` first, whose saved input is
gone. ``a`` is computed again (one product, ``recompute``); then ``b`` saves its input, which is the
last tensor wanted, so its product does not run again. ``b`` takes two products for its gradients,
``a`` one. ``books.products`` is ``{("a", "forward"): 1, ("b", "forward"): 1, ("a", "recompute"): 1,
("b", "backward"): 2, ("a", "backward"): 1}``.
"""

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
    """Ends a recomputation once all the tensors that it was for are there."""


@dataclass(eq=False)
class Frame:
    """One run of a non-reentrant checkpoint's function: how many tensors autograd saved in it.

    Attributes:
        again: computes the tensors again; None during recomputation, which keeps them.
        outer: the checkpoint around this one, in which its input was saved.
        saved: how many tensors were saved so far.
        enough: at how many a recomputation stops.
    """

    again: Callable[[], Any] | None = None
    outer: Frame | None = None
    saved: int = 0
    enough: int | None = None


@dataclass(eq=False)
class Value:
    """A tensor, and the autograd node that made it, if it wants a gradient.

    Attributes:
        wanted: whether it wants a gradient.
        sources: the tensors that its gradient flows on to.
        saved_in: the checkpoint that computes the node's saved tensors again.
        path: the module that made it.
        weight: if it is a product, the weight.
        is_function: whether a ``Function`` of the program's own computed it.
        again: what the node of a reentrant checkpoint runs in backward.
        number: grows from node to node, as autograd's sequence numbers do.
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
        """This node and all that backward reaches from it, in the order in which they run.

        The last made runs first. The order matters where a recomputation runs a pass of its own
        and is stopped in the middle of it.
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
    """Runs a program without numbers, and tallies its products by module, phase and gradient.

    Attributes:
        calls, products, gradients: the tallies.
        path: the module that runs now.
        phase: the phase that products belong to now.
        records: whether autograd records now.
        frame: the innermost checkpoint that is open now.
    """

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
        """Save a node's tensor in the innermost open checkpoint, and return that."""
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
        """A product, whose factors are saved before it runs, since gradients need them."""
        wanted = self.records and (x.wanted or weight.requires_grad)
        frame = self.save() if wanted else None
        self.products[self.path, self.phase] += 1
        return Value(wanted, (x,), frame, self.path, weight)

    def function(self, x: Value, weight: nn.Parameter) -> Value:
        """A product by a ``Function``, whose factors are saved after it has run."""
        wanted = self.records and (x.wanted or weight.requires_grad)
        self.products[self.path, self.phase] += 1
        frame = self.save() if wanted else None
        return Value(wanted, (x,), frame, self.path, weight, is_function=True)

    def add(self, *terms: Value) -> Value:
        """A sum, which saves nothing."""
        return Value(self.records and any(term.wanted for term in terms), terms)

    def tanh(self, x: Value) -> Value:
        """An op that saves its result."""
        wanted = self.records and x.wanted
        return Value(wanted, (x,), self.save() if wanted else None)

    change_view = tanh  # a ReLU in place saves its result too

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
        """Save the input in the checkpoint outside, then run the function in a frame of its own."""
        outer, path = self.save(), self.path

        def again() -> None:
            with self.where(path=path, records=True, phase=RECOMPUTE):
                function(x)

        with self.where(frame=Frame(again, outer)):
            return function(x)

    def reentrant(self, function: Any, x: Value) -> Value:
        """Run the function unrecorded, then save its input.

        Backward runs it again, recorded, and then backward on its result. If the input wants no
        gradient, the checkpoint has no node, and none of this happens.
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
        """Run each node of ``y`` whose gradient leads to ``only``, or all of them for None."""
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
        """Run a checkpoint's function again, if this pass has not, up to its last saved tensor."""
        if frame in done or frame.again is None:
            return
        done.add(frame)
        if frame.outer is not None:
            self.recompute(frame.outer, done)
        with suppress(LastTensorIsThere), self.where(frame=Frame(enough=frame.saved)):
            frame.again()
