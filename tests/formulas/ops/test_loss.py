from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import flopcount
from flopcount import Cost
from tests.formulas.counting import Number, counting, floats, numbers, opened, total

N, C = 4, 5
REDUCTIONS = ["none", "mean", "sum"]


def rows(function: Callable[[], Any]) -> dict[str, Cost]:
    with flopcount.FlopCounter() as counter:
        function()
    return counter.report().by_operator()


def sigmoid(x: Number) -> Number:
    return 1 / ((-x).exp() + 1)


class Loss:
    """One element's loss and its gradient, by their definitions. Both branches are computed."""

    def forward(self, x: Number, t: Number) -> Number:
        raise NotImplementedError

    def backward(self, x: Number, t: Number, g: Number, n: int | None) -> Number:
        """``n`` is the number of elements of a mean, else None."""
        raise NotImplementedError


class MSE(Loss):
    def forward(self, x: Number, t: Number) -> Number:
        difference = x - t
        return difference * difference

    def backward(self, x: Number, t: Number, g: Number, n: int | None) -> Number:
        return (x - t) * (2 / n if n else 2) * g


class SmoothL1(Loss):
    beta = 0.4

    def forward(self, x: Number, t: Number) -> Number:
        z = abs(x - t)
        return (z * z * 0.5 / self.beta).select(float(z) < self.beta, z - 0.5 * self.beta)

    def backward(self, x: Number, t: Number, g: Number, n: int | None) -> Number:
        slope = ((x - t) / self.beta).larger(-1).smaller(1) * g
        return slope * (1 / n) if n else slope


class Huber(Loss):
    delta = 0.4

    def forward(self, x: Number, t: Number) -> Number:
        z = abs(x - t)
        return (z * z * 0.5).select(float(z) < self.delta, (z - 0.5 * self.delta) * self.delta)

    def backward(self, x: Number, t: Number, g: Number, n: int | None) -> Number:
        slope = (x - t).larger(-self.delta).smaller(self.delta) * g
        return slope * (1 / n) if n else slope


class BCE(Loss):
    def forward(self, x: Number, t: Number) -> Number:
        return (t - 1) * (-x).log1p().larger(-100) - t * x.log().larger(-100)

    def backward(self, x: Number, t: Number, g: Number, n: int | None) -> Number:
        slope = g * (x - t) / (x * (1 - x)).larger(1e-12)
        return slope / n if n else slope


class SoftMargin(Loss):
    def forward(self, x: Number, t: Number) -> Number:
        return (-(x * t)).exp().log1p()

    def backward(self, x: Number, t: Number, g: Number, n: int | None) -> Number:
        slope = t * g * (sigmoid(t * x) - 1)
        return slope / n if n else slope


class BCEWithLogits(Loss):
    def forward(self, x: Number, t: Number) -> Number:
        log_sigmoid = x.smaller(0) - (-abs(x)).exp().log1p()
        return (1 - t) * x - log_sigmoid


