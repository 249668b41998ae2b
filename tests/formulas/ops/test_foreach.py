"""Ops on lists of tensors: each costs its base op, once for every tensor of the list."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import flopcount
from flopcount import Cost
from tests.formulas.decomposed import measured

SHAPES = [(5, 3), (7,)]
ELEMENTS = 5 * 3 + 7


@pytest.mark.parametrize(
    ("name", "arguments", "flops"),
    [
        pytest.param("add", (2.0,), 1, id="a number for all"),
        pytest.param("add", ([2.0, 3.0],), 1, id="a number for each"),
        pytest.param("mul", (torch.tensor(2.0),), 1, id="a tensor that holds one number"),
        pytest.param("sub", ("other",), 1, id="a list of tensors"),
        pytest.param("addcdiv", ("other", "other", 1.0), 2, id="a factor of one is no product"),
        pytest.param("addcmul", ("other", "other", 1.0), 2, id="nor is one with a product"),
        pytest.param("addcdiv", ("other", "other", [1.0, 2.0]), None, id="factors of their own"),
        pytest.param(
            "addcmul", ("other", "other", torch.tensor([2.0, 3.0])), 3, id="factors in a tensor"
        ),
        pytest.param("pow", (3,), 2, id="a power by products"),
        pytest.param("lerp", ("other", 0.3), 3, id="interpolation"),
        pytest.param("sigmoid", (), 4, id="a function of four steps"),
        pytest.param(
            "mm",
            ("square",),
            None,
            id="matrix products",
            marks=pytest.mark.skipif(
                not hasattr(torch, "_foreach_mm"), reason="this torch has no such op"
            ),
        ),
    ],
)
def test_an_op_on_lists_costs_its_base_op_for_each_tensor(
    name: str, arguments: tuple[Any, ...], flops: int | None
) -> None:
    shapes = [(4, 4), (4, 4)] if "square" in arguments else SHAPES
    stand_in = {"other": [torch.ones(s) for s in shapes], "square": [torch.ones(4, 4)] * 2}
    given = [stand_in.get(a, a) if isinstance(a, str) else a for a in arguments]
    tensors = [torch.ones(shape) for shape in shapes]
    with flopcount.FlopCounter() as counter:
        getattr(torch, f"_foreach_{name}")(tensors, *given)
    found = counter.report().by_operator()[f"aten._foreach_{name}"]
    expected = {
        "mm": 2 * (2 * 4 * 4 * 4),
        "addcdiv": 2 * 15 + 3 * 7,  # the second factor is a product more
    }
    assert found.flops == (flops * ELEMENTS if flops is not None else expected[name])


TRANSCENDENTAL = (
    "acos asin atan cos cosh erf erfc exp expm1 lgamma log log10 log1p log2 sin sinh tan tanh"
)


@pytest.mark.parametrize(
    ("names", "each"),
    [
        pytest.param("abs ceil floor neg round sign trunc", Cost(compare=1), id="a selection"),
        pytest.param("frac", Cost(arith=1, compare=1), id="what a rounding takes away"),
        pytest.param("reciprocal sqrt", Cost(arith=1), id="a division, a root"),
        pytest.param("rsqrt", Cost(arith=2), id="a division and a root"),
        pytest.param(TRANSCENDENTAL, Cost(special=1), id="a function"),
    ],
)
def test_a_function_of_lists_is_one_of_each_element(names: str, each: Cost) -> None:
    tensors = [torch.ones(shape) for shape in SHAPES]
    for name in names.split():
        assert measured(getattr(torch, f"_foreach_{name}"), tensors) == ELEMENTS * each, name


@pytest.mark.parametrize("name", ["clamp_max", "clamp_min", "maximum", "minimum"])
def test_bounds_of_lists_are_a_comparison_of_each_element(name: str) -> None:
    tensors = [torch.ones(shape) for shape in SHAPES]
    for bound in (0.5, [0.5, 2.0], tensors):
        cost = measured(getattr(torch, f"_foreach_{name}"), tensors, bound)
        assert cost == Cost(compare=ELEMENTS)


def test_the_largest_of_each_list_is_found_by_a_comparison_less_than_elements() -> None:
    cost = measured(torch._foreach_max, [torch.ones(shape) for shape in SHAPES])
    assert cost == Cost(compare=(5 * 3 - 1) + (7 - 1))


def test_every_op_on_lists_that_torch_has_is_decided() -> None:
    from flopcount.formulas import Decision, plan_of

    packets = {
        name.split(".")[0].removeprefix("aten::")
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("aten::_foreach_")
    }
    undecided = {
        name
        for name in packets
        for overload in getattr(torch.ops.aten, name).overloads()
        if plan_of(getattr(getattr(torch.ops.aten, name), overload)).decision is Decision.UNCOUNTED
    }
    assert undecided <= {"_foreach_powsum"}
