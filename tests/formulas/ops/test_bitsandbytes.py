"""bitsandbytes: what its ops cost is what its own kernels in Python do, step by step."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from flopcount import Cost, FlopCounter
from flopcount.formulas import Decision, plan_of
from flopcount.torch_private.ops import all_overloads
from tests.formulas.decomposed import billed, measured
from tests.formulas.reports import report_of

bnb: Any = pytest.importorskip("bitsandbytes")
functional: Any = bnb.functional
ops: Any = torch.ops.bitsandbytes

pytestmark = pytest.mark.filterwarnings("ignore")

DEFAULT = torch._C.DispatchKey.CompositeExplicitAutograd
CPU = torch._C.DispatchKey.CPU


def reference(op: Any, *args: Any, kernel: Any = DEFAULT, **kwargs: Any) -> Cost:
    """What the ops cost that the library's kernel in Python is made of."""
    return measured(lambda: op.default._op_dk(kernel, *copy.deepcopy(args), **kwargs))


def cost_of(op: Any, *args: Any, **kwargs: Any) -> Cost:
    return measured(lambda: op(*copy.deepcopy(args), **kwargs))


def test_every_op_is_decided() -> None:
    overloads = [op for op in all_overloads() if op.namespace == "bitsandbytes"]
    undecided = [op for op in overloads if plan_of(op).decision is Decision.UNCOUNTED]
    assert overloads
    assert not undecided


# -- blocks: 8 rows of 128 values are 16 blocks of 64

X = torch.randn(8, 128, generator=torch.Generator().manual_seed(0))
CODE = functional.create_dynamic_map()
Q8, SCALES8 = ops.quantize_blockwise(X, CODE, 64)
Q4, SCALES4 = ops.quantize_4bit(X, 64, "nf4", torch.uint8)
TOKENS = torch.randn(3, 5, 128)
RECIPROCALS = Cost(arith=16)
"""torch divides 1 by a block's scale in two steps: the inverse, times 1."""


def test_values_become_places_in_a_table() -> None:
    """The kernel also halves the sums of the 255 pairs of neighbours in a table of 256."""
    table = Cost(arith=2 * 255)
    cost = cost_of(ops.quantize_blockwise, X, CODE, 64)
    assert cost + RECIPROCALS + table == reference(ops.quantize_blockwise, X, CODE, 64)
    how = X, 64, "nf4", torch.uint8
    assert cost_of(ops.quantize_4bit, *how) + RECIPROCALS == reference(ops.quantize_4bit, *how)


def test_a_value_that_is_looked_up_is_multiplied_once() -> None:
    blocks, bits = (Q8, SCALES8, CODE, 64), (Q4, SCALES4, 64, "nf4", [8, 128])
    for op, args in ((ops.dequantize_blockwise, blocks), (ops.dequantize_4bit, bits)):
        cost = cost_of(op, *args, torch.float32)
        assert cost == reference(op, *args, torch.float32) == Cost(arith=8 * 128)


def test_a_place_for_the_result_is_written_alone() -> None:
    """Only an accelerator has kernels for it."""
    q4, scales, code, x, out = (t.to("meta") for t in (Q4, SCALES4, CODE, TOKENS, X))
    dequantize = q4, scales, 64, "nf4", [8, 128], torch.float32
    table = torch.empty(16, device="meta")
    for op, args, result in (
        (ops.dequantize_4bit, dequantize, out),
        (ops.dequantize_blockwise, (Q8.to("meta"), scales, code, 64, torch.float32), out),
        (ops.gemv_4bit, (x, q4, [8, 128], scales, table, 64), x.new_empty(3, 5, 8)),
    ):
        returned = plan_of(op.default).bill(args, {}, result).cost
        filled = plan_of(op.out).bill((*args, result), {}, None).cost
        assert returned == filled
        assert filled.written == 4 * result.numel()