CASES = {
    "mse_loss": (F.mse_loss, MSE(), {}),
    "smooth_l1_loss": (F.smooth_l1_loss, SmoothL1(), {"beta": 0.4}),
    "huber_loss": (F.huber_loss, Huber(), {"delta": 0.4}),
    "binary_cross_entropy": (F.binary_cross_entropy, BCE(), {}),
    "soft_margin_loss": (F.soft_margin_loss, SoftMargin(), {}),
    "binary_cross_entropy_with_logits": (F.binary_cross_entropy_with_logits, BCEWithLogits(), {}),
}


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", CASES)
def test_a_loop_that_counts_its_operations_agrees(name: str, reduction: str) -> None:
    function, loss, options = CASES[name]
    x, t = (torch.rand(N, C, dtype=torch.float64) for _ in range(2))
    x.requires_grad_()
    flat_x, flat_t = (numbers(each.flatten()) for each in (x, t))
    with counting() as forward:
        naive = [loss.forward(a, b) for a, b in zip(flat_x, flat_t, strict=True)]
        if reduction != "none":
            naive = [total(naive)]
        if reduction == "mean":
            naive = [naive[0] / (N * C)]

    costs = rows(lambda: results.append(function(x, t, reduction=reduction, **options)))
    torch.testing.assert_close(floats(naive), results[-1].detach().flatten())
    assert opened(costs[f"aten.{name}"]) == forward.cost

    if name == "binary_cross_entropy_with_logits":
        return  # its gradient is made of element-wise ops
    grad = torch.rand_like(results[-1])
    flat_g = numbers(grad.expand(N, C).flatten() if grad.dim() == 0 else grad.flatten())
    n = N * C if reduction == "mean" else None
    with counting() as backward:
        slopes = [loss.backward(*each, n) for each in zip(flat_x, flat_t, flat_g, strict=True)]
    costs = rows(lambda: results[-1].backward(grad))
    torch.testing.assert_close(floats(slopes), x.grad.flatten())
    assert opened(costs[f"aten.{name}_backward"]) == backward.cost


results: list[Tensor] = []


@pytest.mark.parametrize("reduction", [0, 1, 2])
@pytest.mark.parametrize("name", ["mse_loss", "smooth_l1_loss", "huber_loss"])
def test_a_prediction_broadcasts_against_its_targets(name: str, reduction: int) -> None:
    op, row, targets = getattr(torch.ops.aten, name), torch.rand(1, C), torch.rand(N, C)
    broadcast = rows(lambda: op(row, targets, reduction))
    assert broadcast == rows(lambda: op(row.expand(N, C), targets, reduction))


@pytest.mark.parametrize(
    ("options", "more"),
    [
        pytest.param({"weight": torch.ones(N, C)}, N * C, id="a weight is a product"),
        pytest.param(
            {"pos_weight": torch.ones(C)},
            C + 3 * N * C,  # p - 1 for each class; ·t, + 1, and the product
            id="a positive weight is two products and two sums",
        ),
    ],
)
def test_weights_of_binary_cross_entropy(options: dict[str, Tensor], more: int) -> None:
    x, t = torch.rand(N, C), torch.rand(N, C)
    plain = rows(lambda: F.binary_cross_entropy_with_logits(x, t))
    weighted = rows(lambda: F.binary_cross_entropy_with_logits(x, t, **options))
    name = "aten.binary_cross_entropy_with_logits"
    assert weighted[name].flops - plain[name].flops == more


def test_a_weighted_binary_cross_entropy_has_a_product_more_each_way() -> None:
    x, t, w = torch.rand(N, C, requires_grad=True), torch.rand(N, C), torch.rand(N, C)
    plain = rows(lambda: F.binary_cross_entropy(x, t).backward())
    weighted = rows(lambda: F.binary_cross_entropy(x, t, weight=w).backward())
    for name in ("aten.binary_cross_entropy", "aten.binary_cross_entropy_backward"):
        assert weighted[name].flops - plain[name].flops == N * C


@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    ("shape", "name"),
    [((N, C), "nll_loss"), ((2, C, 3, 2), "nll_loss2d")],
    ids=["rows", "images"],
)
def test_the_negative_log_likelihood_meets_one_element_of_each_sample(
    shape: tuple[int, ...], name: str, reduction: str, weighted: bool
) -> None:
    x = torch.rand(shape, requires_grad=True)
    t = torch.zeros(shape[0], *shape[2:], dtype=torch.long)
    samples = t.numel()
    weight = torch.ones(C) if weighted else None

    def step() -> None:
        F.nll_loss(x, t, weight=weight, reduction=reduction).sum().backward()

    costs = rows(step)
    forward, backward = costs[f"aten.{name}_forward"], costs[f"aten.{name}_backward"]
    assert forward.compare == 2 * samples  # -x[t], or 0 where t is ignored
    sums = 0 if reduction == "none" else samples - 1
    products = samples * weighted
    mean = int(reduction == "mean")
    # with weights, their sum too
    assert forward.arith == products + sums * (1 + weighted) + mean
    grads = samples if reduction == "none" else 1
    assert backward.compare == grads + samples  # -g; 0 where t is ignored
    assert backward.arith == products + mean  # g / Σw


