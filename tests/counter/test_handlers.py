"""How an op is run under a counter: whole, by its own kernel, or by the ops that it is made of."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flopcount import Cost, FlopCounter


def test_an_op_that_is_defined_anew_runs_anew() -> None:
    with FlopCounter():
        for number in (1.0, 2.0):
            op = torch.library.custom_op(
                "upkeep_test::anew",
                lambda x: x + number,  # noqa: B023  (called before the next number)
                mutates_args=(),
                schema="(Tensor x) -> Tensor",
            )
            assert op(torch.zeros(3)).tolist() == 3 * [number]


def test_an_op_with_a_kernel_of_its_own_is_not_taken_apart() -> None:
    """mish_backward decomposes, too, and then differs in the last digit."""
    x = torch.linspace(-3, 3, 1000, requires_grad=True)
    (plain,) = torch.autograd.grad(F.mish(x).sum(), x)
    with FlopCounter():
        (counted,) = torch.autograd.grad(F.mish(x).sum(), x)
    assert torch.equal(plain, counted)


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU])
def test_a_composite_op_is_opened_by_its_own_kernel(layer: type[nn.RNNBase]) -> None:
    """torch's decomposition of packed recurrent layers gives other last digits."""
    torch.manual_seed(0)
    model, x = layer(7, 5, 2), torch.randn(6, 3, 7)
    packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([6, 4, 2]))
    with torch.inference_mode():
        plain = model(packed)[0].data
        with FlopCounter() as counter:
            counted = model(packed)[0].data
    assert torch.equal(plain, counted)
    gates = 4 if layer is nn.LSTM else 3
    assert counter.report().total.macs == 12 * gates * 5 * ((7 + 5) + (5 + 5))


@pytest.mark.parametrize("moved", [False, True])
def test_flex_attention_is_counted_and_so_are_its_functions(moved: bool) -> None:
    """Without a mask it computes all scores: two products of 32 × 32 × 16 for each of 2 heads."""
    from torch.nn.attention.flex_attention import flex_attention

    def move(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return score + (q - k)

    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 32, 16) for _ in range(3))
    attend = partial(flex_attention, q, k, v, score_mod=move if moved else None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is not compiled
        plain = attend()
        with FlopCounter() as counter:
            counted = attend()
    assert torch.equal(plain, counted)
    report = counter.report()
    assert not report.uncounted
    assert report.total.macs == 2 * (2 * 32 * 32 * 16)
    added = report.by_operator().get("aten.add", Cost())
    assert added.arith == (2 * 32 * 32 if moved else 0)


def test_the_out_overload_of_a_composite_op_is_counted() -> None:
    x = torch.ones(4, 8)
    with FlopCounter() as counter:
        torch.softmax(x, 1)
        torch.softmax(x, 1, out=torch.empty(4, 8))
    report = counter.report()
    assert not report.uncounted
    plain, out = report.by_operator()["aten._softmax"], report.by_operator()["aten.softmax"]
    assert (plain.flops, plain.special) == (out.flops, out.special)


def test_an_out_overload_has_the_formula_of_its_own_kind() -> None:
    x, index, values = torch.zeros(5, 5), torch.zeros(5, 5, dtype=torch.int64), torch.ones(5, 5)
    with FlopCounter() as counter:
        torch.scatter(x, 0, index, values, reduce="add", out=torch.empty(5, 5))
    assert counter.report().total.arith == 25


def test_an_op_that_hides_whether_gradients_are_on() -> None:
    """As a custom function in C++ does: outside of modules it is taken for forward work."""
    library = torch.library.Library("hiding_here", "DEF")
    library.define("copy(Tensor x) -> Tensor")
    library.impl("copy", lambda x: x.clone(), "CPU")
    op: Any = torch.ops.hiding_here.copy

    def hide(x: Tensor) -> Tensor:
        with torch.no_grad(), torch._C._AutoDispatchBelowAutograd():
            return op(x)

    library.impl("copy", hide, "Autograd")
    torch.library._impls.remove("hiding_here/copy/Autograd")  # as if it were none of Python's

    counter = FlopCounter(formulas={"hiding_here::copy": lambda x, out: Cost(arith=1)})
    x = torch.ones(8)
    with counter:
        op(x)
        op(x.requires_grad_())
        with torch.no_grad():
            op(x)
    assert counter.report().phases["forward"].flops == 3
