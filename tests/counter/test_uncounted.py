"""Ops without a formula, and formulas of the user's own."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import flopcount
from flopcount import Cost, FlopCounter, FlopcountError, UncountedOpError, UncountedOpWarning
from tests.counter.units import batch, mm
from tests.invariants import check

aten = torch.ops.aten


@torch.library.custom_op("flopcount_tests::mystery", mutates_args=())
def mystery(x: Tensor) -> Tensor:
    return x.clone()


@torch.library.custom_op("flopcount_tests::scale", mutates_args=())
def scale(x: Tensor, factor: float) -> Tensor:
    return x * factor


MYSTERY = torch.ops.flopcount_tests.mystery
SCALE = torch.ops.flopcount_tests.scale


class TestUncounted:
    def test_it_is_listed_with_its_calls(self) -> None:
        with FlopCounter() as counter:
            mystery(torch.ones(3))
            mystery(torch.ones(3))
            mystery(torch.ones(5))
        report = counter.report()
        assert report.uncounted == {"flopcount_tests.mystery": 3}
        assert report.total.flops == 0
        assert report.by_operator()["flopcount_tests.mystery"].bytes == 2 * 4 * (3 + 3 + 5)

    def test_the_report_warns_once_for_each_op_and_says_why(self) -> None:
        counter = FlopCounter()
        for _ in range(2):
            with counter:
                mystery(torch.ones(3))
                mystery(torch.ones(5))
                torch.ones(3).to_sparse().relu()
        with pytest.warns(UncountedOpWarning) as caught:
            counter.report()
        messages = [str(warning.message) for warning in caught]
        assert messages[0] == "flopcount_tests.mystery is uncounted: it has no formula"
        assert len(messages) == len(counter.report().uncounted)  # which warns of nothing again
        assert caught[0].filename == __file__

    def test_the_program_itself_sees_no_warning(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with FlopCounter():
                mystery(torch.ones(3))

    def test_strict_names_the_op_its_shapes_and_the_scope(self) -> None:
        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = Inner()

            def forward(self, x: Tensor) -> Tensor:
                return self.inner(x)

        class Inner(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return mystery(x)

        model = Model()
        with pytest.raises(UncountedOpError) as caught, FlopCounter(model, strict=True):
            model(torch.ones(2, 3))
        message = str(caught.value)
        assert "flopcount_tests.mystery" in message
        assert "float32[2, 3]" in message
        assert "Model.inner" in message
        assert "forward" in message
        assert isinstance(caught.value, FlopcountError)
        assert caught.value.__suppress_context__  # no look-up of ours stands in the traceback

    def test_strict_lets_counted_ops_pass(self) -> None:
        layer = nn.Linear(8, 8)
        with FlopCounter(layer, strict=True) as counter:
            layer(batch()).sum().backward()
        check(counter.report(), plain=True)


def elements(x: Tensor, *args: Any, out: Tensor) -> Cost:
    return Cost(arith=x.numel())


class TestUserFormulas:
    @pytest.mark.parametrize(
        "op",
        [
            pytest.param(MYSTERY, id="packet"),
            pytest.param(MYSTERY.default, id="overload"),
            pytest.param("flopcount_tests::mystery", id="name"),
            pytest.param(mystery, id="what custom_op returned"),
        ],
    )
    def test_of_one_counter(self, op: Any) -> None:
        counter = FlopCounter(formulas={op: elements})
        for _ in range(2):
            with counter, FlopCounter() as other:
                mystery(torch.ones(7))
        report = counter.report()
        assert report.total.flops == 2 * 7
        assert not report.uncounted
        assert other.report().uncounted == {"flopcount_tests.mystery": 1}

    def test_they_come_before_the_registered_ones(self) -> None:
        with FlopCounter(formulas={aten.mm: lambda a, b, *, out: Cost(macs=1)}) as counter:
            mm()
        assert counter.report().total.macs == 1

    def test_an_overload_comes_before_its_packet(self) -> None:
        formulas: dict[Any, Any] = {
            aten.add.Tensor: lambda *args, out, **kwargs: Cost(arith=2),
            aten.add: lambda *args, out, **kwargs: Cost(arith=1),
        }
        with FlopCounter(formulas=formulas) as counter:
            torch.ones(3) + torch.ones(3)
        assert counter.report().total.arith == 2

    def test_registered_for_all_counters(self) -> None:
        counter = FlopCounter()
        with counter:
            scale(torch.ones(7), 2.0)
        assert counter.report().uncounted == {"flopcount_tests.scale": 1}

        flopcount.formula(SCALE)(elements)
        with counter:
            scale(torch.ones(7), 2.0)
        assert counter.report().total.flops == 7

        with pytest.raises(ValueError, match="flopcount_tests::scale has a formula already"):
            flopcount.formula(SCALE)(elements)

    @pytest.mark.parametrize("op", [torch.mm, "mm", 3, None])
    def test_something_that_is_no_op_is_refused(self, op: Any) -> None:
        with pytest.raises(TypeError, match="expected an op"):
            flopcount.formula(op)
        with pytest.raises(TypeError, match="expected an op"):
            FlopCounter(formulas={op: elements})

    def test_one_that_fails_warns_and_leaves_its_op_uncounted(self) -> None:
        def broken(*args: Any, out: Tensor) -> Cost:
            raise IndexError("beyond")

        with FlopCounter(formulas={MYSTERY: broken}) as counter:
            mystery(torch.ones(7))
        with pytest.warns(UncountedOpWarning, match="flopcount_tests.mystery.*failed.*beyond"):
            report = counter.report()
        assert report.uncounted == {"flopcount_tests.mystery": 1}

    def test_one_that_is_no_function_is_refused(self) -> None:
        with pytest.raises(TypeError, match=r"expected a function .* got Cost\("):
            flopcount.formula(MYSTERY)(Cost())  # type: ignore[type-var]  # the mistake
        with pytest.raises(TypeError, match=r"expected a function .* got 3"):
            FlopCounter(formulas={MYSTERY: 3})  # type: ignore[dict-item]  # the mistake
        with pytest.raises(TypeError, match=r"expected formulas={op: function}, got"):
            FlopCounter(formulas=[MYSTERY])  # type: ignore[arg-type]  # the mistake

    @pytest.mark.parametrize(
        ("answer", "complaint"),
        [
            (3, "it returned 3; expected a Cost or Gradients"),
            # the mistakes that are tried
            (Cost(arith=2.5), "expected whole numbers"),  # type: ignore[arg-type]
            (Cost(arith=-1), "expected whole numbers"),
            (Cost(arith=torch.tensor(3)), "expected whole numbers"),  # type: ignore[arg-type]
            (flopcount.Gradients(weight=Cost(macs=-1)), "expected whole numbers"),
            (Cost(read=8), "bytes are what traffic= counts"),
        ],
        ids=["a number", "a fraction", "below zero", "a tensor", "in a gradient", "bytes"],
    )
    def test_one_that_returns_no_cost_leaves_its_op_uncounted(
        self, answer: Any, complaint: str
    ) -> None:
        x = torch.ones(7)
        with FlopCounter(formulas={MYSTERY: lambda x, *, out: answer}) as counter:
            mystery(x)
        with pytest.warns(UncountedOpWarning, match=complaint):
            report = counter.report()
        assert report.total == Cost(read=4 * 7, written=4 * 7)
