"""The count by hand is right, can disagree, and what no reason explains fails the benchmark."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

pytest.importorskip("tqdm")

from benchmarks import accuracy, results
from benchmarks.accuracy import products, steps
from benchmarks.accuracy.by_hand import ByHand, Macs
from benchmarks.accuracy.papers import CUT, formula, language, printed, table, vit
from benchmarks.accuracy.verdicts import AGREES, ALONE, EXPLAINED, UNEXPLAINED, UNKNOWN
from flopcount import FlopcountError
from flopcount.cli import torchvision_models


def needy(*shape: int) -> Tensor:
    """A tensor that needs a gradient."""
    return torch.ones(*shape, requires_grad=True)


def attend(heads: nn.MultiheadAttention) -> Tensor:
    x = needy(2, 5, 4)
    return heads(x, x, x)[0]


def experts(x: Tensor, weights: Tensor) -> Tensor:
    """Half of the rows to each of two experts."""
    ends = torch.tensor([len(x) // 2, len(x)], dtype=torch.int32)
    return F.grouped_mm(x.bfloat16(), weights.bfloat16(), offs=ends)


LINEAR = 2 * 5 * 3
GROUPED = (2 * 6 * 8 * 8) * (2 * 3 * 3)  # results × two channels of a group, nine pixels
ATTENTION = (2 * 2 * 4 * 5) * 3  # scores × length of a key

# a call -> MACs of its products, and how often they come back in backward
CASES: dict[str, tuple[Callable[[], Tensor], int, int]] = {
    "linear": (lambda: F.linear(needy(2, 3), needy(5, 3), needy(5)), LINEAR, 2),
    "linear, of data": (lambda: F.linear(torch.ones(2, 3), needy(5, 3)), LINEAR, 1),
    "linear, frozen": (lambda: F.linear(needy(2, 3), torch.ones(5, 3)), LINEAR, 1),
    "operator": (lambda: needy(2, 3) @ needy(3, 5), LINEAR, 2),
    "method": (lambda: needy(7, 2, 3).bmm(needy(7, 3, 5)), 7 * LINEAR, 2),
    "broadcast": (lambda: needy(7, 2, 3).matmul(needy(3, 5)), 7 * LINEAR, 2),
    "added": (lambda: needy(7, 2, 5).baddbmm(batch1=needy(7, 2, 3), batch2=needy(7, 3, 5)), 210, 2),
    "vector": (lambda: needy(4, 3).mv(needy(3)), 12, 1),  # the matrix's gradient has no sums
    "two vectors": (lambda: needy(3).dot(torch.ones(3)), 3, 0),
    "row by matrix": (lambda: needy(3) @ needy(3, 4), 12, 2),
    "grouped convolution": (
        lambda: F.conv2d(needy(2, 4, 8, 8), needy(6, 2, 3, 3), padding=1, groups=2),
        GROUPED,
        2,
    ),
    "stride": (lambda: F.conv1d(needy(1, 2, 9), needy(3, 2, 3), stride=3), (3 * 3) * (2 * 3), 2),
    "transposed": (
        lambda: F.conv_transpose1d(needy(1, 2, 9), needy(2, 3, 4), stride=4),
        (2 * 9) * (3 * 4),
        2,
    ),
    "attention": (
        lambda: F.scaled_dot_product_attention(
            needy(2, 2, 4, 3), needy(2, 2, 5, 3), needy(2, 2, 5, 3)
        ),
        2 * ATTENTION,
        2,
    ),
    "multi-head attention": (
        lambda: attend(nn.MultiheadAttention(4, 2)),
        4 * (2 * 5 * 4 * 4) + 2 * (5 * 2 * 2 * 4),
        2,
    ),
    "einsum": (lambda: torch.einsum("bqd,bkd->bqk", needy(7, 2, 3), needy(7, 5, 3)), 210, 2),
    "einsum, dots": (lambda: torch.einsum("...d,kd->...k", needy(7, 2, 3), needy(5, 3)), 210, 2),
    "outer product": (lambda: torch.einsum("i,j->ij", needy(4), needy(5)), 0, 2),
    "three operands": (
        lambda: torch.einsum("ij,jk,kl->il", needy(2, 3), needy(3, 5), needy(5, 7)),
        2 * 3 * 5 + 2 * 5 * 7,
        2,
    ),
    "changed in place": (lambda: F.linear(needy(7, 2, 3), needy(5, 3)).add_(1), 7 * LINEAR, 2),
    "result not used": (lambda: [F.linear(needy(2, 3), needy(5, 3)), needy(1)][1], LINEAR, 0),
    "mixed": (
        lambda: F.linear(F.linear(torch.ones(2, 3), needy(5, 3)).detach(), needy(4, 5)),
        70,
        1,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_product_is_counted_by_hand(name: str) -> None:
    call, macs, gradients = CASES[name]
    with ByHand() as hand:
        call().sum().backward()
    backward = 2 * 4 * 5 if name == "mixed" else gradients * macs
    assert hand.total == Macs(macs, backward)


def test_an_lstm_is_counted_by_hand() -> None:
    layer = nn.LSTM(3, 4, batch_first=True, bidirectional=True)
    with ByHand() as hand:
        layer(needy(2, 5, 3))[0].sum().backward()
    of_input, of_state = 2 * (2 * 5) * (4 * 4) * 3, 2 * (2 * 5) * (4 * 4) * 4
    first = of_state // 5  # the first state of each direction is data
    assert hand.total == Macs(of_input + of_state, 2 * of_input + 2 * of_state - first)


def model() -> nn.Module:
    """With a product that torch counts right, and one that it does not."""
    return nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.Flatten(), nn.Linear(6 * 4, 5))


def row() -> dict[str, Any]:
    layers = model()
    return steps.compare("layers", lambda: layers(torch.ones(3, 4, 4, 4)).sum())


def test_what_torch_counts_wrong_is_explained_to_the_mac() -> None:
    found = row()
    convolution, linear = (3 * 6 * 2 * 2) * (2 * 3 * 3), 3 * 5 * 24
    assert (
        found["flopcount"] == found["by hand"] == (convolution + linear, convolution + 2 * linear)
    )
    assert found["torch"] == (convolution + linear, 2 * convolution + 2 * linear)
    assert found["reasons"] == {steps.GROUPED: (0, convolution)}
    assert found["verdict"] == EXPLAINED


@pytest.mark.parametrize(
    ("reason", "call"),
    [
        (steps.VECTORS, lambda: needy(4, 3) @ needy(3)),
        (steps.UNFUSED, lambda: F.scaled_dot_product_attention(*[needy(2, 2, 4, 8)] * 3)),
        (steps.UNGROUPED, lambda: experts(needy(32, 16), needy(2, 16, 16))),
    ],
    ids=["vector", "attention", "experts"],
)
def test_what_torch_has_no_formula_for_is_explained(
    reason: str, call: Callable[[], Tensor]
) -> None:
    found = steps.compare("op", lambda: call().square().sum())
    assert found["torch"] == (0, 0)
    assert [*found["reasons"]] == [reason]
    assert found["verdict"] == EXPLAINED


def test_the_count_by_hand_can_disagree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(products.MEASURES, F.linear)
    assert row()["verdict"] == UNEXPLAINED


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        ((30, 60), (30, 60), AGREES),
        ((31, 60), (31, 60), UNEXPLAINED),
        ((30, 60), (30, 61), UNEXPLAINED),
        ((30, 61), (30, 60), UNEXPLAINED),
    ],
)
def test_one_mac_more_is_unexplained(
    ours: tuple[int, int], theirs: tuple[int, int], verdict: str
) -> None:
    with ByHand() as hand:
        F.linear(needy(2, 3), needy(5, 3)).sum().backward()
    assert steps.judged("linear", Macs(*ours), Macs(*theirs), hand, {})["verdict"] == verdict


def test_printed_digits() -> None:
    assert printed("", "", "", "3.8", 3.84)["verdict"] == AGREES
    assert printed("", "", "", "3.8", 3.86)["reasons"] == [CUT]
    assert printed("", "", "", "3.8", 3.95)["verdict"] == UNEXPLAINED
    assert printed("", "", "", "3.8", 4.09, other=3.8)["reasons"] == ["other"]
    assert printed("", "", "", "3.8", 4.09, other=3.9)["verdict"] == UNEXPLAINED


def test_a_formulas_terms_are_the_whole_difference() -> None:
    assert formula("", "", "", 100, 100)["verdict"] == AGREES
    assert formula("", "", "", 100, 93, {"softmax": 7})["verdict"] == EXPLAINED
    assert formula("", "", "", 100, 93, {"softmax": 6})["verdict"] == UNEXPLAINED


def test_megatrons_formula_is_exact() -> None:
    for found in language.megatron(table("megatron", 1).rows):
        assert found["verdict"] == AGREES


def test_a_vits_flops_are_those_of_its_paper_to_the_last_digit() -> None:
    rows = [row for row in table("vit_scaling").rows if row["shape"] in "BL" and row["patch"] == 16]
    found = list(vit.scaling(rows))
    assert [row["printed"] for row in found] == ["35.1", "111.3", "122.9", "382.8"]
    assert {row["verdict"] for row in found} == {AGREES}


def test_a_figure_that_no_reading_has_is_unknown_and_one_that_the_paper_contradicts_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(vit.BUILDERS, "linear", lambda shape, scale: nn.Linear(shape, scale))
    # 3·224·224 MACs for each output, forward; 303 million images; weights' gradients as many
    step, images = 2 * 2 * 3 * 224 * 224 * 10**6, 303e6 / 1e18
    figures = {("one", 1): str(round(step * images)), ("one", 2): "1", ("one", 3): "2"}
    figures |= {("two", 1): "1"}
    of_model = {"kind": "linear", "shape": 224, "scale": 10**6}
    rows = [
        {"model": model, "epochs": epochs, "printed": digits, **of_model}
        for (model, epochs), digits in figures.items()
    ]
    found = list(vit.compute(rows))
    assert [row["verdict"] for row in found] == [AGREES, ALONE, ALONE, UNKNOWN]
    assert "to three forward passes" in found[-1]["reasons"][0]


def test_a_row_keeps_what_another_count_disagrees_about() -> None:
    rows = [
        {"name": "a", "flopcount": (1, 2), "torch": (1, 2), "by hand": (1, 2), "reasons": {}},
        {"name": "b", "flopcount": (1, 2), "torch": (1, 3), "by hand": (0, 2), "recompute": 0},
    ]
    assert accuracy.by_name(rows) == {
        "a": {"flopcount": (1, 2)},
        "b": {"flopcount": (1, 2), "torch": (1, 3), "by hand": (0, 2)},
    }


def test_no_row_is_lost_to_another_of_its_name() -> None:
    with pytest.raises(AssertionError):
        accuracy.by_name([{"name": "a", "flopcount": 1}, {"name": "a", "flopcount": 2}])


# -- what was recorded


def recorded() -> results.Figures:
    return results.load("accuracy")


def test_every_recorded_row_is_explained() -> None:
    found = recorded()
    assert all(target.holds for target in accuracy.targets(found))
    assert len(found["steps"]["timm"]) >= 200
    assert len(found["steps"]["Hugging Face"]) >= 25
    assert len(found["published"]) >= 166


@pytest.mark.parametrize("family", ["torchvision", "timm", "Hugging Face"])
def test_an_unexplained_row_fails_the_target(family: str) -> None:
    found = recorded()
    name = list(found["steps"][family])[-1]
    found["steps"][family][name]["verdict"] = UNEXPLAINED
    missed = [target for target in accuracy.targets(found) if not target.holds]
    assert len(missed) == 1
    assert name in missed[0].found


def test_an_uncounted_op_fails_the_target() -> None:
    found = recorded()
    next(iter(found["published"].values()))["uncounted"] = {"mylib::op": 1}
    assert [target.found for target in accuracy.targets(found) if not target.holds] == ["mylib::op"]


def test_every_table_of_a_paper_is_shown() -> None:
    found = recorded()
    text = accuracy.show(found)
    assert all(source in text for source in found["papers"])
    assert len(text.splitlines()) < 70


def test_each_module_of_timm_is_among_the_chosen() -> None:
    with suppress(FlopcountError):
        torchvision_models.load()  # timm imports torchvision
    timm = pytest.importorskip("timm")
    from benchmarks.accuracy.architectures import timm_names

    chosen = set(timm_names(quick=False))
    assert len(chosen) >= 200
    assert all(chosen & set(timm.list_models(module=module)) for module in timm.list_modules())
