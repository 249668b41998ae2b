"""How a call is handed to its formula."""

from __future__ import annotations

from inspect import signature
from typing import Any

import pytest
import torch

from flopcount import FlopCounter
from flopcount.cost import ZERO
from flopcount.formulas import Decision, plan_of
from flopcount.torch_private.ops import all_overloads, schema_of

aten = torch.ops.aten


def bound(overload: Any, *, whole: bool) -> bool:
    """Whether the overload's formula takes its arguments, all or as few as there may be."""
    given, named = [], {}
    for argument in schema_of(overload).arguments:
        is_place = argument.kwarg_only and argument.alias_info is not None
        if is_place or not (whole or not argument.has_default_value()):
            continue
        if argument.kwarg_only:
            named[argument.name] = None
        else:
            given.append(None)
    try:
        signature(plan_of(overload).rule.formula).bind(*given, **named, out=None)
    except TypeError:
        return False
    return True


def test_every_formula_takes_the_arguments_of_all_overloads_of_its_op() -> None:
    counted = [op for op in all_overloads() if plan_of(op).decision is Decision.FORMULA]
    assert len(counted) > 1000
    assert [op.name() for op in counted if not bound(op, whole=True)] == []
    assert [op.name() for op in counted if not bound(op, whole=False)] == []


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