@pytest.mark.parametrize("bias", [None, torch.ones(8)], ids=["no bias", "bias"])
def test_a_product_with_weights_of_4_bits(bias: Tensor | None) -> None:
    """15 rows, 128 long, with 8 columns; the weight is 8·128, whatever its storage is."""
    args = TOKENS, Q4, [8, 128], SCALES4, 64, "nf4"
    cost = cost_of(ops.gemm_4bit, *args, bias=bias)
    added = 15 * 8 if bias is not None else 0
    assert cost == Cost(macs=15 * 128 * 8, dots=15 * 8, arith=8 * 128 + added)
    assert cost == reference(ops.gemm_4bit, *args, bias=bias)


def test_scales_that_are_kept_in_8_bits_are_decoded_and_shifted() -> None:
    offset = SCALES4.mean()
    scales, outer = functional.quantize_blockwise(SCALES4 - offset, blocksize=256)
    nested = {"absmax_8bit": scales, "absmax_code": outer.code, "absmax_offset": offset}
    args = TOKENS, Q4, [8, 128], outer.absmax, 64, "nf4"
    cost = cost_of(ops.gemm_4bit, *args, **nested)
    assert cost == Cost(macs=15 * 128 * 8, dots=15 * 8, arith=8 * 128 + 2 * 16)
    assert cost == reference(ops.gemm_4bit, *args, **nested)


def test_one_row_and_several() -> None:
    """The kernel looks at one number of the table, to know which it is.

    The formula is asked on shapes: on CPUs with bfloat16 the library has a kernel that aborts on
    as few rows.
    """
    table = functional.get_4bit_type("nf4", device="cpu")
    args = TOKENS, Q4, [8, 128], SCALES4, table, 64
    cost = cost_of(ops.gemv_4bit, *(a.to("meta") if isinstance(a, Tensor) else a for a in args))
    assert cost == Cost(macs=15 * 128 * 8, dots=15 * 8, arith=8 * 128)
    assert cost + Cost(compare=1) == reference(ops.gemv_4bit, *args)


def test_a_packed_weight_is_read_as_it_is_stored() -> None:
    """15·128 and 16 floats, 8·128 halves of a byte; 15·8 floats are written."""
    total = report_of(lambda: ops.gemm_4bit(TOKENS, Q4, [8, 128], SCALES4, 64, "nf4")).total
    assert total.read == 4 * 15 * 128 + 8 * 128 // 2 + 4 * 16
    assert total.written == 4 * 15 * 8


# -- integers with a scale for each row

A8, ROWS, _ = ops.int8_vectorwise_quant(X)
B8, COLUMNS, _ = ops.int8_vectorwise_quant(torch.randn(6, 128))


def test_rows_become_integers() -> None:
    """torch makes 127 / max |x| of an inverse and a product; with a threshold the kernel takes
    |x| twice."""
    plain = cost_of(ops.int8_vectorwise_quant, X)
    assert plain == Cost(arith=8 + 1024, compare=1024 + (1024 - 8) + 1024)
    assert plain + Cost(arith=8) == reference(ops.int8_vectorwise_quant, X)
    outliers = cost_of(ops.int8_vectorwise_quant, X, 2.0)
    assert outliers - plain == Cost(compare=1024)
    again = Cost(arith=8, compare=1024)
    assert outliers + again == reference(ops.int8_vectorwise_quant, X, 2.0)


def test_rows_and_columns_become_integers() -> None:
    """Of 8 rows and 128 columns, which only a CUDA kernel does; and with outliers."""
    meta = X.to("meta")
    results = meta, meta, torch.empty(8, device="meta"), torch.empty(128, device="meta"), None
    op = ops.int8_double_quant.default
    both = Cost(arith=8 + 128 + 2 * 1024, compare=2 * (1024 + 1024 + 1024) - 8 - 128)
    assert billed(op, meta, out=results) == both
    assert billed(op, meta, 6.0, out=results) == both + Cost(compare=2 * 1024)


