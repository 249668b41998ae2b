"""What a counter keeps between blocks, and what it lets go."""

from __future__ import annotations

import gc
import inspect
import weakref
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import flopcount
from flopcount import Cost, FlopCounter, UncountedOpWarning
from flopcount.formulas import Uncountable, plan, plan_of, registry


def test_reset_lets_go_of_everything() -> None:
    counter = FlopCounter()
    for size in range(1, 40):
        counter.reset()
        with counter:
            torch.ones(size).relu()
    assert len(counter._local.tally.counted) <= 3


def test_blocks_with_formulas_of_their_own_bring_nothing_new() -> None:
    counter = FlopCounter(formulas={torch.ops.aten.relu: lambda x, *, out: Cost(arith=7)})
    sizes = []
    for _ in range(5):
        with counter:
            torch.ones(3).relu()
        sizes.append((len(counter._local.tally.counted), len(counter._handlers._known)))
    assert len(set(sizes)) == 1
    assert counter.report().total.arith == 5 * 7


def test_a_second_counter_finds_the_bills_of_the_first() -> None:
    asked: list[torch.Size] = []

    @torch.library.custom_op("upkeep_test::asked", mutates_args=())
    def op(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @flopcount.formula("upkeep_test::asked")
    def cost(x: torch.Tensor, *, out: torch.Tensor) -> Cost:
        asked.append(x.shape)
        return Cost(arith=x.numel())

    reports = []
    for size in (3, 3, 4):
        with FlopCounter() as counter:
            op(torch.ones(size))
        reports.append(counter.report().total.arith)
    assert (reports, asked) == ([3, 3, 4], [(3,), (4,)])


def test_the_bills_of_an_op_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "BILL_LIMIT", 10)
    with FlopCounter() as counter:
        for size in range(1, 40):
            torch.ones(size).relu()
    assert len(plan_of(torch.ops.aten.relu.default).bills) <= 10
    assert counter.report().total.compare == sum(range(1, 40))


def test_a_formula_that_is_registered_between_two_blocks_counts_in_the_second() -> None:
    @torch.library.custom_op("upkeep_test::later", mutates_args=())
    def later(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    counter = FlopCounter()
    with counter:
        later(torch.ones(3))
    assert counter.report().uncounted == {"upkeep_test.later": 1}
    flopcount.formula("upkeep_test::later")(lambda x, *, out: Cost(arith=5))
    with counter:
        later(torch.ones(3))
    assert counter.report().total.arith == 5
    assert counter.report().uncounted == {"upkeep_test.later": 1}


@registry.replaced()
def test_a_formula_that_is_registered_late_replaces_the_handler_that_torch_knows() -> None:
    counter, x = FlopCounter(), torch.ones(6)
    with counter:
        x.view(2, 3)  # a view: it passes
    assert not counter.report().entries
    flopcount.formula(torch.ops.aten.view)(lambda x, *args, out: Cost(arith=5))
    with counter:
        x.view(2, 3)
        x.view(2, 3)
    assert counter.report().total.arith == 10


@registry.replaced()
def test_a_formula_that_is_registered_inside_a_block_counts_at_once() -> None:
    x = torch.ones(6)
    with FlopCounter():
        x.view(2, 3)
    with FlopCounter() as counter:
        flopcount.formula(torch.ops.aten.view)(lambda x, *args, out: Cost(arith=5))
        x.view(2, 3)
    assert counter.report().total.arith == 5


def test_a_formula_that_takes_the_place_of_another_counts_at_once() -> None:
    x = torch.ones(6)
    costs = []
    with FlopCounter() as counter:
        x.exp()
        costs.append(counter.report().total.special)
        twice = partial(replace, formula=lambda x, *, out: Cost(special=2 * x.numel()))
        with registry.replaced(lambda name, rule: twice(rule) if name == "aten::exp" else rule):
            x.exp()
            costs.append(counter.report().total.special)
        x.exp()
        costs.append(counter.report().total.special)
    assert costs == [6, 6 + 12, 6 + 12 + 6]


def test_a_bill_is_that_of_the_default_dtype() -> None:
    whole = torch.arange(6)
    both = FlopCounter()
    moved = []
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        try:
            with FlopCounter() as counter, both:
                whole / 2
        finally:
            torch.set_default_dtype(torch.float32)
        (row,) = counter.report().rows()
        moved.append((row["dtype"], row["written"]))
    assert moved == [("float32", 6 * 4), ("float64", 6 * 8)]
    assert [(row["dtype"], row["written"]) for row in both.report().rows()] == moved


def test_a_sparse_tensor_is_not_taken_for_an_expanded_one() -> None:
    costs = []
    for x in (torch.eye(6).to_sparse(), torch.ones(()).expand(6, 6), torch.ones(6, 6)):
        with FlopCounter() as counter:
            x * 2
        costs.append(counter.report().total.flops)
    assert costs == [6, 36, 36]


def test_its_signature_is_that_of_its_arguments() -> None:
    parameters = list(inspect.signature(FlopCounter).parameters)
    assert parameters == ["model", "others", "formulas", "strict"]


def test_formulas_of_one_counter_are_unknown_to_the_others() -> None:
    x = torch.ones(3)
    seven = lambda x, *args, out: Cost(arith=7)  # noqa: E731
    with FlopCounter() as outer, FlopCounter(formulas={torch.ops.aten.relu: seven}) as inner:
        x.relu()
        x.view(3)
    with FlopCounter(formulas={torch.ops.aten.view: seven}) as viewer:
        x.relu()
        x.view(3)
    assert (outer.report().total.arith, outer.report().total.compare) == (0, 3)
    assert (inner.report().total.arith, inner.report().total.compare) == (7, 0)
    assert (viewer.report().total.arith, viewer.report().total.compare) == (7, 3)


def test_a_dead_counter_leaves_nothing_of_the_program_alive() -> None:
    model = nn.Linear(4, 4)
    counter = FlopCounter(model)
    with counter:
        model(torch.ones(2, 4)).sum().backward()
    alive = [weakref.ref(thing) for thing in (model, model.weight, counter)]
    del model, counter
    gc.collect()
    assert [reference() for reference in alive] == [None, None, None]


def test_a_formula_that_returns_no_cost_leaves_the_op_uncounted() -> None:
    formulas = {torch.ops.aten.relu: lambda x, *, out: None}
    counter = FlopCounter(formulas=formulas)  # type: ignore[arg-type]  # None is the mistake
    with counter:
        torch.ones(3).relu()
    with pytest.warns(UncountedOpWarning, match="expected a Cost or Gradients"):
        report = counter.report()
    assert report.uncounted == {"aten.relu": 1}


def test_calls_of_one_op_are_counted_and_uncounted_apart() -> None:
    def of_vectors(x: Tensor, *, out: Tensor) -> Cost:
        if x.dim() != 1:
            raise Uncountable("matrices")
        return Cost(compare=out.numel())

    with FlopCounter(formulas={torch.ops.aten.relu: of_vectors}) as counter:
        torch.relu(torch.ones(10))
        torch.relu(torch.ones(10, 2))
    assert counter.report().uncounted == {"aten.relu": 1}
    assert counter.report().total.flops == 10
