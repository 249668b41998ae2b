"""Every optimizer of torch.optim, whichever way it takes its steps."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch.optim import SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, NAdam, Optimizer, RMSprop

import flopcount
from flopcount import Report

SHAPES = [(5, 3), (7, 2)]
ELEMENTS = 5 * 3 + 7 * 2
KINDS = [
    kind
    for kind in vars(torch.optim).values()
    if isinstance(kind, type) and issubclass(kind, Optimizer) and kind is not Optimizer
]


def stepped(kind: Callable[..., Optimizer], dtype: Any = torch.float32, **options: Any) -> Report:
    """The third step: averages are there."""
    parameters = [torch.nn.Parameter(torch.ones(shape, dtype=dtype)) for shape in SHAPES]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
        parameter.requires_grad_(not options.get("differentiable"))
    optimizer = kind(parameters, **options)
    for _ in range(3):
        with flopcount.FlopCounter() as counter:
            optimizer.step(lambda: torch.tensor(1.0))
    return counter.report()


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
    if kind not in (SGD, Adam, AdamW, Adagrad):
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
        stepped(kind, dtype, foreach=foreach).total.flops
        for dtype in (torch.complex64, torch.float32)
    )
    counted = counters(kind)
    assert complex_ - counted == 2 * (real - counted)


def counters(kind: type[Optimizer]) -> int:
    """Each parameter's step counter, plus one; NAdam's product of momenta so far."""
    return len(SHAPES) * {SGD: 0, NAdam: 2}.get(kind, 1)


AVERAGE = {"average.lerp_(grad, c)": 3}
SQUARES = {"squares.mul_(c)": 1, "squares.addcmul_(grad, grad, c)": 3}
UPDATE = {"param.addcdiv_(numerator, denominator, c)": 3}

CASES: list[Any] = [
    pytest.param(
        Adadelta,
        {"lr": 0.1},
        SQUARES
        | {"(squares + eps).sqrt()": 2, "(deltas + eps).sqrt() / root · grad": 4}
        | {"deltas.mul_(c)": 1, "deltas.addcmul_(delta, delta, c)": 3}
        | {"param.add_(delta, alpha=-lr)": 2},
        id="Adadelta: 16",
    ),
    pytest.param(
        Adamax,
        {},
        AVERAGE | {"norm.mul_(c)": 1, "|grad| + eps": 2, "maximum": 1} | UPDATE,
        id="Adamax: 10",
    ),
    pytest.param(
        NAdam,
        {},
        AVERAGE
        | SQUARES
        | {"(squares / c).sqrt() + eps": 3, "param.addcdiv_(grad, root, c)": 3}
        | UPDATE,
        id="NAdam: 16",
    ),
    pytest.param(RMSprop, {}, SQUARES | {"root + eps": 2} | UPDATE, id="RMSprop: 9"),
    pytest.param(
        RMSprop,
        {"centered": True},
        AVERAGE | SQUARES | {"squares.addcmul(average, average, -1)": 3, "root + eps": 2} | UPDATE,
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


@pytest.mark.parametrize("foreach", [False, True], ids=["one by one", "in lists"])
@pytest.mark.parametrize(("kind", "options", "steps"), CASES)
def test_a_step_costs_the_sum_of_its_ops(
    kind: type[Optimizer], options: dict[str, Any], steps: dict[str, int], foreach: bool
) -> None:
    report = stepped(kind, foreach=foreach, **options)
    assert report.total.flops == ELEMENTS * sum(steps.values()) + counters(kind)
    assert report.phases["optimizer"] == report.total


FUSED: dict[Any, dict[str, tuple[Any, ...]]] = {
    Adam: {"amsgrad": (False, True)},
    AdamW: {"amsgrad": (False, True)},
    Adagrad: {},
    SGD: {"momentum": (0, 0.9), "nesterov": (False, True)},
}


@pytest.mark.parametrize("maximize", [False, True], ids=["minimizes", "maximizes"])
@pytest.mark.parametrize("weight_decay", [0, 0.1], ids=["", "decays"])
@pytest.mark.parametrize("kind", FUSED)
def test_a_fused_step_does_the_arithmetic_of_the_others(
    kind: type[Optimizer], weight_decay: float, maximize: bool
) -> None:
    names, choices = FUSED[kind].keys(), FUSED[kind].values()
    for values in product(*choices):
        options = dict(zip(names, values, strict=True))
        if options.get("nesterov") and not options["momentum"]:
            continue
        options |= {"lr": 0.1, "weight_decay": weight_decay, "maximize": maximize}
        one_by_one, lists, fused = (
            stepped(kind, **options, **way).total
            for way in ({"foreach": False}, {"foreach": True}, {"fused": True})
        )
        assert one_by_one.flops == lists.flops == fused.flops, options
        assert one_by_one.compare == lists.compare == fused.compare, options
