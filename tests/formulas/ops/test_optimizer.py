from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer

import flopcount
from flopcount import Cost, Report
from tests.formulas.decomposed import measured

SHAPES = [(5, 3), (7,)]
ELEMENTS = 5 * 3 + 7
FOR_LOOP, FOREACH, FUSED = {"foreach": False}, {"foreach": True}, {"fused": True}


def parameters() -> list[torch.nn.Parameter]:
    made = [torch.nn.Parameter(torch.ones(shape)) for shape in SHAPES]
    for parameter in made:
        parameter.grad = torch.ones_like(parameter)
    return made


def stepped(kind: Callable[..., Optimizer], steps: int = 2, **options: Any) -> Report:
    """The last of so many steps."""
    optimizer = kind(parameters(), lr=0.1, **options)
    for _ in range(steps):
        with flopcount.FlopCounter() as counter:
            optimizer.step()
    report = counter.report()
    assert not report.uncounted
    return report


ADAM = {
    "exp_avg.lerp_(grad, c)": 3,
    "exp_avg_sq.mul_(c)": 1,
    "exp_avg_sq.addcmul_(grad, grad, c)": 3,
    "exp_avg_sq.sqrt()": 1,
    "/ c": 1,
    "+ eps": 1,
    "param.addcdiv_(exp_avg, denominator, c)": 3,
}
ADAGRAD = {
    "sum.addcmul_(grad, grad)": 2,
    "sum.sqrt()": 1,
    "+ eps": 1,
    "param.addcdiv_(grad, root, c)": 3,
}
DECAY = {"grad.add(param, alpha=decay)": 2}
UPDATE = {"param.add_(grad, alpha=-lr)": 2}

CASES = [
    pytest.param(Adam, {}, ADAM, id="Adam: 13 an element"),
    pytest.param(Adam, {"weight_decay": 0.1}, ADAM | DECAY, id="Adam with weight decay: 15"),
    pytest.param(Adam, {"amsgrad": True}, ADAM | {"maximum": 1}, id="AMSGrad: 14"),
    pytest.param(Adam, {"maximize": True}, ADAM | {"-grad": 1}, id="Adam that maximizes: 14"),
    pytest.param(AdamW, {}, ADAM | {"param.mul_(1 - lr·decay)": 1}, id="AdamW: 14"),
    pytest.param(AdamW, {"weight_decay": 0.0}, ADAM, id="AdamW without decay: Adam"),
    pytest.param(Adagrad, {}, ADAGRAD, id="Adagrad: 7"),
    pytest.param(Adagrad, {"weight_decay": 0.1}, ADAGRAD | DECAY, id="Adagrad with decay: 9"),
    pytest.param(SGD, {}, UPDATE, id="SGD: 2"),
    pytest.param(SGD, {"weight_decay": 0.1}, UPDATE | DECAY, id="SGD with decay: 4"),
    pytest.param(SGD, {"maximize": True}, UPDATE | {"-grad": 1}, id="SGD that maximizes: 3"),
    pytest.param(
        SGD,
        {"momentum": 0.9},
        UPDATE | {"buffer.mul_(c)": 1, "buffer.add_(grad)": 1},
        id="momentum: 4",
    ),
    pytest.param(
        SGD,
        {"momentum": 0.9, "dampening": 0.5},
        UPDATE | {"buffer.mul_(c)": 1, "buffer.add_(grad, c)": 2},
        id="dampened momentum: 5",
    ),
    pytest.param(
        SGD,
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
        UPDATE | DECAY | {"buffer.mul_(c)": 1, "buffer.add_(grad)": 1, "grad.add(buffer, c)": 2},
        id="Nesterov momentum with decay: 8",
    ),
]


@pytest.mark.parametrize("implementation", [FOR_LOOP, FOREACH, FUSED], ids=str)
@pytest.mark.parametrize(("kind", "options", "steps"), CASES)
def test_a_step_costs_the_sum_of_its_ops(
    kind: type[Optimizer],
    options: dict[str, Any],
    steps: dict[str, int],
    implementation: dict[str, bool],
) -> None:
    report = stepped(kind, **options, **implementation)
    counters = 0 if kind is SGD else len(SHAPES)  # each parameter's step counter, plus one
    assert report.total.flops == ELEMENTS * sum(steps.values()) + counters
    assert report.phases["optimizer"] == report.total


