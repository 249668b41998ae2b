"""Quantised ops: int8 contractions keep their MACs; only floats do floating-point arithmetic."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import flopcount
from flopcount import Cost

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch.ao.nn.intrinsic.quantized.dynamic as nniqd
    import torch.ao.nn.quantized as nnq
    import torch.ao.nn.quantized.dynamic as nnqd

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def engine() -> Any:
    """Any engine that packs weights will do; restored afterwards."""
    before = torch.backends.quantized.engine
    choice = [e for e in ("fbgemm", "qnnpack") if e in torch.backends.quantized.supported_engines]
    if not choice:
        pytest.skip("this build of torch has no quantised kernels")
    torch.backends.quantized.engine = choice[0]
    yield
    torch.backends.quantized.engine = before


def quantized(*shape: int) -> Tensor:
    return torch.quantize_per_tensor(torch.rand(*shape), 0.1, 3, torch.quint8)


def cost_of(function: Any, *args: Any) -> tuple[Cost, dict[str, Any]]:
    """The total cost of one call, and its only row that is not an allocation."""
    with flopcount.FlopCounter(strict=True) as counter:
        function(*args)
    report = counter.report()
    return report.total, max(report.rows(), key=lambda row: row["read"])


CONTRACTIONS = {
    # layer, input, macs, taps on padding, outputs
    "a 3×3 convolution of 4 to 6 channels on 5×7": (
        lambda: nnq.Conv2d(4, 6, 3),
        (2, 4, 5, 7),
        (2 * 6 * 3 * 5) * (4 * 3 * 3),
        0,
        2 * 6 * 3 * 5,
    ),
    "its padding is void: of 3 positions × 3 taps one meets it on either side": (
        lambda: nnq.Conv2d(4, 6, 3, padding=1),
        (1, 4, 3, 3),
        (6 * 9) * (4 * 9),
        (6 * 4) * (9 * 9 - 7 * 7),
        6 * 9,
    ),
    "groups and strides divide the work": (
        lambda: nnq.Conv2d(4, 6, 3, groups=2, stride=2),
        (1, 4, 7, 7),
        (6 * 3 * 3) * (2 * 9),
        0,
        6 * 9,
    ),
    "one dimension, whose weight is packed as two": (
        lambda: nnq.Conv1d(4, 6, 3, stride=2, padding=1),
        (2, 4, 9),
        (2 * 6 * 5) * (4 * 3),
        2 * 6 * 4 * 2,  # the first tap at the first position, the last at the last
        2 * 6 * 5,
    ),
    "three dimensions": (
        lambda: nnq.Conv3d(2, 3, 2),
        (1, 2, 3, 4, 5),
        (3 * 2 * 3 * 4) * (2 * 8),
        0,
        3 * 2 * 3 * 4,
    ),
    "a linear layer on two batch dimensions": (
        lambda: nnq.Linear(8, 5),
        (2, 3, 8),
        (2 * 3 * 5) * 8,
        0,
        2 * 3 * 5,
    ),
}


def test_a_packed_weight_is_counted_at_each_call_and_not_kept() -> None:
    """Its object is a new one each time: nothing tells whether a call is like the one before."""
    layer = nnq.Linear(8, 5)
    with flopcount.FlopCounter() as counter:
        for _ in range(3):
            layer(quantized(2, 8))
    assert counter.report().total.macs == 3 * (2 * 8 * 5)
    ops = {bill.op for _, bill in counter._local.tally.calls.values()}
    assert "quantized.linear" not in ops


@pytest.mark.parametrize("case", CONTRACTIONS.values(), ids=CONTRACTIONS.keys())
def test_a_contraction_keeps_its_macs_in_rows_of_its_own_dtype(case: Any) -> None:
    layer, shape, macs, void, dots = case
    total, row = cost_of(layer(), quantized(*shape))
    assert (total.macs, total.void_macs, total.dots) == (macs, void, dots)
    assert total.flops == 2 * macs  # no bias, no rescaling: integers
    assert row["dtype"] == "quint8"


@pytest.mark.parametrize(
    ("quantised", "floating", "shape"),
    [
        (nnq.Conv1d(4, 6, 5, 2, 2, 1, 2), torch.nn.Conv1d(4, 6, 5, 2, 2, 1, 2), (3, 4, 11)),
        (nnq.Conv2d(4, 6, 3, 1, 2, 2), torch.nn.Conv2d(4, 6, 3, 1, 2, 2), (2, 4, 9, 8)),
        (nnq.Linear(7, 3), torch.nn.Linear(7, 3), (4, 7)),
        (
            nnq.ConvTranspose2d(4, 6, 3, 2, 1, 1),
            torch.nn.ConvTranspose2d(4, 6, 3, 2, 1, 1),
            (2, 4, 5, 3),
        ),
        (nnq.ConvTranspose1d(4, 6, 3, 2), torch.nn.ConvTranspose1d(4, 6, 3, 2), (2, 4, 5)),
    ],
    ids=[
        "conv1d, strided and grouped",
        "conv2d, dilated",
        "linear",
        "transposed, padded on one side of its output",
        "transposed, of one dimension",
    ],
)
def test_macs_are_those_of_the_float_layer(quantised: Any, floating: Any, shape: Any) -> None:
    ours, _ = cost_of(quantised, quantized(*shape))
    theirs = flopcount.count(floating, torch.rand(*shape), backward=False).total
    assert (ours.macs, ours.dots, ours.void_macs) == (theirs.macs, theirs.dots, theirs.void_macs)


DYNAMIC = {
    "linear": (lambda: nnqd.Linear(7, 3), torch.nn.Linear(7, 3), (4, 7)),
    "linear and ReLU": (
        lambda: nniqd.LinearReLU(7, 3),
        torch.nn.Sequential(torch.nn.Linear(7, 3), torch.nn.ReLU()),
        (2, 4, 7),
    ),
    "conv1d": (lambda: nnqd.Conv1d(4, 6, 3), torch.nn.Conv1d(4, 6, 3), (2, 4, 7)),
    "conv2d, padded": (
        lambda: nnqd.Conv2d(4, 6, 3, padding=1),
        torch.nn.Conv2d(4, 6, 3, padding=1),
        (2, 4, 5, 3),
    ),
}


@pytest.mark.parametrize(("quantised", "floating", "shape"), DYNAMIC.values(), ids=DYNAMIC.keys())
def test_floats_quantised_on_the_fly(quantised: Any, floating: Any, shape: Any) -> None:
    ours, row = cost_of(quantised(), torch.rand(*shape))
    theirs = flopcount.count(floating, torch.rand(*shape), backward=False).total
    assert (ours.macs, ours.dots, ours.void_macs) == (theirs.macs, theirs.dots, theirs.void_macs)
    assert row["dtype"] == "float32"
    n, m = torch.Size(shape).numel(), floating(torch.rand(*shape)).numel()
    # a scale from the range; x / scale; results times a factor; the bias, as without quantising
    assert ours.arith == 2 + n + m + theirs.arith
    assert ours.compare == 2 * (n - 1) + n + theirs.compare  # minimum, maximum, rounding; ReLU


@pytest.mark.parametrize(("quantised", "floating", "shape"), DYNAMIC.values(), ids=DYNAMIC.keys())
def test_products_of_integers_between_floats_are_no_flops(
    quantised: Any, floating: Any, shape: Any
) -> None:
    with flopcount.FlopCounter() as counter:
        quantised()(torch.rand(*shape))
    report = counter.report()
    integers, floats = report.by_dtype()["int8"], report.by_dtype()["float32"]
    assert integers == Cost(
        macs=report.total.macs, dots=report.total.dots, void_macs=report.total.void_macs
    )
    assert floats.macs == 0 < floats.arith
    assert report.model_flops == report.hardware_flops == 0


@pytest.mark.parametrize(
    ("half", "floating"),
    [
        (nnqd.Linear(7, 3, dtype=torch.float16), torch.nn.Linear(7, 3)),
        (
            nniqd.LinearReLU(7, 3, dtype=torch.float16),
            torch.nn.Sequential(torch.nn.Linear(7, 3), torch.nn.ReLU()),
        ),
    ],
    ids=["linear", "linear and ReLU"],
)
def test_a_weight_of_half_as_many_bits_costs_what_the_float_layer_does(
    half: Any, floating: Any
) -> None:
    ours, _ = cost_of(half, torch.rand(4, 7))
    theirs = flopcount.count(floating, torch.rand(4, 7), backward=False).total
    assert replace(ours, read=0, written=0) == replace(theirs, read=0, written=0)
    assert ours.macs == 4 * 7 * 3
    assert ours.read == 4 * (4 * 7) + 2 * (7 * 3) + 4 * 3  # its weight alone


def test_a_weight_that_is_no_packed_one() -> None:
    op = torch.ops.quantized.linear_dynamic_fp16_unpacked_weight
    ours, _ = cost_of(op, torch.rand(4, 7), torch.rand(3, 7), torch.rand(3))
    assert (ours.macs, ours.dots, ours.arith) == (4 * 7 * 3, 4 * 3, 4 * 3)


def test_a_product_of_two_integers() -> None:
    a, b = quantized(2, 3, 5), quantized(2, 5, 4)
    total, row = cost_of(torch.ops.quantized.matmul, a, b, 0.1, 0)
    assert (total.macs, total.dots, total.flops) == (2 * 3 * 5 * 4, 2 * 3 * 4, 2 * 2 * 3 * 5 * 4)
    assert row["dtype"] == "quint8"


def test_packing_a_weight_is_no_work() -> None:
    total, _ = cost_of(lambda: nnq.Linear(8, 5))
    assert total.flops == 0


def test_relu_in_the_kernel_adds_nothing() -> None:
    packed = nnq.Conv2d(4, 6, 3)._packed_params
    plain, _ = cost_of(torch.ops.quantized.conv2d, quantized(1, 4, 5, 5), packed, 0.1, 0)
    fused, _ = cost_of(torch.ops.quantized.conv2d_relu, quantized(1, 4, 5, 5), packed, 0.1, 0)
    assert fused == plain


@pytest.mark.parametrize("op", ["conv2d_add", "conv2d_add_relu"])
def test_integers_that_are_added_in_the_kernel_are_read(op: str) -> None:
    if "onednn" not in torch.backends.quantized.supported_engines:
        pytest.skip("no kernel adds to a convolution")
    torch.backends.quantized.engine = "onednn"
    packed, x = nnq.Conv2d(4, 6, 3)._packed_params, quantized(1, 4, 5, 5)
    plain, _ = cost_of(torch.ops.quantized.conv2d, x, packed, 0.1, 0)
    added, _ = cost_of(getattr(torch.ops.quantized, op), x, quantized(1, 6, 3, 3), packed, 0.1, 0)
    assert (added.macs, added.flops) == (plain.macs, plain.flops) == (54 * 36, 2 * 54 * 36)
    assert added.read == plain.read + 54


def test_the_packed_weight_is_read_int8_and_its_bias_float32() -> None:
    _, row = cost_of(nnq.Linear(8, 5), quantized(2, 8))
    assert row["read"] == 2 * 8 + 5 * 8 + 4 * 5
    assert row["written"] == 2 * 5


def test_equal_shapes_with_different_packed_weights_are_told_apart() -> None:
    # one input, outputs of one shape: only the weights differ
    small, large = nnq.Conv2d(4, 6, 1), nnq.Conv2d(4, 6, 3, padding=1)
    x = quantized(1, 4, 5, 5)
    with flopcount.FlopCounter() as counter:
        for layer in (small, large, small):
            torch.ops.quantized.conv2d(x, layer._packed_params, 0.1, 0)
    one, nine = 6 * 25 * 4 * 1, 6 * 25 * 4 * 9
    assert counter.report().total.macs == 2 * one + nine


@pytest.mark.parametrize(
    "into",
    [
        lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
        lambda x: torch.quantize_per_tensor(x, torch.tensor(0.1), torch.tensor(0), torch.quint8),
        lambda x: torch.quantize_per_channel(
            x, torch.ones(3), torch.zeros(3, dtype=torch.long), 0, torch.qint8
        ),
    ],
    ids=["with a scale", "with a scale in a tensor", "with a scale for each channel"],
)
def test_quantising_divides_and_rounds_each_element(into: Any) -> None:
    total, row = cost_of(into, torch.rand(3, 4))
    assert (total.arith, total.compare, row["dtype"]) == (12, 12, "float32")


def test_dequantising_multiplies_each_element_by_the_scale() -> None:
    total, row = cost_of(torch.dequantize, quantized(3, 4))
    assert (total.flops, total.arith, row["dtype"]) == (12, 12, "float32")
    assert (total.read, total.written) == (12, 4 * 12)


@pytest.mark.parametrize(
    ("work", "read"),
    [
        (lambda q: torch.ops.quantized.add(q, q, 0.1, 0), 12),
        (lambda q: torch.ops.quantized.add_relu(q, q, 0.1, 0), 12),
        (lambda q: torch.ops.quantized.mul(q, q, 0.1, 0), 12),
        (lambda q: torch.ops.quantized.hardswish(q, 0.1, 0), 12),
        (lambda q: torch.ops.quantized.cat([q], 0, 0.1, 0), 12),
        (lambda q: q.int_repr(), 12),
        (lambda q: torch.native_channel_shuffle(q.view(1, 4, 3, 1), 2), 12),
    ],
    ids=["add", "add_relu", "mul", "hardswish", "cat", "int_repr", "channel shuffle"],
)
def test_integer_work_moves_bytes_and_is_no_flop(work: Any, read: int) -> None:
    total, _ = cost_of(work, quantized(3, 4))
    assert (total.flops, total.read, total.written) == (0, read, 12)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("add_scalar", (2.0,)),
        ("elu", (0.1, 0)),
        ("group_norm", (2, None, None, 1e-5, 0.1, 0)),
        ("layer_norm", ([5, 5], None, None, 1e-5, 0.1, 0)),
        ("leaky_relu", (0.1, False, 0.1, 0)),
        ("mul_scalar", (2.0,)),
        ("relu6", ()),
        ("sigmoid", (0.1, 0)),
        ("softmax", (1, 0.1, 0)),
    ],
)
def test_a_layer_from_integers_to_integers_is_no_flop(name: str, settings: Any) -> None:
    x = quantized(1, 4, 5, 5)
    with flopcount.FlopCounter() as counter:
        getattr(torch.ops.quantized, name)(x, *settings)
    report = counter.report()
    assert not report.uncounted
    assert (report.total.flops, report.total.read, report.total.written) == (0, 100, 100)
