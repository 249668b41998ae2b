"""Every optimizer of torch.optim, one by one, in lists and fused, and gradient scaling."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch.optim import SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, NAdam, Optimizer, RMSprop

import flopcount
from flopcount import Report

SHAPES = [(5, 3), (7, 2)]
ELEMENTS = 5 * 3 + 7 * 2
FOR_LOOP, FOREACH, FUSED = {"foreach": False}, {"foreach": True}, {"fused": True}
FUSED_KINDS = SGD, Adam, AdamW, Adagrad

KINDS = [
    kind
    for kind in vars(torch.optim).values()
    if isinstance(kind, type) and issubclass(kind, Optimizer) and kind is not Optimizer
]


def parameters(dtype: torch.dtype = torch.float32) -> list[torch.nn.Parameter]:
    made = [torch.nn.Parameter(torch.ones(shape, dtype=dtype)) for shape in SHAPES]
    for parameter in made:
        parameter.grad = torch.ones_like(parameter)
    return made


def stepped(
    kind: type[Optimizer], steps: int = 3, dtype: torch.dtype = torch.float32, **options: Any
) -> Report:
    """The last of so many steps: from the second on averages are there."""
    trained = parameters(dtype)
    for parameter in trained:
        parameter.requires_grad_(not options.get("differentiable"))
    optimizer: Any = kind(trained, **{"lr": 0.1} | options)
    for _ in range(steps):
        with flopcount.FlopCounter() as counter:
            optimizer.step(lambda: torch.tensor(1.0))
    report = counter.report()
    assert not report.uncounted
    return report


def counters(kind: type[Optimizer]) -> int:
    """Each parameter's step counter, plus one; NAdam's product of momenta so far."""
    return len(SHAPES) * {SGD: 0, NAdam: 2}.get(kind, 1)


def flags(kind: type[Optimizer]) -> list[dict[str, Any]]:
    """Each flag of the optimizer alone, and none."""
    every: dict[str, Any] = {
        "foreach": True,
        "fused": True,
        "maximize": True,
        "amsgrad": True,
        "centered": True,
        "differentiable": True,
        "decoupled_weight_decay": True,
        "weight_decay": 0.1,
        "momentum": 0.9,
        "line_search_fn": "strong_wolfe",
    }
    taken = kind.__init__.__code__.co_varnames
    own = {name: value for name, value in every.items() if name in taken}
    if kind not in FUSED_KINDS:
        own.pop("fused", None)
    return [{}, *({name: value} for name, value in own.items())]


DENSE = [kind for kind in KINDS if kind.__name__ != "SparseAdam"]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        pytest.param(kind, options, id=f"{kind.__name__} {options or ''}")
        for kind in DENSE
        for options in flags(kind)
    ],
)
def test_no_step_has_anything_uncounted(kind: type[Optimizer], options: dict[str, Any]) -> None:
    report = stepped(kind, **options)
    assert not report.uncounted
    assert report.total.flops > ELEMENTS


@pytest.mark.parametrize("foreach", [False, True], ids=["one by one", "in lists"])
@pytest.mark.parametrize("kind", [Adam, AdamW, Adagrad, Adadelta, Adamax, NAdam, RMSprop, SGD])
def test_nor_has_one_on_complex_parameters(kind: type[Optimizer], foreach: bool) -> None:
    """They are taken for twice as many real ones."""
    complex_, real = (
        stepped(kind, dtype=dtype, foreach=foreach).total.flops
        for dtype in (torch.complex64, torch.float32)
    )
    counted = counters(kind)
    assert complex_ - counted == 2 * (real - counted)


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
AVERAGE = {"average.lerp_(grad, c)": 3}
SQUARES = {"squares.mul_(c)": 1, "squares.addcmul_(grad, grad, c)": 3}
STEP = {"param.addcdiv_(numerator, denominator, c)": 3}

CASES: list[Any] = [
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
    pytest.param(
        Adadelta,
        {},
        SQUARES
        | {"(squares + eps).sqrt()": 2, "(deltas + eps).sqrt() / root · grad": 4}
        | {"deltas.mul_(c)": 1, "deltas.addcmul_(delta, delta, c)": 3}
        | {"param.add_(delta, alpha=-lr)": 2},
        id="Adadelta: 16",
    ),
    pytest.param(
        Adamax,
        {},
        AVERAGE | {"norm.mul_(c)": 1, "|grad| + eps": 2, "maximum": 1} | STEP,
        id="Adamax: 10",
    ),
    pytest.param(
        NAdam,
        {},
        AVERAGE
        | SQUARES
        | {"(squares / c).sqrt() + eps": 3, "param.addcdiv_(grad, root, c)": 3}
        | STEP,
        id="NAdam: 16",
    ),
    pytest.param(RMSprop, {}, SQUARES | {"root + eps": 2} | STEP, id="RMSprop: 9"),
    pytest.param(
        RMSprop,
        {"centered": True},
        AVERAGE | SQUARES | {"squares.addcmul(average, average, -1)": 3, "root + eps": 2} | STEP,
        id="centered RMSprop: 15",
    ),
    pytest.param(
        RMSprop,
        {"momentum": 0.9},
        SQUARES
        | {"root + eps": 2, "buffer.mul_(c)": 1, "buffer.addcdiv_(grad, root)": 2}
        | {"param.add_(buffer, alpha=-lr)": 2},
        id="RMSprop with momentum: 11",
    ),
]


@pytest.mark.parametrize(
    ("kind", "options", "steps", "implementation"),
    [
        pytest.param(*case.values, implementation, id=f"{case.id}, {implementation}")
        for case in CASES
        for implementation in (FOR_LOOP, FOREACH, FUSED)
        if implementation != FUSED or case.values[0] in FUSED_KINDS
    ],
)
def test_a_step_costs_the_sum_of_its_ops(
    kind: type[Optimizer],
    options: dict[str, Any],
    steps: dict[str, int],
    implementation: dict[str, bool],
) -> None:
    report = stepped(kind, **options, **implementation)
    assert report.total.flops == ELEMENTS * sum(steps.values()) + counters(kind)
    assert report.phases["optimizer"] == report.total


CHOICES: dict[Any, dict[str, tuple[Any, ...]]] = {
    Adam: {"amsgrad": (False, True)},
    AdamW: {"amsgrad": (False, True)},
    Adagrad: {},
    SGD: {"momentum": (0, 0.9), "nesterov": (False, True)},
}


@pytest.mark.parametrize("maximize", [False, True], ids=["minimizes", "maximizes"])
@pytest.mark.parametrize("weight_decay", [0, 0.1], ids=["", "decays"])
@pytest.mark.parametrize("kind", CHOICES)
def test_a_fused_step_does_the_arithmetic_of_the_others(
    kind: type[Optimizer], weight_decay: float, maximize: bool
) -> None:
    names, choices = CHOICES[kind].keys(), CHOICES[kind].values()
    for values in product(*choices):
        options = dict(zip(names, values, strict=True))
        if options.get("nesterov") and not options["momentum"]:
            continue
        options |= {"weight_decay": weight_decay, "maximize": maximize}
        one_by_one, lists, fused = (
            stepped(kind, **options, **way).total for way in (FOR_LOOP, FOREACH, FUSED)
        )
        assert one_by_one.flops == lists.flops == fused.flops, options
        assert one_by_one.compare == lists.compare == fused.compare, options


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
