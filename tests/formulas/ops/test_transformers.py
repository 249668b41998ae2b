"""transformers: experts whose rows meet their own matrices, forward and backward."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from flopcount import Cost, FlopCounter
from flopcount.formulas import Decision, plan_of
from flopcount.torch_private.ops import all_overloads
from tests.formulas.decomposed import plain

pytest.importorskip("transformers.integrations.moe")
op: Any = torch.ops.transformers.grouped_mm_fallback
HAS_BACKWARD = hasattr(torch.ops.transformers, "grouped_mm_fallback_backward")
"""Whether the library has an op for the backward pass; before 5.21 or so its products run there."""

S, K, N = 10, 8, 5
OFFSETS = torch.tensor([4, 4, 10])


def test_every_op_is_decided() -> None:
    overloads = [op for op in all_overloads() if op.namespace == "transformers"]
    assert op.default in overloads
    assert all(plan_of(op).decision is Decision.FORMULA for op in overloads)


def test_each_row_meets_the_matrix_of_its_expert() -> None:
    """10 rows in 3 groups, of 4, none and 6: the same MACs as one product of all rows.

    A weight's gradient has 8·5 dot products for each expert.
    """
    x = torch.rand(S, K, requires_grad=True)
    weight = torch.rand(3, K, N, requires_grad=True)
    with FlopCounter(strict=True) as counter:
        op(x, weight, OFFSETS).backward(torch.ones(S, N))
    report = counter.report()
    assert plain(report.phases["forward"]) == Cost(macs=S * K * N, dots=S * N)
    assert report.phases["backward"].macs == 2 * S * K * N
    if HAS_BACKWARD:  # else nobody knows which product is whose
        gradients = report.root.gradients
        assert gradients["input"] == Cost(macs=S * K * N, dots=S * K)
        assert gradients["weight"] == Cost(macs=S * K * N, dots=3 * K * N)


def test_the_kernel_does_so_in_products_of_torch() -> None:
    """An expert without rows has no product there."""
    x, weight, grad = torch.rand(S, K), torch.rand(3, K, N), torch.rand(S, N)
    kernels: Any = pytest.importorskip("transformers.integrations.moe")
    with FlopCounter() as counter:
        kernels._grouped_mm_fallback(x, weight, OFFSETS)
        if HAS_BACKWARD:
            kernels._grouped_mm_fallback_bwd(x, weight, OFFSETS, grad)
        else:
            context = SimpleNamespace(saved_tensors=(x, weight), offs=OFFSETS)
            kernels._grouped_mm_fallback_backward(context, grad)
    total = counter.report().total
    assert (total.macs, total.dots) == (3 * S * K * N, S * N + S * K + 2 * K * N)