def test_of_many_classes_only_the_targets_are_read() -> None:
    x = torch.rand(N, 1000, requires_grad=True)
    t = torch.zeros(N, dtype=torch.long)
    costs = rows(lambda: F.nll_loss(x, t).backward())
    forward, backward = costs["aten.nll_loss_forward"], costs["aten.nll_loss_backward"]
    assert (forward.read, forward.written) == (4 * N + 8 * N, 4 + 4)  # loss, total weight
    # gradient and total weight, targets; a whole gradient
    assert (backward.read, backward.written) == (4 + 4 + 8 * N, 4 * N * 1000)


def test_the_loss_of_a_classifier_has_nothing_uncounted() -> None:
    x = torch.rand(N, C, requires_grad=True)
    with flopcount.FlopCounter() as counter:
        F.cross_entropy(x, torch.zeros(N, dtype=torch.long), label_smoothing=0.1).backward()
        F.l1_loss(x, torch.rand(N, C)).backward()
    assert not counter.report().uncounted


def test_xla_counts_as_many_for_64_by_1000_elements() -> None:
    x, t = torch.rand(64, 1000), torch.rand(64, 1000)
    assert rows(lambda: F.mse_loss(x, t))["aten.mse_loss"].flops == 192_000
    logits = rows(lambda: F.binary_cross_entropy_with_logits(x, t))
    # as max(x, 0) - x·t + log1p(e^-|x|); torch's form has a subtraction more, 1 - t
    assert logits["aten.binary_cross_entropy_with_logits"].flops == 448_000 + 128_000 + 64_000


def test_a_losss_gradient_is_the_inputs() -> None:
    x = torch.rand(N, C, requires_grad=True)
    with flopcount.FlopCounter() as counter:
        F.mse_loss(x, torch.rand(N, C)).backward()
    gradients = counter.report().root.gradients
    assert gradients["input"].arith == 3 * N * C
    assert gradients["weight"].flops == gradients["bias"].flops == 0