def integers_and_floats(function: Callable[[], Any], floats: str) -> tuple[Cost, Cost]:
    by_dtype = report_of(function).by_dtype()
    parts = [by_dtype.get("int8", Cost()), by_dtype[floats]]
    return replace(parts[0], read=0, written=0), replace(parts[1], read=0, written=0)


PRODUCT = Cost(macs=8 * 128 * 6, dots=8 * 6)


def test_integer_products_are_no_flops() -> None:
    assert cost_of(ops.int8_linear_matmul, A8, B8) == PRODUCT
    result = torch.empty(8, 6, dtype=torch.int32)
    report = report_of(lambda: ops.int8_linear_matmul.out(A8, B8, result))
    assert report.by_dtype()["int8"] == replace(PRODUCT, read=14 * 128, written=4 * 48)
    args = A8, B8, ROWS, COLUMNS
    bias = torch.ones(6, dtype=torch.half)
    integers, floats = integers_and_floats(lambda: ops.int8_scaled_mm(*args, bias=bias), "float32")
    assert integers == PRODUCT
    assert floats == Cost(arith=(3 + 1) * 48)
    assert integers + floats == reference(ops.int8_scaled_mm, *args, bias=bias)
    assert report_of(lambda: ops.int8_scaled_mm(*args)).hardware_flops == 0


def test_sums_of_integers_are_scaled() -> None:
    sums = ops.int8_linear_matmul(A8, B8)
    args = sums, ROWS, COLUMNS
    assert cost_of(ops.int8_mm_dequant, *args) == Cost(arith=3 * 48)
    for more in ({}, {"bias": torch.ones(6)}):
        cost = cost_of(ops.int8_mm_dequant, *args, **more)
        assert cost == reference(ops.int8_mm_dequant, *args, **more)
    cost = cost_of(ops.int8_vectorwise_dequant, A8, ROWS)
    assert cost == reference(ops.int8_vectorwise_dequant, A8, ROWS) == Cost(arith=2 * 1024)


@pytest.mark.parametrize("columns", [[1, 5, 7], []], ids=["three", "none"])
def test_columns_with_outliers_are_products_of_floats(columns: list[int]) -> None:
    """8·6 dot products of length 3, added to the others; 6·3 weights, 2 products each."""
    outliers = torch.tensor(columns, dtype=torch.long)
    args = X.half(), A8, B8, ROWS, COLUMNS, outliers
    integers, floats = integers_and_floats(lambda: ops.int8_mixed_scaled_mm(*args), "float16")
    assert integers == PRODUCT
    rescaled = Cost(arith=3 * 48)
    mixed = Cost(macs=48 * 3, dots=48, arith=48 + 2 * 18) if columns else Cost()
    assert floats == rescaled + mixed
    by_kernel = reference(ops.int8_mixed_scaled_mm, *args)
    assert integers + floats == by_kernel


# -- optimizers: 512 parameters, whose states of 8 bits are 2 blocks of 256

N = 512
ONE_STEP = {"adam": 12, "lamb": 12, "ademamix": 19, "rmsprop": 9, "adagrad": 7, "lion": 9}
"""Operations for a parameter, without decay and with gradients as they are."""


def arguments(
    name: str, *, bits: int, step: int = 3, decay: float = 0.1, scale: float = 0.5
) -> Any:
    shape = (2, N) if name == "ademamix" else (N,)
    has_second = name in ("adam", "lamb", "ademamix")
    g, p = torch.rand(N), torch.rand(N)
    betas = 0.9, 0.99, 0.999, 0.5
    if bits == 32:
        norm = 0.5 if name in ("lamb", "lars") else 0.0
        second = torch.rand(N) if has_second else None
        sizes = torch.zeros(1) if norm else None
        numbers = *betas, 1e-8, decay, step, 0.1, scale
        return name, g, p, torch.rand(shape), second, sizes, norm, 1.0, *numbers
    second, code, blocks = None, None, None
    if has_second:
        second, code, blocks = torch.zeros(N, dtype=torch.uint8), CODE, torch.ones(2)
    first = torch.ones(*shape[:-1], 2)
    states = torch.zeros(shape, dtype=torch.uint8), second
    return name, g, p, *states, *betas, 1e-8, step, 0.1, CODE, code, first, blocks, decay, scale


