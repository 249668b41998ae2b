"""oneDNN's kernels, against the ops that they stand for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flopcount import Cost, FlopCounter
from flopcount.formulas import plan_of
from tests.formulas.decomposed import billed

if not torch.backends.mkldnn.is_available():
    pytest.skip("this build of torch has no oneDNN", allow_module_level=True)

aten, mkldnn = torch.ops.aten, torch.ops.mkldnn
M, K, N = 5, 3, 4
X, W, B, Y = torch.rand(M, K), torch.rand(N, K), torch.rand(N), torch.rand(M, N)
IMAGE, KERNEL, BIAS = torch.rand(2, 3, 6, 5), torch.rand(4, 3, 3, 2), torch.rand(4)
PADDING, STRIDE, DILATION = [1, 1], [2, 1], [1, 1]
SETTINGS = (PADDING, STRIDE, DILATION, 1)
CONVOLVED = F.conv2d(IMAGE, KERNEL, BIAS, STRIDE, PADDING)


def cost_of(call: Any) -> Cost:
    """Without bytes: a fused kernel moves fewer."""
    with FlopCounter(strict=True) as counter, torch.no_grad():
        call()
    return replace(counter.report().total, read=0, written=0)


PRODUCT = Cost(macs=M * N * K, dots=M * N)

CASES = {
    "a linear layer": (
        lambda: mkldnn._linear_pointwise(X, W, B, "none", [], ""),
        lambda: F.linear(X, W, B),
    ),
    "without a bias": (
        lambda: mkldnn._linear_pointwise(X, W, None, "none", [], ""),
        lambda: F.linear(X, W),
    ),
    "and ReLU": (
        lambda: mkldnn._linear_pointwise(X, W, B, "relu", [], ""),
        lambda: F.relu(F.linear(X, W, B)),
    ),
    "and GELU by erf": (
        lambda: mkldnn._linear_pointwise(X, W, B, "gelu", [], "none"),
        lambda: F.gelu(F.linear(X, W, B)),
    ),
    "and GELU by tanh": (
        lambda: mkldnn._linear_pointwise(X, W, B, "gelu", [], "tanh"),
        lambda: F.gelu(F.linear(X, W, B), approximate="tanh"),
    ),
    "and swish": (
        lambda: mkldnn._linear_pointwise(X, W, B, "swish", [], ""),
        lambda: F.silu(F.linear(X, W, B)),
    ),
    "and an addition": (
        lambda: mkldnn._linear_pointwise(X, Y, W, B, "add"),
        lambda: F.linear(X, W, B) + Y,
    ),
    "and a product": (
        lambda: mkldnn._linear_pointwise(X, Y, W, B, "mul"),
        lambda: F.linear(X, W, B) * Y,
    ),
    "a convolution and ReLU": (
        lambda: mkldnn._convolution_pointwise(IMAGE, KERNEL, BIAS, *SETTINGS, "relu", [], ""),
        lambda: F.relu(F.conv2d(IMAGE, KERNEL, BIAS, STRIDE, PADDING)),
    ),
    "a convolution, an addition and ReLU": (
        lambda: mkldnn._convolution_pointwise(
            IMAGE, CONVOLVED, KERNEL, BIAS, *SETTINGS, "add", None, "relu", [], ""
        ),
        lambda: F.relu(F.conv2d(IMAGE, KERNEL, BIAS, STRIDE, PADDING) + CONVOLVED),
    ),
    "the same in place": (
        lambda: mkldnn._convolution_pointwise_(
            CONVOLVED.clone(), IMAGE, KERNEL, BIAS, *SETTINGS, "add", None, "relu", [], ""
        ),
        lambda: F.relu(F.conv2d(IMAGE, KERNEL, BIAS, STRIDE, PADDING) + CONVOLVED),
    ),
    "a transposed convolution": (
        lambda: mkldnn._convolution_transpose_pointwise(
            IMAGE,
            KERNEL.transpose(0, 1),
            BIAS,
            PADDING,
            [1, 0],
            STRIDE,
            DILATION,
            1,
            "none",
            [],
            "",
        ),
        lambda: F.conv_transpose2d(IMAGE, KERNEL.transpose(0, 1), BIAS, STRIDE, PADDING, [1, 0]),
    ),
}


@pytest.mark.parametrize(("fused", "steps"), CASES.values(), ids=CASES.keys())
def test_one_kernel_costs_what_its_steps_do(fused: Any, steps: Any) -> None:
    torch.testing.assert_close(fused(), steps())
    cost = cost_of(fused)
    assert cost == cost_of(steps)
    assert cost.macs in (PRODUCT.macs, KERNEL.numel() * 2 * 3 * 6, KERNEL.numel() * 2 * 6 * 5)


def test_a_factor_of_what_is_added_is_a_product() -> None:
    op = mkldnn._convolution_pointwise.binary
    arguments = IMAGE, CONVOLVED, KERNEL, BIAS, *SETTINGS, "add"
    once = billed(op, *arguments, None, None, [], "", out=CONVOLVED)
    twice = billed(op, *arguments, 2.0, None, [], "", out=CONVOLVED)
    assert twice.arith - once.arith == CONVOLVED.numel()


def test_a_weight_in_mkls_order_costs_the_same() -> None:
    op = getattr(torch.ops.mkl, "_mkl_linear", None)
    if op is None:
        pytest.skip("this build of torch has no MKL")
    assert billed(op.default, X, W, W, B, M, out=Y) == PRODUCT + Cost(arith=M * N)


def opaque(*tensors: Tensor) -> list[Tensor]:
    return [tensor.to_mkldnn() for tensor in tensors]


def test_tensors_in_an_order_of_onednns_own_cost_what_plain_ones_do() -> None:
    x, w = opaque(X, W)
    assert cost_of(lambda: torch._C._nn.mkldnn_linear(x, w, B)) == PRODUCT + Cost(arith=M * N)
    (image,) = opaque(IMAGE)
    with FlopCounter(strict=True) as counter:
        image.relu()
    total = counter.report().total
    assert (total.compare, total.read, total.written) == (180, 4 * 180, 4 * 180)  # 2·3·6·5
    assert cost_of(lambda: F.conv2d(image, KERNEL, BIAS, STRIDE, PADDING)) == cost_of(
        lambda: F.conv2d(IMAGE, KERNEL, BIAS, STRIDE, PADDING)
    )


def test_the_gradients_of_a_linear_layer() -> None:
    grad = torch.rand(M, N)
    for_input, for_weight = cost_of(lambda: grad @ W), cost_of(lambda: grad.T @ X)
    assert for_input.macs == for_weight.macs == PRODUCT.macs
    parts = {"input": for_input, "weight": for_weight, "bias": cost_of(lambda: grad.sum(0))}

    def gradients(op: Any, *args: Any, out: Any) -> dict[str, Cost]:
        return plan_of(op.default).bill(args, {}, out).gradients

    every = [True, True, True]
    whole = gradients(aten.mkldnn_linear_backward, X, grad, W, every, out=[X, W, B])
    one = gradients(aten.mkldnn_linear_backward_input, [M, K], grad, W, out=X)
    two = gradients(aten.mkldnn_linear_backward_weights, grad, X, W, True, out=[W, B])
    assert whole == one | two == parts
    alone = gradients(aten.mkldnn_linear_backward_weights, grad, X, W, False, out=[W, B])
    assert alone == {"weight": for_weight}


def test_another_order_of_a_weight_is_no_work() -> None:
    assert cost_of(lambda: mkldnn._reorder_linear_weight(W, M)) == Cost()


# -- 8-bit integers

onednn = torch.ops.onednn
needs_integers = pytest.mark.skipif(
    not hasattr(onednn, "qlinear_pointwise"), reason="this build of torch has no such kernel"
)
QX = torch.randint(0, 255, (2, M, K), dtype=torch.uint8)
QW = torch.randint(-128, 127, (N, K), dtype=torch.int8)
SCALES, ZEROS = torch.rand(N), torch.zeros(N, dtype=torch.int32)
QIMAGE = torch.randint(0, 255, IMAGE.shape, dtype=torch.uint8)
QKERNEL = torch.randint(-128, 127, KERNEL.shape, dtype=torch.int8)
RESULTS = CONVOLVED.numel()


def qlinear(dtype: torch.dtype, bias: Tensor | None, then: str) -> Any:
    packed = onednn.qlinear_prepack(QW, None)
    weight = packed, SCALES, ZEROS, bias
    return lambda: onednn.qlinear_pointwise(QX, 0.1, 3, *weight, 1.0, 0, dtype, then, [], "")


def qconv(dtype: torch.dtype, bias: Tensor | None, then: str) -> Any:
    settings = STRIDE, PADDING, DILATION, 1
    packed = onednn.qconv_prepack(QKERNEL, SCALES, 0.1, 3, *settings, None)
    weight = packed, SCALES, ZEROS, bias, *settings
    return lambda: onednn.qconv_pointwise(QIMAGE, 0.1, 3, *weight, 1.0, 0, dtype, then, [], "")


@needs_integers
@pytest.mark.parametrize(
    ("dtype", "bias", "then", "steps"),
    [
        (torch.uint8, B, "relu", Cost()),
        (torch.float32, None, "none", Cost(arith=1)),
        (torch.float32, B, "relu", Cost(arith=2, compare=1)),
    ],
    ids=["to integers", "a product with the scales", "bias and ReLU"],
)
def test_integers_meet_integers_and_floats_come_out_scaled(
    dtype: torch.dtype, bias: Tensor | None, then: str, steps: Cost
) -> None:
    outputs = 2 * M * N
    product = Cost(macs=outputs * K, dots=outputs)
    assert cost_of(qlinear(dtype, bias, then)) == product + outputs * steps
    plain = cost_of(lambda: F.conv2d(IMAGE, KERNEL, None, STRIDE, PADDING))
    assert plain.void_macs > 0
    assert cost_of(qconv(dtype, bias, then)) == plain + RESULTS * steps


@needs_integers
def test_products_of_integers_are_no_flops_whatever_comes_out() -> None:
    for dtype in (torch.uint8, torch.float32):
        for call in (qlinear(dtype, None, "none"), qconv(dtype, None, "none")):
            with FlopCounter() as counter:
                call()
            report = counter.report()
            assert report.by_dtype()["int8"].macs == report.total.macs > 0
            assert report.model_flops == 0


@needs_integers
def test_another_operand_is_added_to_a_product_of_integers() -> None:
    other, packed = torch.rand(2, M, N), onednn.qlinear_prepack(QW, None)
    settings = 1.0, 0, torch.float32, 1.0, 0, "sum", 1.0, "relu", [], ""
    outputs = 2 * M * N
    assert cost_of(
        lambda: onednn.qlinear_pointwise.binary(
            QX, 0.1, 3, packed, SCALES, ZEROS, other, B, *settings
        )
    ) == Cost(macs=outputs * K, dots=outputs, arith=3 * outputs, compare=outputs)

    geometry = STRIDE, PADDING, DILATION, 1
    packed = onednn.qconv_prepack(QKERNEL, SCALES, 0.1, 3, *geometry, None)
    total = torch.rand_like(CONVOLVED).to(memory_format=torch.channels_last)
    plain = cost_of(lambda: F.conv2d(IMAGE, KERNEL, None, STRIDE, PADDING))
    assert cost_of(
        lambda: onednn.qconv2d_pointwise.binary(
            QIMAGE, 0.1, 3, packed, SCALES, ZEROS, total, None, *geometry, *settings
        )
    ) == plain + Cost(arith=2 * RESULTS, compare=RESULTS)


@needs_integers
def test_a_convolution_of_integers_in_one_dimension() -> None:
    x, w = QIMAGE[0, :, :, :].contiguous(), QKERNEL[..., 0].contiguous()  # (3, 6, 5), (4, 3, 3)
    x = x.transpose(0, 1).contiguous()[:2]
    packed = onednn.qconv_prepack(w, SCALES, 0.1, 3, [2], [1], [1], 1, None)
    weight = packed, SCALES, ZEROS, None, [2], [1], [1], 1
    plain = cost_of(lambda: F.conv1d(x.float(), w.float(), None, 2, 1))
    assert plain.void_macs > 0
    assert (
        cost_of(
            lambda: onednn.qconv1d_pointwise(
                x, 0.1, 3, *weight, 0.2, 1, torch.uint8, "none", [], ""
            )
        )
        == plain
    )


@needs_integers
@pytest.mark.parametrize("then", ["", "_relu"])
def test_a_weight_of_16_bits(then: str) -> None:
    packed = onednn.linear_prepack_fp16(W, None)
    steps = Cost(arith=1, compare=int(then == "_relu"))
    linear = getattr(onednn, f"linear{then}_dynamic_fp16")
    assert cost_of(lambda: linear(X, packed, B)) == PRODUCT + M * N * steps
