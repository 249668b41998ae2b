"""Nested tensors: what pads and unpads rows of different lengths, and keeps account of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from flopcount import FlopCounter, UncountedOpWarning

aten = torch.ops.aten
pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")

ROWS = torch.rand(5, 2)  # 40 bytes: rows of two and three elements
PADDED = torch.rand(2, 3, 2)  # 48 bytes
OFFSETS = torch.tensor([0, 2, 5])  # 24 bytes
MASK = torch.tensor([[True, True, False], [True, True, True]])  # 6 bytes


def nested() -> Any:
    return torch.nested.nested_tensor([torch.rand(2, 2), torch.rand(3, 2)])


@pytest.mark.parametrize(
    ("call", "read", "written"),
    [
        pytest.param(
            lambda: aten._jagged_to_padded_dense_forward(ROWS, [OFFSETS], [3]),
            40 + 24,
            48,
            id="padded",
        ),
        pytest.param(
            lambda: aten._padded_dense_to_jagged_forward(PADDED, [OFFSETS], 5),
            40 + 24,
            40,
            id="unpadded: the padding is not read",
        ),
        pytest.param(
            lambda: torch._nested_tensor_from_mask(PADDED, MASK), 48 + 6, 0, id="by a mask"
        ),
    ],
)
def test_padding_is_no_arithmetic(call: Callable[[], Any], read: int, written: int) -> None:
    with FlopCounter() as counter:
        call()
    report = counter.report()
    assert not report.uncounted
    row = max(report.rows(), key=lambda row: row["read"])
    assert report.total.flops == 0
    assert (row["read"], row["written"]) == (read, written)


def test_account_of_lengths_is_free() -> None:
    x = nested()
    with FlopCounter() as counter:
        x._nested_tensor_size()
        x._nested_tensor_strides()
        x._nested_tensor_storage_offsets()
        torch.nested.to_padded_tensor(x, 0.0)
    report = counter.report()
    assert not report.uncounted
    assert report.total.flops == report.total.read == 0
    assert report.total.written == 4 * 2 * 3 * 2  # what is padded


def test_arithmetic_on_nested_tensors_is_uncounted_and_says_why() -> None:
    x = nested()
    with FlopCounter() as counter:
        x.sin()
    with pytest.warns(UncountedOpWarning, match="shapes of nested tensors do not tell"):
        counter.report()


def attended() -> list[torch.Tensor]:
    parts = [torch.arange(length * 16.0).view(length, 2, 8) for length in (3, 5, 2)]
    x = torch.nested.nested_tensor(parts, layout=torch.jagged).transpose(1, 2)
    return list(torch.nn.functional.scaled_dot_product_attention(x, x, x).unbind())


def multiplied() -> list[torch.Tensor]:
    parts = [torch.arange(length * 8.0).view(length, 8) for length in (3, 5, 2)]
    x = torch.nested.nested_tensor(parts)
    return list(torch.matmul(x, x.transpose(1, 2)).unbind())


@pytest.mark.parametrize("program", [attended, multiplied])
def test_a_composite_op_on_nested_tensors_runs_as_it_would_alone(program: Any) -> None:
    expected = program()
    with FlopCounter() as counter:
        found = program()
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)
    with pytest.warns(UncountedOpWarning, match="nested tensors do not tell"):
        assert counter.report().uncounted
