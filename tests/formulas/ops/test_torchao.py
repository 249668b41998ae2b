"""torchao: the kernels that do not open themselves; most need an accelerator and are billed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from flopcount import Cost
from flopcount.formulas import Decision, plan_of
from flopcount.torch_private.ops import all_overloads
from tests.formulas.decomposed import billed, measured, plain

for module in ("quantization", "float8", "sparsity"):  # they register ops
    pytest.importorskip(f"torchao.{module}")

pytestmark = pytest.mark.filterwarnings("ignore")
ops: Any = torch.ops.torchao
M, K, N = 8, 256, 64
PRODUCT = Cost(macs=M * K * N, dots=M * N)
FLOAT8, INT8, BF16 = torch.float8_e4m3fn, torch.int8, torch.bfloat16


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def integers(op: Any, *args: Any, out: Tensor) -> tuple[Cost, Cost]:
    """The products of integers in a call, and the work on floats."""
    bill = plan_of(op).bill(args, {}, out)
    assert bill.counted
    return bill.integer, plain(bill.cost)


@pytest.mark.parametrize("namespace", ["torchao", "blocksparse", "float8_sparse"])
def test_every_op_is_decided(namespace: str) -> None:
    overloads = [op for op in all_overloads() if op.namespace == namespace]
    undecided = [op for op in overloads if plan_of(op).decision is Decision.UNCOUNTED]
    assert overloads
    assert not undecided


X8, OUT = meta(M, K, dtype=FLOAT8), meta(M, N, dtype=BF16)


@pytest.mark.parametrize(
    ("x_scale", "w_scale", "bias", "arith"),
    [
        pytest.param((1,), (1,), False, M * N + 1, id="whole: multiplied first"),
        pytest.param((M, 1), (N, 1), False, 2 * M * N, id="rows and columns"),
        pytest.param((M, 2), (N, 2), True, 4 * M * N + M * N, id="groups of 128, and a bias"),
        pytest.param((M, 1), (N, 4), False, (1 + 4) * M * N, id="rows, and groups of 64"),
    ],
)
def test_a_linear_layer_with_scales(
    x_scale: tuple[int, ...], w_scale: tuple[int, ...], bias: bool, arith: int
) -> None:
    scales = meta(*x_scale), meta(*w_scale)
    b = meta(N) if bias else None
    packed = meta(1, 2, 128, 64, dtype=FLOAT8)
    cost = billed(ops.float8_linear_cpu.default, X8, scales[0], packed, scales[1], b, BF16, out=OUT)
    assert cost == PRODUCT + Cost(arith=arith)
    x, zeros = meta(M, K, dtype=INT8), meta(N, dtype=INT8)
    args = x, scales[0], zeros, packed, scales[1], zeros, zeros, b, BF16
    products, floats = integers(ops.da8w4_linear_cpu.default, *args, out=OUT)
    assert (products, floats) == (PRODUCT, Cost(arith=arith))


def test_products_of_accelerators() -> None:
    a, b = meta(M, K, dtype=FLOAT8), meta(K, N, dtype=FLOAT8)
    small = meta(512, dtype=torch.float8_e8m0fnu)
    cost = billed(ops.mx_fp8_bf16.default, a, b, small, small, out=OUT)
    assert cost == PRODUCT + Cost(arith=M * N * 2 * (K // 32))
    cost = billed(ops.swizzle_mm.default, a, b, True, False, out=OUT)
    assert cost == PRODUCT
    args = a, b, True, True, meta(M, 1), meta(1, N), meta(N)
    cost = billed(ops.swizzle_scaled_mm.default, *args, out=OUT)
    assert cost == PRODUCT + Cost(arith=2 * M * N + M * N)


def test_products_of_integers_in_triton() -> None:
    pytest.importorskip("triton")  # torchao makes the ops where it finds it
    a, b = meta(M, K, dtype=INT8), meta(K, N, dtype=INT8)
    out = meta(M, N, dtype=torch.int32)
    assert billed(ops.int_matmul.default, a, b, out=out) == PRODUCT
    scale = meta(M, 1).expand(M, N)
    found = integers(ops.int_scaled_matmul.default, a, b, scale, out=meta(M, N))
    assert found == (PRODUCT, Cost(arith=M * N))


def test_weights_stored_by_halves() -> None:
    half = Cost(macs=M * K // 2 * N, dots=M * N)
    weight = meta(N, K // 2, dtype=FLOAT8), meta(N, K // 8, dtype=torch.uint8)
    args = X8, meta(M), *weight, meta(N), meta(N)
    op = ops.rowwise_scaled_linear_sparse_cutlass_f8f8.default
    assert billed(op, *args, out=OUT) == half + Cost(arith=2 * M * N + M * N)
    op = torch.ops.float8_sparse.fp8_sparse_mm.default
    args = X8, weight[0], None, meta(1), N, 16
    padded = Cost(macs=16 * K // 2 * N, dots=16 * N, void_macs=8 * K // 2 * N)
    assert billed(op, *args, out=meta(M, N)) == padded + Cost(arith=16 * N)


def test_attention_of_integers() -> None:
    """2·3 heads, 5 queries, 7 keys; a causal mask hides 5·7 - 15 pairs of each head."""
    q, k = meta(2, 3, 5, 16, dtype=torch.uint8), meta(2, 3, 7, 16, dtype=torch.uint8)
    op = ops.qscaled_dot_product.default
    pairs = 2 * 3 * 5 * 7
    products = Cost(macs=2 * pairs * 16, dots=pairs + 2 * 3 * 5 * 16)
    assert integers(op, q, k, k, out=q) == (products, Cost())
    hidden = 2 * 3 * (5 * 7 - 15)
    causal = integers(op, q, k, k, None, 0.0, True, out=q)
    assert causal == (products + Cost(void_macs=2 * hidden * 16), Cost())


def test_bags_of_rows() -> None:
    """6 rows of 64 in 2 bags: 4 sums for each column, and a scale for each result."""
    table, indices = meta(100, 64, dtype=FLOAT8), meta(6, dtype=torch.int64)
    offsets, scale = meta(3, dtype=torch.int64), meta(1)
    args = table, indices, offsets, scale, 1.0, 0, True, torch.float32
    bill = plan_of(ops._scaled_embedding_bag.default).bill(args, {}, meta(2, 64))
    assert plain(bill.cost) == Cost(arith=4 * 64 + 2 * 64)
    assert bill.cost.read == 6 * 64 + 6 * 8 + 3 * 8 + 4


def test_floats_of_8_bits() -> None:
    x, scale = torch.rand(M, K), torch.tensor(0.5)
    op = ops.quantize_affine_float8_non_decomposed.default
    kernel = torch._C.DispatchKey.CompositeExplicitAutograd
    cost = Cost(arith=M * K, compare=2 * M * K)
    assert measured(op, x, scale) == cost == measured(lambda: op._op_dk(kernel, x, scale))
    q = op(x, scale)
    op = ops.dequantize_affine_float8_non_decomposed.default
    cost = Cost(arith=M * K)
    assert measured(op, q, scale) == cost == measured(lambda: op._op_dk(kernel, q, scale))


def test_sparse_blocks() -> None:
    """3 blocks of 4·4 values, each value with N columns."""
    rows, columns = meta(3, dtype=torch.int64), meta(3, dtype=torch.int64)
    values, x, out = meta(3, 4, 4), meta(K, N), meta(M, N)
    product = Cost(macs=3 * 16 * N, dots=M * N)
    op = torch.ops.blocksparse.addmm.default
    assert billed(op, x, rows, columns, values, M, K, None, out=out) == product
    args = rows, columns, values.to(INT8), x.to(INT8), meta(M), meta(M)
    found = integers(torch.ops.blocksparse.int_addmm.default, *args, out=out)
    assert found == (product, Cost(arith=2 * M * N))
