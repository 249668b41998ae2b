"""Products of 8 and 4 bits, run where the CPU has a kernel, on meta tensors elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from flopcount import Cost, FlopCounter, Report
from flopcount.formulas import plan_of
from tests.formulas.counting import Number, counting, dot, numbers, opened, total
from tests.formulas.decomposed import billed, plain

aten = torch.ops.aten
M, K, N, G = 32, 64, 16, 4
"""Rows, the length of a dot product, columns; groups."""

PRODUCT = Cost(macs=M * K * N, dots=M * N)
BF16, INT8, FLOAT8 = torch.bfloat16, torch.int8, torch.float8_e4m3fn


def report_of(function: Any) -> Report:
    with FlopCounter(strict=True) as counter, torch.no_grad():
        function()
    return counter.report()


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, device="meta", dtype=dtype)


def columns(*shape: int, dtype: torch.dtype) -> Tensor:
    """A second operand as kernels want it, its columns contiguous."""
    *batch, k, n = shape
    return meta(*batch, n, k, dtype=dtype).transpose(-1, -2)


def test_an_int8_product_keeps_its_macs_in_a_row_of_its_dtype() -> None:
    a, b = torch.ones(M, K, dtype=INT8), torch.ones(K, N, dtype=INT8)
    report = report_of(lambda: torch._int_mm(a, b))
    assert torch._int_mm(a, b).sum() == M * K * N
    assert plain(report.total) == PRODUCT
    assert (report.total.read, report.total.written) == (M * K + K * N, 4 * M * N)
    assert {row["dtype"] for row in report.rows()} == {"int8"}


ONE, ROWS, COLUMNS = meta(), meta(M, 1), meta(1, N)
A8, B8 = meta(M, K, dtype=FLOAT8), columns(K, N, dtype=FLOAT8)
SMALL = torch.float8_e8m0fnu


@pytest.mark.parametrize(
    ("scale_a", "scale_b", "products"),
    [
        pytest.param(ONE, ONE, M * N + 1, id="of each operand: their product, for each result"),
        pytest.param(ROWS, COLUMNS, 2 * M * N, id="of a row and a column: two for each result"),
        pytest.param(
            *(meta(M, K // 16), meta(K // 16, N)),
            2 * M * N * (K // 16),
            id="of blocks of 16: two for each partial sum",
        ),
        pytest.param(
            *(meta(128 * 4, dtype=SMALL), meta(128 * 4, dtype=SMALL)),
            2 * M * N * (K // 32),
            id="of blocks of 32, padded and in an order of their own",
        ),
        pytest.param(
            *(meta(128 * 4, dtype=FLOAT8), meta(128 * 4, dtype=FLOAT8)),
            2 * M * N * (K // 16),
            id="of blocks of 16, 8-bit floats themselves",
        ),
        pytest.param(ONE, COLUMNS, 2 * M * N, id="of one operand, and of columns"),
    ],
)
def test_scales_are_products_with_what_they_belong_to(
    scale_a: Tensor, scale_b: Tensor, products: int
) -> None:
    op = aten._scaled_mm.default
    out = meta(M, N, dtype=BF16)
    assert billed(op, A8, B8, scale_a, scale_b, out=out) == PRODUCT + Cost(arith=products)
    with_bias = billed(op, A8, B8, scale_a, scale_b, meta(N, dtype=BF16), out=out)
    assert with_bias == PRODUCT + Cost(arith=products + M * N)
    narrow = billed(op, A8, B8, scale_a, scale_b, None, ONE, out=out)
    assert narrow == PRODUCT + Cost(arith=products + M * N)


RECIPES = {"TensorWise": 0, "RowWise": 1, "1x16": 2, "1x32": 3, "1x128": 4, "128x128": 5}


@pytest.mark.parametrize(
    ("recipe_a", "recipe_b", "products"),
    [
        pytest.param(["TensorWise"], ["TensorWise"], M * N + 1, id="single numbers"),
        pytest.param(["RowWise"], ["RowWise"], 2 * M * N, id="rows and columns"),
        pytest.param(["1x32"], ["1x32"], 2 * M * N * 2, id="blocks of 32: two of them"),
        pytest.param(["1x128"], ["128x128"], 2 * M * N * 1, id="blocks longer than k"),
        pytest.param(
            ["1x16", "TensorWise"],
            ["1x16", "TensorWise"],
            2 * M * N * 4 + M * N + 1,
            id="blocks of 16: four of them; and a number for each operand",
        ),
    ],
)
def test_scales_of_named_kinds(recipe_a: list[str], recipe_b: list[str], products: int) -> None:
    cost = billed(
        aten._scaled_mm_v2.default,
        *(A8, B8, [ONE], [RECIPES[name] for name in recipe_a], []),
        *([ONE], [RECIPES[name] for name in recipe_b], [], None),
        out=meta(M, N),
    )
    assert cost == PRODUCT + Cost(arith=products)


def test_kinds_of_scales_are_numbered_as_torch_does() -> None:
    kinds = getattr(torch.nn.functional, "ScalingType", None)
    if kinds is None:
        pytest.skip("this torch numbers kinds of scales, and does not name them")
    names = {name: f"BlockWise{name}" if "x" in name else name for name in RECIPES}
    assert {name: int(getattr(kinds, names[name]).value) for name in RECIPES} == RECIPES


def test_a_scaled_product_by_a_loop() -> None:
    """Two blocks along k: each partial sum is scaled for its row and for its column."""
    m, k, n, span = 2, 8, 3, 4
    with counting() as naive:
        for _ in range(m * n):
            total(dot(*[[Number(1.0)] * span] * 2) * 2.0 * 0.5 for _ in range(k // span))
    a, b = meta(m, k, dtype=FLOAT8), columns(k, n, dtype=FLOAT8)
    scales = meta(m, k // span), meta(k // span, n)
    cost = billed(aten._scaled_mm.default, a, b, *scales, out=meta(m, n))
    assert opened(cost) == naive.cost


def test_the_cpus_own_kernel_of_8_bit_floats() -> None:
    a, b = torch.ones(M, K).to(FLOAT8), torch.ones(N, K).to(FLOAT8).t()
    scale = torch.ones(())
    call = lambda: torch._scaled_mm(a, b, scale, scale, out_dtype=BF16)  # noqa: E731
    report = report_of(call)
    assert call().float().sum() == M * K * N
    assert plain(report.total) == PRODUCT + Cost(arith=M * N + 1)
    assert {row["dtype"] for row in report.rows()} == {"float8_e4m3fn"}
    assert report.total.bytes == M * K + K * N + 4 + 2 * M * N  # one scale for both


PAIRS = getattr(torch, "float4_e2m1fn_x2", None)


@pytest.mark.skipif(PAIRS is None, reason="this torch has no 4-bit floats")
def test_two_4_bit_floats_share_a_byte() -> None:
    a, b = meta(M, K // 2, dtype=PAIRS), columns(K // 2, N, dtype=PAIRS)
    scales = meta(128 * 4, dtype=FLOAT8)
    cost = billed(aten._scaled_mm.default, a, b, scales, scales, out=meta(M, N, dtype=BF16))
    assert cost == PRODUCT + Cost(arith=2 * M * N * (K // 16))


# -- groups

GROUPED = {
    "rows of a, a matrix for each group": ((M, K), (G, K, N), M * N, 1),
    "columns of b, a matrix for each group": ((G, M, K), (K, N), M * N, 1),
    "a batch": ((G, M, K), (G, K, N), G * M * N, 1),
    "stretches of k": ((M, K), (K, N), G * M * N, G),
}


@pytest.mark.parametrize(("a", "b", "dots", "parts"), GROUPED.values(), ids=GROUPED.keys())
def test_groups_cost_what_one_product_after_the_other_does(
    a: tuple[int, ...], b: tuple[int, ...], dots: int, parts: int
) -> None:
    ends = [5, 8, 11, 16] if b == (K, N) and len(a) == 3 else [9, 16, 24, M]
    ends = [8, 24, 40, K] if parts > 1 else ends
    offs = torch.tensor(ends, dtype=torch.int32) if len(a) != len(b) or len(a) == 2 else None
    x, y = (
        torch.ones(a, dtype=BF16),
        torch.ones(*b[:-2], b[-1], b[-2], dtype=BF16).transpose(-1, -2),
    )
    if parts > 1:
        x = torch.ones(a[::-1], dtype=BF16).t()  # k is where it is contiguous
    report = report_of(lambda: torch._grouped_mm(x, y, offs=offs))
    one_by_one = Cost()
    for group, end in enumerate(ends):
        here = slice(ends[group - 1] if group else 0, end)
        if len(a) == len(b) == 3:
            pair = x[group], y[group]
        elif parts > 1:
            pair = x[:, here], y[here]
        else:
            pair = (x[here], y[group]) if len(a) == 2 else (x[group], y[:, here])
        one_by_one += plain(report_of(lambda pair=pair: pair[0] @ pair[1]).total)
    assert plain(report.total) == one_by_one
    assert report.total.macs == dots // parts * K


@pytest.mark.parametrize(("a", "b", "dots", "parts"), GROUPED.values(), ids=GROUPED.keys())
def test_scales_of_groups(a: tuple[int, ...], b: tuple[int, ...], dots: int, parts: int) -> None:
    x, y = meta(*a, dtype=FLOAT8), columns(*b, dtype=FLOAT8)
    out = meta(*([G, M, N] if dots == G * M * N else [M, N]), dtype=BF16)
    product = Cost(macs=dots // parts * K, dots=dots)
    offs = meta(G, dtype=torch.int32)
    rows = meta(M * parts)
    cost = billed(aten._scaled_grouped_mm.default, x, y, rows, rows, offs, out=out)
    assert cost == product + Cost(arith=2 * dots)  # a row's and a column's
    blocks = meta(128, 4, dtype=SMALL)
    cost = billed(aten._scaled_grouped_mm.default, x, y, blocks, blocks, offs, out=out)
    assert cost == product + Cost(arith=2 * dots // parts * (K // 32))
    named = billed(
        aten._scaled_grouped_mm_v2.default,
        *(x, y, [blocks], [RECIPES["1x32"]], [], [blocks], [RECIPES["1x32"]], [], offs),
        out=out,
    )
    assert named == cost
    levels = [RECIPES["1x16"], RECIPES["TensorWise"]]
    two = billed(
        aten._scaled_grouped_mm_v2.default,
        *(x, y, [blocks] * 2, levels, [], [blocks] * 2, levels, [], offs),
        out=out,
    )
    assert two == product + Cost(arith=2 * dots // parts * (K // 16) + dots)


# -- integer weights


def test_an_int8_weights_scale_multiplies_each_result() -> None:
    x, q, scale = torch.ones(M, K, dtype=BF16), torch.ones(N, K, dtype=INT8), torch.ones(N).to(BF16)
    report = report_of(lambda: torch._weight_int8pack_mm(x, q, scale))
    assert plain(report.total) == PRODUCT + Cost(arith=M * N)
    assert {row["dtype"] for row in report.rows()} == {"bfloat16"}
    steps = report_of(lambda: (x @ q.to(BF16).T) * scale)
    assert plain(steps.total) == plain(report.total)


def test_a_4_bit_weight_is_scaled_and_shifted_once() -> None:
    q = torch.randint(0, 15, (N, K), dtype=torch.int32)
    scales = torch.ones(K // 32, N, 2, dtype=BF16)
    x = torch.ones(M, K, dtype=BF16)

    def product() -> None:
        packed = torch._convert_weight_to_int4pack_for_cpu(q, 1)  # moves bytes only
        torch._weight_int4pack_mm_for_cpu(x, packed, 32, scales)

    expected = PRODUCT + Cost(arith=2 * N * K)
    assert plain(report_of(product).total) == expected
    scale, zero = torch.ones(N, K, dtype=BF16), torch.ones(N, K, dtype=BF16)
    steps = report_of(lambda: x @ ((q - 8).to(BF16) * scale + zero).T)
    assert plain(steps.total) == expected
    out = meta(M, N, dtype=BF16)
    packed = meta(N // 8, K // 16, 32, 1, dtype=torch.int32)
    x = meta(M, K, dtype=BF16)
    assert billed(aten._weight_int4pack_mm.default, x, packed, 32, scales, out=out) == expected


def test_zeros_of_4_bit_weights_that_are_integers_take_no_floating_point_step() -> None:
    op = getattr(aten, "_weight_int4pack_mm_with_scales_and_zeros", None)
    if op is None:
        pytest.skip("this torch does not have it")
    arguments = meta(M, K, dtype=BF16), meta(N, K // 8, dtype=torch.int32), 32
    scales, out = meta(K // 32, N, dtype=BF16), meta(M, N, dtype=BF16)
    zeros = scales.to(INT8)
    cost = billed(op.default, *arguments, scales, zeros, out=out)
    assert cost == PRODUCT + Cost(arith=N * K)
    floating = billed(op.default, *arguments, scales, scales, out=out)
    assert floating == PRODUCT + Cost(arith=2 * N * K)


@pytest.mark.parametrize("block", [K, 32], ids=["a scale for each column", "one for each block"])
def test_rows_quantised_on_the_fly(block: int) -> None:
    q = torch.randint(0, 255, (N, K // 2), dtype=torch.uint8)
    scales = torch.ones(N, K // block).to(torch.float32 if block == K else BF16)
    x = torch.ones(M, K)

    def product() -> None:
        packed = aten._dyn_quant_pack_4bit_weight(q, scales, None, block, K, N)
        aten._dyn_quant_matmul_4bit(x, packed, block, K, N)

    row = numbers(torch.rand(K))
    with counting() as naive:
        low, high = row[0], row[0]
        for value in row[1:]:
            low, high = low.smaller(value), high.larger(value)
        scale = (high - low) / 255
        for value in row:
            (value / scale).floor()
    quantised = M * naive.cost
    rescaled = Cost(
        arith=M * N * (K // block + 1)
    )  # partial sums by the weight's, all by the row's
    report = report_of(product)
    assert plain(report.total) == PRODUCT + quantised + rescaled
    assert plain(report.by_dtype()["int8"]) == PRODUCT


@pytest.mark.parametrize(
    ("options", "more"),
    [
        pytest.param({}, Cost(), id="alone"),
        pytest.param({"bias": torch.rand(3)}, Cost(arith=4 * 3), id="and a bias"),
        pytest.param({"activation": "relu"}, Cost(compare=4 * 3), id="and ReLU"),
        pytest.param(
            {"activation": "silu"},
            Cost(arith=3 * 4 * 3, compare=4 * 3, special=4 * 3),
            id="and SiLU: x / (1 + e^-x)",
        ),
    ],
)
def test_floats_times_integers_of_a_scale_for_each_column(options: Any, more: Cost) -> None:
    x, weight = torch.rand(4, 8), torch.ones(8, 3, dtype=torch.int8)
    op = aten._mixed_dtypes_linear.default
    bill = plan_of(op).bill((x, weight, torch.rand(3)), options, torch.rand(4, 3))
    assert bill.counted
    assert plain(bill.cost) == Cost(macs=4 * 3 * 8, dots=4 * 3, arith=4 * 3) + more