@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_margin_loss_compares_every_other_class(reduction: str, p: int, weighted: bool) -> None:
    x = torch.rand(N, C, dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0, 3, 2, 3])
    w = torch.rand(C, dtype=torch.float64) if weighted else None
    every = numbers(x)
    losses, sizes = [], C * (N if reduction == "mean" else 1)
    with counting() as forward:
        for row, place in zip(every, t.tolist(), strict=True):
            start = 1 - row[place]  # margin - x[t]
            terms = [(start + row[j]).larger(0) for j in range(C) if j != place]
            terms = [z * z if p == 2 else z for z in terms]
            losses.append([z * w[place].item() if weighted else z for z in terms])
        if reduction != "none":
            losses = [[term for terms in losses for term in terms]]
        naive = [total(terms) / sizes for terms in losses]
    options = {"p": p, "weight": w, "reduction": reduction}
    costs = rows(lambda: results.append(F.multi_margin_loss(x, t, **options)))
    torch.testing.assert_close(floats(naive), results[-1].detach().flatten())
    assert opened(costs["aten.multi_margin_loss"]) == forward.cost

    grad = torch.rand_like(results[-1])
    slopes = []
    with counting() as backward:
        for row, place, g in zip(every, t.tolist(), grad.expand(N).tolist(), strict=True):
            start = 1 - row[place]
            slope, into_target = [Number(0.0)] * C, Number(0.0)
            for j in (j for j in range(C) if j != place):
                z, factor = start + row[j], Number(p / sizes)
                h = z * float(factor) * 1.0 if p == 2 else factor
                h = h * w[place].item() if weighted else h
                slope[j] = h.select(float(z) > 0, 0.0)
                into_target = into_target - slope[j]
            slope[place] = into_target
            slopes.append([each * g for each in slope])
    costs = rows(lambda: results[-1].backward(grad))
    torch.testing.assert_close(floats(slopes), x.grad)
    assert opened(costs["aten.multi_margin_loss_backward"]) == backward.cost


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_margin_loss_of_many_labels_compares_each_slot_with_each_class(reduction: str) -> None:
    """How many slots hold a label, values tell; the others are computed, and left out."""
    x = torch.rand(N, C, dtype=torch.float64, requires_grad=True)
    t = torch.tensor([[3, 0, -1, 1, 2], [1, -1, 0, 0, 0], [4, 2, 1, 0, 3], [-1] * 5])
    labels = [row[: [*row, -1].index(-1)] for row in t.tolist()]
    sizes = C * (N if reduction == "mean" else 1)
    counted_x, losses = numbers(x), []
    with counting() as forward:
        for row, own in zip(counted_x, labels, strict=True):
            losses.append([])
            for slot in range(C):
                start = 1 - row[own[slot] if slot < len(own) else 0]
                terms = [(start + row[j]).larger(0) for j in range(C)]
                losses[-1] += [
                    z.select(slot < len(own) and j not in own, 0) for j, z in enumerate(terms)
                ]
        if reduction != "none":
            losses = [[z for terms in losses for z in terms]]
        naive = [total(terms) / sizes for terms in losses]
    options = {"reduction": reduction}
    costs = rows(lambda: results.append(F.multilabel_margin_loss(x, t, **options)))
    torch.testing.assert_close(floats(naive), results[-1].detach().flatten())
    assert opened(costs["aten.multilabel_margin_loss_forward"]) == forward.cost

    grad = torch.rand_like(results[-1])
    slopes = []
    with counting() as backward:
        for row, own, g in zip(counted_x, labels, grad.expand(N).tolist(), strict=True):
            slope = [Number(0.0)] * C
            for slot in range(C):
                place = own[slot] if slot < len(own) else 0
                start = 1 - row[place]
                for j in range(C):
                    void = slot >= len(own) or j in own
                    h = Number(1 / sizes).select(float(start + row[j]) > 0, 0).select(not void, 0)
                    slope[j] = slope[j] + h
                    slope[place] = slope[place] - h
            slopes.append([each * g for each in slope])
    costs = rows(lambda: results[-1].backward(grad))
    torch.testing.assert_close(floats(slopes), x.grad)
    assert opened(costs["aten.multilabel_margin_loss_backward"]) == backward.cost


@pytest.mark.parametrize(
    "loss",
    [
        lambda x, y: F.cosine_embedding_loss(x, y, torch.ones(N)),
        lambda x, y: F.gaussian_nll_loss(x, y, y.exp(), full=True),
        lambda x, y: F.poisson_nll_loss(x, y.abs(), full=True),
        lambda x, y: F.triplet_margin_loss(x, y, x - y),
        lambda x, y: F.hinge_embedding_loss(x, y.sign()),
        lambda x, y: F.margin_ranking_loss(x, y, y.sign()),
        lambda x, y: F.multilabel_soft_margin_loss(x, y.abs()),
        lambda x, y: F.kl_div(x, y.abs(), reduction="batchmean"),
        lambda x, y: F.l1_loss(x, y),
    ],
    ids=[
        *("cosine embedding", "Gaussian", "Poisson", "triplet", "hinge", "ranking"),
        *("multilabel soft margin", "Kullback-Leibler", "L1"),
    ],
)
def test_a_loss_made_of_other_ops_has_nothing_uncounted(loss: Any) -> None:
    x = torch.rand(N, C, requires_grad=True)
    with flopcount.FlopCounter() as counter:
        loss(x, torch.rand(N, C)).backward()
    assert not counter.report().uncounted
