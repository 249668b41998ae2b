"""Mistakes that only real tensors notice: a count on meta says them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import flopcount
from flopcount import FlopCounter, FlopcountError
from tests.counter.units import PRODUCT, batch, linear

Make = Callable[..., Tensor]

PRODUCTS: dict[str, Callable[[Make, Make], Tensor]] = {
    "mm": lambda a, b: torch.mm(a(4, 8), b(8, 2)),
    "matmul": lambda a, b: a(3, 4, 8) @ b(8, 2),
    "mv": lambda a, b: torch.mv(a(4, 8), b(8)),
    "addmm": lambda a, b: torch.addmm(a(2), a(4, 8), b(8, 2)),
    "addmm, bias": lambda a, b: torch.addmm(b(2), a(4, 8), a(8, 2)),
    "addmv": lambda a, b: torch.addmv(a(4), a(4, 8), b(8)),
    "linear": lambda a, b: F.linear(a(4, 8), b(2, 8), b(2)),
    "conv1d": lambda a, b: F.conv1d(a(2, 3, 8), b(4, 3, 3)),
    "conv2d": lambda a, b: F.conv2d(a(2, 3, 8, 8), b(4, 3, 3, 3)),
    "conv2d with bias": lambda a, b: F.conv2d(a(2, 3, 8, 8), b(4, 3, 3, 3), b(4)),
    "conv_transpose2d": lambda a, b: F.conv_transpose2d(a(2, 3, 8, 8), b(3, 4, 3, 3)),
    "bmm": lambda a, b: torch.bmm(a(2, 4, 8), b(2, 8, 2)),
    "baddbmm": lambda a, b: torch.baddbmm(a(2, 4, 2), a(2, 4, 8), b(2, 8, 2)),
    "einsum": lambda a, b: torch.einsum("ij,jk->ik", a(4, 8), b(8, 2)),
    "attention": lambda a, b: F.scaled_dot_product_attention(*[m(1, 2, 4, 8) for m in (a, b, b)]),
    "bilinear": lambda a, b: F.bilinear(a(4, 3), a(4, 5), b(2, 3, 5)),
}
DTYPES = [
    (torch.int64, torch.float32),
    (torch.float32, torch.float64),
    (torch.bfloat16, torch.float32),
    (torch.complex64, torch.float32),
]


def made(dtype: torch.dtype) -> Make:
    return lambda *shape: torch.ones(shape, dtype=dtype)


@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
@pytest.mark.parametrize("name", PRODUCTS)
def test_what_a_cpu_refuses_is_refused_on_meta(name: str, dtypes: Any) -> None:
    """Here or by torch's own meta kernel; what the CPU computes is counted."""

    def on_meta() -> None:
        with torch.device("meta"):
            flopcount.count(PRODUCTS[name], *map(made, dtypes), backward=False, meta=True)

    try:
        PRODUCTS[name](*map(made, dtypes))
    except RuntimeError:
        with pytest.raises((FlopcountError, RuntimeError)):
            on_meta()
    else:
        on_meta()


def test_the_error_says_where_and_what() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2, dtype=torch.float64))
    with pytest.raises(FlopcountError) as error:
        flopcount.count(model, batch(), meta=True)
    assert str(error.value).startswith(
        "aten.addmm was called with (float64[2], float32[4, 8], float64[8, 2]) in Sequential.2:"
    )
    assert error.value.__context__ is None or error.value.__suppress_context__


def test_it_is_refused_again_when_the_bill_is_known() -> None:
    for _ in range(2):
        with pytest.raises(FlopcountError, match="cast the input, or the model"):
            flopcount.count(linear(), batch().long(), meta=True)


class Casting(nn.Module):
    """float32 weights for bfloat16 rows, which autocast casts where there are real tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = linear()

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type if x.device.type != "meta" else "cpu", torch.bfloat16):
            return self.layer(x.bfloat16())


def test_under_autocast_nothing_is_refused() -> None:
    on_meta = flopcount.count(Casting(), batch(), meta=True)
    assert on_meta.total.macs == flopcount.count(Casting(), batch()).total.macs == 2 * PRODUCT


def test_a_program_on_meta_of_the_users_own_runs_as_it_does_without_us() -> None:
    with torch.device("meta"), FlopCounter() as counter:
        torch.mm(torch.ones(4, 8), torch.ones(8, 8, dtype=torch.int64))
    assert counter.report().total.macs == PRODUCT