@pytest.mark.parametrize("name", [*ONE_STEP, "momentum", "lars"])
@pytest.mark.parametrize("step", [1, 3])
def test_a_step_costs_what_the_kernel_in_python_does(name: str, step: int) -> None:
    for bits, op in (
        (32, ops.optimizer_update_32bit),
        (8, ops.optimizer_update_8bit_blockwise),
    ):
        args = arguments(name, bits=bits, step=step)
        assert cost_of(op, *args) == reference(op, *args, kernel=CPU)


def test_operations_for_a_parameter() -> None:
    """Without decay; a scale of 1 is no product. LAMB's norm is a square and a sum for each."""
    op = ops.optimizer_update_32bit
    for name, operations in ONE_STEP.items():
        norm = 2 if name == "lamb" else 0
        cost = cost_of(op, *arguments(name, bits=32, decay=0.0, scale=1.0))
        assert cost.flops == N * (operations + norm)
    momentum = [arguments("momentum", bits=32, decay=0.0, scale=1.0, step=s) for s in (1, 2, 3)]
    assert [cost_of(op, *args).flops for args in momentum] == [2 * N, 4 * N, 4 * N]
    decays = {name: arguments(name, bits=32, scale=1.0) for name in ("adagrad", "lion")}
    costs = [cost_of(op, *args).flops for args in decays.values()]
    assert costs == [(7 + 2) * N, (9 + 1) * N]  # the gradient, or the parameter, decays


def test_states_of_8_bits_become_floats_and_bytes_again() -> None:
    """For each of 2·512: a product; |x|, a maximum, a product, 2 bounds, 8 comparisons."""
    adam = cost_of(ops.optimizer_update_8bit_blockwise, *arguments("adam", bits=8))
    alone = cost_of(ops.optimizer_update_32bit, *arguments("adam", bits=32))
    states = Cost(arith=2 * (N + N + 2), compare=2 * (N + (N - 2) + 2 + 2 * N + 8 * N))
    assert adam - alone == states + Cost(arith=N)


def test_gradients_and_tables_are_only_read() -> None:
    args = arguments("adam", bits=8)
    total = report_of(ops.optimizer_update_8bit_blockwise, *args).total
    kept = 4 * N + 2 * N + 2 * 4 * 2  # the parameter, both states, the scales of their blocks
    assert (total.read, total.written) == (kept + 4 * N + 4 * 256, kept)
    args = arguments("lion", bits=32)
    total = report_of(ops.optimizer_update_32bit, *args).total
    assert (total.read, total.written) == (4 * 3 * N, 4 * 2 * N)


def test_an_unknown_optimizer_is_uncounted() -> None:
    args = (
        "sophia",
        *(t.to("meta") if isinstance(t, Tensor) else t for t in arguments("lion", bits=32)[1:]),
    )
    with FlopCounter() as counter:
        ops.optimizer_update_32bit(*args)
    assert counter.report().uncounted == {"bitsandbytes.optimizer_update_32bit": 1}


def test_steps_are_not_told_apart() -> None:
    """Each has another number, and costs the same: one bill, not one for each step."""
    plan = plan_of(ops.optimizer_update_32bit.default)
    plan.bills.clear()
    with FlopCounter():
        for step in range(2, 12):
            ops.optimizer_update_32bit(*arguments("lion", bits=32, step=step, scale=1 / step))
    assert len(plan.bills) == 1
