"""How a call is handed to its formula."""

from __future__ import annotations

from dataclasses import replace
from inspect import signature
from typing import Any

import pytest
import torch
from torch import Tensor

from flopcount import Cost, FlopCounter, formula
from flopcount.cost import ZERO
from flopcount.formulas import Bill, Decision, plan_of, registry
from flopcount.torch_private.ops import all_overloads, schema_of

aten = torch.ops.aten


def bound(overload: Any, *, whole: bool) -> bool:
    """Whether the overload's formula takes its arguments, all or as few as there may be."""
    taken = [
        argument
        for place, argument in enumerate(schema_of(overload).arguments)
        if not (argument.kwarg_only and argument.alias_info is not None)  # a place for a result
        and place not in plan_of(overload).places
        and (whole or not argument.has_default_value())
    ]
    given: list[None] = [None for argument in taken if not argument.kwarg_only]
    named = {argument.name: None for argument in taken if argument.kwarg_only}
    rule = plan_of(overload).rule
    if rule.by_name:
        given, named = [], dict.fromkeys(argument.name for argument in taken)
    try:
        signature(rule.formula).bind(*given, **{**named, "out": None})
    except TypeError:
        return False
    return True


def test_every_formula_takes_the_arguments_of_all_overloads_of_its_op() -> None:
    counted = [op for op in all_overloads() if plan_of(op).decision is Decision.FORMULA]
    assert len(counted) > 1000
    assert [op.name() for op in counted if not bound(op, whole=True)] == []
    assert [op.name() for op in counted if not bound(op, whole=False)] == []


def test_a_formula_by_name_serves_ops_with_several_orders_of_arguments() -> None:
    torch.library.define("plan_tests::one", "(Tensor x, int n, int scale=2) -> Tensor")
    torch.library.define("plan_tests::two", "(Tensor out, int new, Tensor x, *, int n) -> Tensor")
    ops = torch.ops.plan_tests

    @registry.replaced()
    def bills() -> list[Bill]:
        @formula(ops.one, ops.two, "plan_tests::of_other_builds", by_name=True)
        def cost(*, x: Tensor, n: int, scale: int = 1, out: Tensor, **others: Any) -> Cost:
            return Cost(arith=scale * n * out.numel(), compare=x.numel(), special=len(others))

        x, out, other = torch.ones(2), torch.ones(3), torch.ones(5)
        return [
            plan_of(ops.one.default).bill([x, 7], {}, out),
            plan_of(ops.one.default).bill([x], {"n": 7, "scale": 2}, out),
            plan_of(ops.two.default).bill([other, 1, x], {"n": 7}, out),
        ]

    costs = [replace(bill.cost, read=0, written=0) for bill in bills()]
    assert costs == [Cost(arith=2 * 7 * 3, compare=2)] * 2 + [
        Cost(arith=7 * 3, compare=2, special=1)
    ]


x = torch.rand(2, 3, 4, 4)
channels = [torch.rand(3) for _ in range(4)]


@pytest.mark.parametrize(
    ("overload", "args", "options", "places"),
    [
        pytest.param(aten.adaptive_max_pool2d.out, ([2, 2],), {}, ("out", "indices"), id="pooled"),
        pytest.param(
            aten.native_batch_norm.out,
            (*channels, True, 0.1, 1e-5),
            {},
            ("out", "save_mean", "save_invstd"),
            id="normalised",
        ),
        pytest.param(
            aten._unique2.out, (True, False, True), {}, ("out0", "out1", "out2"), id="numbered"
        ),
        pytest.param(
            aten.sort.values_stable, (), {"stable": True}, ("values", "indices"), id="an option"
        ),
    ],
)
def test_places_for_results_are_no_operands(
    overload: Any, args: Any, options: dict[str, Any], places: tuple[str, ...]
) -> None:
    with FlopCounter() as functional:
        results = overload.overloadpacket(x, *args, **options)
    into = {name: result.clone() for name, result in zip(places, results, strict=True)}
    with FlopCounter() as placed:
        overload(x, *args, **options, **into)
    assert placed.report().uncounted == {}
    assert placed.report().total == functional.report().total != ZERO