@pytest.mark.parametrize(
    ("kind", "options", "flops"),
    [
        pytest.param(Adam, {}, 768_000 + 64_000, id="Adam, roots counted apart"),
        pytest.param(SGD, {}, 128_000, id="SGD"),
        pytest.param(SGD, {"momentum": 0.9, "weight_decay": 0.1}, 384_000, id="momentum, decay"),
    ],
)
def test_xla_counts_as_many_for_64_by_1000_elements(
    kind: type[Optimizer], options: dict[str, Any], flops: int
) -> None:
    parameter = torch.nn.Parameter(torch.ones(64, 1000))
    parameter.grad = torch.ones_like(parameter)
    optimizer = kind([parameter], lr=0.1, fused=True, **options)
    optimizer.step()
    with flopcount.FlopCounter() as counter:
        optimizer.step()
    fused = [c for op, c in counter.report().by_operator().items() if "fused" in op]
    assert [cost.flops for cost in fused] == [flops]


@pytest.mark.parametrize("implementation", [FOR_LOOP, FOREACH, FUSED], ids=str)
def test_momentum_begins_as_a_copy_of_the_gradient(implementation: dict[str, bool]) -> None:
    first = stepped(SGD, steps=1, momentum=0.9, **implementation)
    assert first.total.flops == 2 * ELEMENTS


def test_the_learning_rate_may_be_a_tensor() -> None:
    for kind in (Adam, AdamW, SGD, Adagrad):
        number = stepped(kind, fused=True).total
        optimizer = kind(parameters(), lr=torch.tensor(0.1), fused=True)
        with flopcount.FlopCounter() as counter:
            optimizer.step()
        assert counter.report().total.flops == number.flops


def test_fused_adam_reads_four_tensors_and_writes_three() -> None:
    row = stepped(Adam, fused=True).by_operator()["aten._fused_adam_"]
    steps = 4 * len(SHAPES)  # a counter of 4 bytes each
    assert row.read == 4 * 4 * ELEMENTS + steps  # parameter, gradient, two moments
    assert row.written == 3 * 4 * ELEMENTS


def test_momentum_is_not_read_in_the_first_step() -> None:
    first = stepped(SGD, steps=1, momentum=0.9, fused=True).by_operator()["aten._fused_sgd_"]
    later = stepped(SGD, steps=2, momentum=0.9, fused=True).by_operator()["aten._fused_sgd_"]
    assert (first.read, later.read) == (2 * 4 * ELEMENTS, 3 * 4 * ELEMENTS)
    assert first.written == later.written == 2 * 4 * ELEMENTS


def test_a_scaled_gradient_is_divided_and_written_back() -> None:
    lists = [[torch.ones(shape) for shape in SHAPES] for _ in range(3)]
    options = {
        "weight_decay": 0.0,
        "momentum": 0.9,
        "lr": 0.1,
        "dampening": 0.0,
        "nesterov": False,
        "maximize": False,
        "is_first_step": False,
    }
    with flopcount.FlopCounter() as counter:
        torch._fused_sgd_(*lists, **options, grad_scale=torch.ones(1), found_inf=torch.zeros(1))
    fused = counter.report().by_operator()["aten._fused_sgd_"]
    assert fused.flops == (1 + 4) * ELEMENTS
    assert fused.written == 3 * 4 * ELEMENTS


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


def test_clipping_the_norm_of_gradients() -> None:
    given = parameters()
    with flopcount.FlopCounter() as counter:
        torch.nn.utils.clip_grad_norm_(given, 1.0, foreach=True)
    report = counter.report()
    costs = report.by_operator()
    assert not report.uncounted
    # squares, and their sum and its root for each of the two
    assert costs["aten._foreach_norm"].flops == ELEMENTS + (ELEMENTS - 2) + 2
    assert costs["aten.linalg_vector_norm"].flops == 2 + 1 + 1
    assert costs["aten._foreach_mul_"].flops == ELEMENTS


def test_a_gradient_scaler_unscales_and_checks() -> None:
    given = parameters()
    scaler = torch.amp.GradScaler("cpu")
    optimizer = SGD(given, lr=0.1, foreach=True)
    scaler.scale(torch.ones(()))  # makes its factor
    with flopcount.FlopCounter() as counter:
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
    report = counter.report()
    costs = report.by_operator()
    assert not report.uncounted
    check = costs["aten._amp_foreach_non_finite_check_and_unscale_"]
    assert (check.arith, check.compare) == (ELEMENTS, 2 * ELEMENTS)  # product; |g| = inf
    assert check.written == 4 * ELEMENTS + 4  # and whether one was found
    assert costs["aten._amp_update_scale_"].flops == 2
