"""A counter is entered, entered again, reset and left, by an exception too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from flopcount import FlopCounter
from flopcount.cost import ZERO
from tests.counter.units import PRODUCT, batch, linear, mm
from tests.hooks import watchers

aten = torch.ops.aten


class TestEntering:
    def test_entered_again_it_adds_up(self) -> None:
        counter = FlopCounter()
        for _ in range(3):
            with counter:
                mm()
        assert counter.report().total.macs == 3 * PRODUCT

    def test_nothing_is_counted_outside(self) -> None:
        counter = FlopCounter()
        mm()
        with counter:
            pass
        mm()
        assert counter.report().total == ZERO

    def test_reset_starts_afresh(self) -> None:
        layer = linear()
        counter = FlopCounter(layer)
        with counter:
            layer(batch()).sum().backward()
            counter.reset()
            layer(batch())
        report = counter.report()
        assert report.total.macs == PRODUCT
        assert report.model.calls == 1

    def test_a_backward_after_reset_finds_its_modules(self) -> None:
        layer = linear()
        with FlopCounter(layer) as counter:
            loss = layer(batch()).sum()
            counter.reset()
            loss.backward()
        assert counter.report().model.phases["backward"].macs == PRODUCT

    def test_inside_itself_it_counts_once(self) -> None:
        counter = FlopCounter()
        with counter, counter:
            mm()
            with counter:
                mm()
            mm()
        assert counter.report().total.macs == 3 * PRODUCT

    def test_two_counters_both_see_everything(self) -> None:
        layer = linear()
        outer, inner = FlopCounter(layer), FlopCounter()
        with outer:
            mm()
            with inner:
                layer(batch()).sum().backward()
            mm()
        assert inner.report().total.macs == 2 * PRODUCT
        assert outer.report().total.macs == 4 * PRODUCT
        assert outer.report().model.phases == inner.report().model.phases

    def test_counters_may_be_left_in_another_order_of_use(self) -> None:
        first, second = FlopCounter(), FlopCounter()
        with first:
            with second:
                mm()
            with second:
                mm()
        assert first.report().total == second.report().total

    def test_a_report_is_a_snapshot(self) -> None:
        counter = FlopCounter()
        with counter:
            mm()
            before = counter.report()
            text = before.to_json()
            mm()
        assert before.total.macs == PRODUCT
        assert before.to_json() == text
        assert counter.report().total.macs == 2 * PRODUCT

    def test_other_modes_go_on_working(self) -> None:
        seen: list[Any] = []

        class Mode(TorchDispatchMode):
            def __torch_dispatch__(
                self, func: Any, types: Any, args: Any = (), kwargs: Any = None
            ) -> Any:
                seen.append(func)
                return func(*args, **(kwargs or {}))

        with Mode(), FlopCounter() as counter, Mode():
            mm()
        assert seen.count(aten.mm.default) == 2
        assert counter.report().total.macs == PRODUCT

    def test_a_model_must_be_a_module(self) -> None:
        with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module, got function"):
            FlopCounter(lambda x: x)  # type: ignore[arg-type]


class TestExceptions:
    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
    def test_they_pass_through_and_leave_nothing(self, error: type[BaseException]) -> None:
        class Failing(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                raise error("mine")

        before, counter = watchers(), FlopCounter()
        with pytest.raises(error, match="mine"), counter:
            Failing()(mm())
        assert watchers() == before
        assert counter.report().total.macs == PRODUCT

    def test_an_error_of_an_op_is_torchs_own(self) -> None:
        def failure(*contexts: Any) -> str:
            with pytest.raises(RuntimeError) as caught:
                torch.mm(torch.ones(2, 3), torch.ones(2, 3))
            return str(caught.value)

        alone = failure()
        with FlopCounter() as counter:
            assert failure() == alone
        assert counter.report().total.macs == 0

    def test_an_error_in_backward_passes_through(self) -> None:
        x = torch.ones(3, requires_grad=True)
        y = 2 * x
        y.register_hook(lambda grad: 1 / 0)
        with FlopCounter() as counter, pytest.raises(ZeroDivisionError):
            y.sum().backward()
        counter.report()
