"""Modes and kinds of tensors around and inside a counter."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

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
        check(counter.report())

    def test_a_wrapper_subclass_opens_itself(self) -> None:
        from torch.testing._internal.two_tensor import TwoTensor

        pair = TwoTensor(batch(), batch())
        with FlopCounter() as counter:
            pair @ torch.ones(8, 8)
        assert counter.report().total.macs == 2 * PRODUCT
