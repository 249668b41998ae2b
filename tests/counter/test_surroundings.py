"""Modes and kinds of tensors around and inside a counter."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import flopcount
from flopcount import Cost, FlopCounter
from tests.counter.units import PRODUCT, batch, mm
from tests.invariants import check

MODES: dict[str, Callable[[], Any]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "enable_grad": torch.enable_grad,
}


class TestSurroundings:
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("outside", [True, False])
    def test_grad_modes(self, mode: str, outside: bool) -> None:
        layer, counter = nn.Linear(8, 8), FlopCounter()
        first, second = (MODES[mode](), counter) if outside else (counter, MODES[mode]())
        with first, second:
            layer(batch())
            torch.einsum("ij,jk->ik", batch(), torch.ones(8, 8))
            torch.matmul(torch.ones(3, 4, 8), torch.ones(8, 8))
        report = counter.report()
        check(report, plain=True)
        assert report.total.macs == (1 + 1 + 3) * PRODUCT

    def test_meta_tensors(self) -> None:
        model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
        real = flopcount.count(model, batch())
        before = [p.clone() for p in model.parameters()]
        meta = flopcount.count(model, batch(), meta=True)
        assert meta == real
        with torch.device("meta"), FlopCounter() as counter:
            mm()
        assert counter.report().total.macs == PRODUCT
        assert all(map(torch.equal, before, model.parameters()))

    @pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
    def test_sparse_tensors_do_not_crash(self) -> None:
        dense = torch.eye(4)
        with FlopCounter() as counter:
            for sparse in (dense.to_sparse(), dense.to_sparse_csr()):
                assert torch.equal(sparse @ dense, dense)
                sparse.to_dense()
            (dense.to_sparse() + dense.to_sparse()).coalesce()
        counter.report()

    def test_complex_tensors_do_not_crash(self) -> None:
        x = torch.ones(4, 4, dtype=torch.complex64, requires_grad=True)
        with FlopCounter() as counter:
            (x @ x * x).abs().sum().backward()
            torch.view_as_real(x.exp()).sum().backward()
        counter.report()

    @pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype")
    @pytest.mark.parametrize("formulas", [None, {torch.ops.aten.relu: lambda x, *, out: Cost()}])
    def test_jagged_tensors_open_themselves(self, formulas: Any) -> None:
        """Rows of 2 and 3 vectors of 8: their values are one matrix of 5 rows."""
        rows = [torch.ones(2, 8), torch.ones(3, 8)]
        jagged = torch.nested.nested_tensor(rows, layout=torch.jagged)
        layer = nn.Linear(8, 8, bias=False)
        with FlopCounter(formulas=formulas) as counter:
            layer(jagged)
        assert counter.report().total.macs == 5 * 8 * 8

    def test_nested_tensors_do_not_crash(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            nested = torch.nested.nested_tensor([torch.ones(2, 8), torch.ones(3, 8)])
        with FlopCounter() as counter:
            (2 * nested).to_padded_tensor(0)
        counter.report()

    @pytest.mark.parametrize("taken", [True, False])
    def test_of_two_branches_the_one_that_runs_is_counted(self, taken: bool) -> None:
        x, other = batch(), torch.ones(8, 8)
        with FlopCounter() as counter:
            y = torch.cond(torch.tensor(taken), lambda x: x @ other, lambda x: x + 1, (x,))
        report = counter.report()
        assert torch.equal(y, x @ other if taken else x + 1)
        expected = Cost(macs=PRODUCT, dots=PRODUCT // 8) if taken else Cost(arith=x.numel())
        assert replace(report.total, read=0, written=0) == expected
        assert not report.uncounted

    def test_a_loop_is_counted_as_often_as_it_runs(self) -> None:
        while_loop = torch.ops.higher_order.while_loop
        x, other = batch(), torch.ones(8, 8)
        with FlopCounter() as counter:
            _, y = while_loop(
                lambda i, x: i < 3, lambda i, x: (i + 1, x @ other), (torch.tensor(0), x), ()
            )
        report = counter.report()
        assert torch.equal(y, x @ other @ other @ other)
        assert (report.total.macs, report.uncounted) == (3 * PRODUCT, {})

    def test_a_function_that_is_mapped_is_counted_for_each_row(self) -> None:
        rows, factor = torch.ones(5, 4), torch.ones(4)
        with FlopCounter() as counter:
            (y,) = torch.ops.higher_order.map_impl(lambda a, b: (a * b,), [rows], [factor])
        report = counter.report()
        assert torch.equal(y, rows)
        assert (report.total.arith, report.uncounted) == (5 * 4, {})

    def test_an_exception_in_a_branch_leaves_the_counter_as_it_was(self) -> None:
        def fail(x: Tensor) -> Tensor:
            raise KeyError("of the user's own")

        with FlopCounter() as counter:
            with pytest.raises(KeyError, match="of the user's own"):
                torch.ops.higher_order.cond(torch.tensor(True), fail, fail, (batch(),))
            mm()
        assert counter.report().total.macs == PRODUCT
