"""Random programs, whose true cost is known by construction.

Each is run by torch under a counter, and by a machine that knows what autograd has to do. The two
must agree on the calls, phases and gradients of every module.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from flopcount import FlopCounter, Report
from tests.attribution.bookkeeper import Bookkeeper, Value
from tests.attribution.trees import (
    TORCH,
    Checkpointed,
    Layer,
    Part,
    Reentrant,
    Slope,
    Towers,
    trees,
)
from tests.attribution.units import U, batch


@dataclass(frozen=True)
class Truth:
    """What a module did: calls, products by phase, products by gradient."""

    calls: int
    products: dict[str, int]
    gradients: dict[str, int]


def of_report(report: Report) -> dict[str, Truth]:
    """What the counter saw, for each module that did anything."""
    found = {}
    for node in report.root.walk():
        products: Counter[str] = Counter()
        gradients: Counter[str] = Counter()
        for row in node.rows:
            products[row.phase] += row.cost.matmul_flops
            gradients.update({n: cost.matmul_flops for n, cost in row.gradients.items()})
        assert not any(flops % U for flops in (products + gradients).values())
        truth = Truth(
            node.calls,
            {phase: flops // U for phase, flops in products.items() if flops},
            {name: flops // U for name, flops in gradients.items() if flops},
        )
        if truth != Truth(0, {}, {}):
            found[node.path] = truth
    return found


def of_books(books: Bookkeeper) -> dict[str, Truth]:
    """What the bookkeeper wrote down, likewise."""
    return {
        path: Truth(
            calls,
            {phase: n for (owner, phase), n in books.products.items() if owner == path and n},
            {name: n for (owner, name), n in books.gradients.items() if owner == path and n},
        )
        for path, calls in books.calls.items()
    }


def compare(model: Part, grad: bool, backward: str, is_given: bool) -> None:
    """Run a step of ``model`` on both machines.

    Args:
        model: any tree.
        grad: whether its input wants a gradient.
        backward: run it "once", "twice" on the same graph, or "for the input" alone.
        is_given: whether the counter knows the model before it runs.
    """
    reentrant = any(isinstance(module, Reentrant) for module in model.modules())
    for_input = backward == "for the input" and grad and not reentrant  # torch forbids that
    times = 2 if backward == "twice" else 1
    books, x = Bookkeeper(), Value(grad)
    books.calls[""] = 1
    y = model.run(books, x)
    wanted = x in y.graph() if for_input else y.wanted
    for _ in range(times * wanted):
        books.backward(y, x if for_input else None)

    with FlopCounter(model if is_given else None) as counter:
        inputs = batch(grad=grad)
        output = TORCH.call(model, model, inputs)
        assert output.requires_grad == y.wanted
        for time in range(times * wanted):
            if for_input:
                torch.autograd.grad(output.sum(), inputs)
            else:
                output.sum().backward(retain_graph=time < times - 1)
    assert of_report(counter.report()) == of_books(books)


PROGRAMS = given(
    model=trees(),
    grad=st.sampled_from([True, True, False]),
    backward=st.sampled_from(["once", "twice", "for the input"]),
    is_given=st.booleans(),
)
EXAMPLES = settings(
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
class TestEachModuleOfARandomTree:
    @settings(EXAMPLES, max_examples=400)
    @PROGRAMS
    def test_does_what_autograd_has_to(self, **program: Any) -> None:
        compare(**program)

    def test_does_so_where_a_recomputation_is_stopped_in_a_pass_of_its_own(self) -> None:
        """The order of that pass tells what is still done, and what is not."""
        flags: dict[str, Any] = {"listed": False, "keyword": False, "wrapped": "tensor"}
        layers = [Layer(frozen=False, **flags) for _ in range(3)]
        towers = Towers(Reentrant(layers[1], **flags), layers[2], **flags)
        model = Checkpointed(Slope(layers[0], towers, **flags), **flags)
        compare(model, grad=True, backward="once", is_given=False)

    @pytest.mark.slow
    @settings(EXAMPLES, max_examples=10_000)
    @PROGRAMS
    def test_does_what_autograd_has_to_at_length(self, **program: Any) -> None:
        compare(**program)
