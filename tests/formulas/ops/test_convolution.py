from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from flopcount import Cost, FlopCounter, Report
from flopcount.formulas.ops.convolution import taps_inside
from tests.formulas.counting import Tally
from tests.formulas.decomposed import billed
from tests.formulas.naive import convolution
from tests.formulas.ops.test_matmul import operations

aten = torch.ops.aten
CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@st.composite
def layers(draw: st.DrawFn) -> dict[str, Any]:
    """A small convolution of any kind, its image, and which gradients it is asked for."""
    dimensions = draw(st.integers(1, 3))
    side, taps = (6, 3) if dimensions < 3 else (3, 2)
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    each = st.tuples(*[st.integers(1, taps)] * dimensions)
    kernel = draw(each)
    dilation = draw(each) if dimensions < 3 else (1,) * dimensions
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    padding = draw(st.tuples(*[st.integers(0, r - 1) for r in reach]))
    shortest = [max(1, r - 2 * p) for r, p in zip(reach, padding, strict=True)]
    return {
        "n": draw(st.integers(1, 2)),
        "c": groups * draw(st.integers(1, 2)),
        "f": groups * draw(st.integers(1, 2)),
        "groups": groups,
        "kernel": kernel,
        "dilation": dilation,
        "stride": draw(each),
        "padding": padding,
        "image": draw(st.tuples(*[st.integers(s, max(s, side)) for s in shortest])),
        "output_padding": draw(st.tuples(*[st.integers(0, taps - 1)] * dimensions)),
        "bias": draw(st.booleans()),
        "needs": draw(st.tuples(st.booleans(), st.just(True))),
    }


def is_transposable(layer: dict[str, Any]) -> bool:
    """The output has a length, and less than a stride or a dilation is added to it."""
    names = ("image", "stride", "padding", "dilation", "kernel", "output_padding")
    return all(
        (length - 1) * stride - 2 * padding + dilation * (kernel - 1) + extra >= 0
        and extra < max(stride, dilation)
        for length, stride, padding, dilation, kernel, extra in zip(
            *(layer[name] for name in names), strict=True
        )
    )


def run(layer: dict[str, Any], *, transposed: bool = False) -> tuple[Report, Tensor, list[Tensor]]:
    """The report of forward and backward on all ones, the output, and the operands."""
    n, c, f, groups = (layer[name] for name in ("n", "c", "f", "groups"))
    channels = (f, c) if transposed else (c, f)
    x = torch.ones(n, channels[0], *layer["image"]).double().requires_grad_(layer["needs"][0])
    w = torch.ones(f, c // groups, *layer["kernel"]).double().requires_grad_(layer["needs"][1])
    b = torch.ones(channels[1]).double().requires_grad_() if layer["bias"] else None
    function = (TRANSPOSED if transposed else CONVOLUTIONS)[len(layer["kernel"])]
    settings_ = {name: layer[name] for name in ("stride", "padding", "dilation", "groups")}
    if transposed:
        settings_["output_padding"] = layer["output_padding"]
    with FlopCounter() as counter:
        y = function(x, w, b, **settings_)
        y.backward(torch.ones_like(y))
    return counter.report(), y, [t for t in (x, w, b) if t is not None]


@settings(max_examples=60, deadline=None)
@given(layer=layers())
def test_a_convolution_costs_what_a_naive_loop_counts(layer: dict[str, Any]) -> None:
    report, y, _ = run(layer)
    positions = y.shape[2:]
    naive = convolution(*(layer[k] for k in ("n", "c", "f", "groups", "kernel")), positions)
    bias_adds = naive["forward bias"].add if layer["bias"] else 0
    forward = report.phases["forward"]
    assert operations(forward) == Tally(naive["forward"].mul, naive["forward"].add + bias_adds)
    gradients = report.root.gradients
    assert operations(gradients["weight"]) == naive["weight"]
    assert operations(gradients["input"]) == (naive["input"] if layer["needs"][0] else Tally())
    assert operations(gradients["bias"]) == (naive["bias"] if layer["bias"] else Tally())
    assert forward.flops - bias_adds == gradients["weight"].flops == 2 * naive["forward"].mul
    assert gradients["input"].flops == 2 * naive["input"].mul * layer["needs"][0]


@settings(max_examples=60, deadline=None)
@given(layer=layers(), transposed=st.booleans())
def test_all_ones_sum_to_the_macs_that_meet_no_padding(
    layer: dict[str, Any], transposed: bool
) -> None:
    """The padding of a transposed convolution cuts its output, and output_padding lengthens it."""
    assume(not transposed or is_transposable(layer))
    report, y, (x, w, *_) = run(layer, transposed=transposed)
    assert w.grad is not None
    forward = y.sum().item() - (y.numel() if layer["bias"] else 0)
    assert report.phases["forward"].valid_macs == forward
    gradients = report.root.gradients
    assert gradients["weight"].valid_macs == w.grad.sum().item()
    if x.grad is not None:
        assert gradients["input"].valid_macs == x.grad.sum().item()


@settings(max_examples=40, deadline=None)
@given(layer=layers())
def test_a_transposed_convolution_is_the_input_gradient_of_a_plain_one(
    layer: dict[str, Any],
) -> None:
    """Its output is a product scattered onto the image; its input gradient dot products."""
    assume(is_transposable(layer))
    layer = {**layer, "needs": (True, True)}
    report, _, (x, *_) = run(layer, transposed=True)
    positions = x.shape[2:]
    naive = convolution(*(layer[k] for k in ("n", "c", "f", "groups", "kernel")), positions)
    forward = report.phases["forward"]
    assert (forward.macs, forward.dots) == (naive["input"].mul, 0)
    gradients = report.root.gradients
    assert operations(gradients["input"]) == naive["forward"]
    assert operations(gradients["weight"]) == naive["weight"]


@settings(max_examples=40, deadline=None)
@given(layer=layers())
def test_memory_is_input_weight_output_and_backward_twice_the_operands(
    layer: dict[str, Any],
) -> None:
    layer = {**layer, "bias": False, "needs": (True, True)}
    report, y, (x, w) = run(layer)
    operators = report.by_operator()
    forward, backward = operators["aten.convolution"], operators["aten.convolution_backward"]
    itemsize = y.dtype.itemsize
    assert forward.bytes == itemsize * (x.numel() + w.numel() + y.numel())
    # the gradient that starts backward is given whole: it is no expanded one
    assert backward.bytes == itemsize * (2 * x.numel() + 2 * w.numel() + y.numel())


def test_the_weight_gradient_alone_does_not_read_the_weight() -> None:
    layer = {"n": 2, "c": 3, "f": 4, "groups": 1, "kernel": (3, 3), "dilation": (1, 1)}
    layer |= {"stride": (1, 1), "padding": (1, 1), "image": (5, 5), "bias": False}
    report, y, (x, w) = run({**layer, "needs": (False, True)})
    backward = report.by_operator()["aten.convolution_backward"]
    assert backward.read == 8 * (y.numel() + x.numel())
    assert backward.written == 8 * w.numel()


def test_grouped_convolution_of_the_textbook() -> None:
    """6 → 8 channels in 2 groups, kernel 3, batch 2, 10 × 10: 8·(3·9) MACs at 2·8·8 positions."""
    layer = {"n": 2, "c": 6, "f": 8, "groups": 2, "kernel": (3, 3), "dilation": (1, 1)}
    layer |= {"stride": (1, 1), "padding": (0, 0), "image": (10, 10), "bias": False}
    report, _, _ = run({**layer, "needs": (True, True)})
    assert report.total.matmul_flops == 3 * 2 * (8 * 27 * 2 * 64) == 3 * 55_296


def test_an_image_without_a_batch_counts_as_one() -> None:
    x, w = torch.ones(3, 6, 6), torch.ones(4, 3, 3, 3)
    with FlopCounter() as counter:
        F.conv2d(x, w, torch.ones(4))
    assert counter.report().total.macs == 4 * 27 * 16


X2, W2, B3 = torch.ones(2, 3, 6, 5), torch.ones(4, 3, 3, 2), torch.ones(4)
X3, W3 = X2[:, :, None], W2[:, :, None]
TWICE, ONCE, FLAT = [2, 1], [1, 1], [1, 2, 1]
UP = {"stride": TWICE, "padding": ONCE, "output_padding": [1, 0]}

KERNELS = {
    "oneDNN's": (
        lambda: aten.mkldnn_convolution(X2, W2, B3, ONCE, TWICE, ONCE, 1),
        lambda: F.conv2d(X2, W2, B3, TWICE, ONCE),
    ),
    "the one without a library": (
        lambda: aten._slow_conv2d_forward(X2, W2, [3, 2], B3, TWICE, ONCE),
        lambda: F.conv2d(X2, W2, B3, TWICE, ONCE),
    ),
    "in three dimensions": (
        lambda: aten.slow_conv3d_forward(X3, W3, [1, 3, 2], None, FLAT, [0, 1, 1]),
        lambda: F.conv3d(X3, W3, None, FLAT, [0, 1, 1]),
    ),
    "dilated": (
        lambda: aten.slow_conv_dilated2d(X2, W2, [3, 2], B3, TWICE, ONCE, [2, 2]),
        lambda: F.conv2d(X2, W2, B3, TWICE, ONCE, [2, 2]),
    ),
    "dilated, in three dimensions": (
        lambda: aten.slow_conv_dilated3d(X3, W3, [1, 3, 2], None, FLAT, [0, 1, 1], [1, 2, 2]),
        lambda: F.conv3d(X3, W3, None, FLAT, [0, 1, 1], [1, 2, 2]),
    ),
    "transposed": (
        lambda: aten.slow_conv_transpose2d(X2, W2.transpose(0, 1), [3, 2], B3, TWICE, ONCE, [1, 0]),
        lambda: F.conv_transpose2d(X2, W2.transpose(0, 1), B3, **UP),
    ),
    "transposed, in three dimensions": (
        lambda: aten.slow_conv_transpose3d(X3, W3.transpose(0, 1), [1, 3, 2], B3),
        lambda: F.conv_transpose3d(X3, W3.transpose(0, 1), B3),
    ),
    "in the order time, batch, channels": (
        lambda: torch.conv_tbc(torch.ones(5, 2, 3), torch.ones(3, 3, 4), B3, 2),
        lambda: F.conv1d(X2[:, :, 0], W2[..., 0], B3, 1, 2),
    ),
}


def cost_of(call: Any) -> Cost:
    """Without bytes: some kernels get the sizes of their weights again."""
    with FlopCounter(strict=True) as counter:
        call()
    return replace(counter.report().total, read=0, written=0)


@pytest.mark.parametrize(("kernel", "plain"), KERNELS.values(), ids=KERNELS.keys())
def test_every_kernel_costs_what_the_convolution_does(kernel: Any, plain: Any) -> None:
    assert torch.equal(kernel().flatten().sort().values, plain().flatten().sort().values)
    assert cost_of(kernel) == cost_of(plain)


def test_a_convolution_in_the_order_time_batch_channels_by_hand() -> None:
    cost = cost_of(
        lambda: torch.conv_tbc(torch.ones(6, 2, 3), torch.ones(3, 3, 4), torch.ones(4), 1)
    )
    positions, length = 6 * 2 * 4, 3 * 3  # as many as the input's, for f = 4; k·c
    void = 2 * 2 * 3 * 4  # the first tap at the first position, the last at the last
    assert cost == Cost(macs=positions * length, dots=positions, void_macs=void, arith=positions)


OUT2 = F.conv2d(X2, W2, None, TWICE, ONCE)


@pytest.mark.parametrize(
    ("kernel", "arguments", "more"),
    [
        pytest.param("_conv_depthwise2d", (X2, W2, [3, 2], B3, TWICE, ONCE, ONCE), 1, id="bias"),
        pytest.param("cudnn_convolution", (X2, W2, ONCE, TWICE, ONCE, 1), 0, id="cuDNN's"),
        pytest.param(
            "cudnn_convolution_relu",
            (X2, W2, B3, TWICE, ONCE, ONCE, 1),
            2,
            id="with a bias and ReLU",
        ),
        pytest.param(
            "cudnn_convolution_add_relu",
            (X2, W2, OUT2, None, None, TWICE, ONCE, ONCE, 1),
            2,
            id="with an addition and ReLU",
        ),
        pytest.param(
            "cudnn_convolution_add_relu",
            (X2, W2, OUT2, 2, B3, TWICE, ONCE, ONCE, 1),
            4,
            id="with a factor, too, and a bias",
        ),
        pytest.param("miopen_convolution", (X2, W2, B3, ONCE, TWICE, ONCE, 1), 1, id="MIOpen's"),
        pytest.param("_nnpack_spatial_convolution", (X2, W2, B3, ONCE, TWICE), 1, id="NNPACK's"),
    ],
)
def test_kernels_of_accelerators(kernel: str, arguments: Any, more: int) -> None:
    plain = cost_of(lambda: F.conv2d(X2, W2, None, TWICE, ONCE))
    cost = billed(getattr(aten, kernel).default, *arguments, out=OUT2)
    assert replace(cost, arith=0, compare=0) == plain
    assert cost.flops - plain.flops == more * OUT2.numel()


@pytest.mark.parametrize(
    ("kernel", "arguments", "more"),
    [
        ("miopen_convolution_relu", (X2, W2, B3, TWICE, ONCE, ONCE, 1), 2),
        ("miopen_convolution_add_relu", (X2, W2, OUT2, 1, B3, TWICE, ONCE, ONCE, 1), 3),
        ("miopen_depthwise_convolution", (X2, W2, B3, ONCE, TWICE, ONCE, 1), 1),
    ],
)
def test_more_kernels_of_accelerators(kernel: str, arguments: Any, more: int) -> None:
    test_kernels_of_accelerators(kernel, arguments, more)


def test_a_depthwise_convolution_in_three_dimensions() -> None:
    x, w = torch.ones(2, 3, 4, 5, 6), torch.ones(3, 1, 2, 3, 2)
    out = F.conv3d(x, w, B3[:3], groups=3)
    settings_ = ([1, 1, 1], [0, 0, 0], [1, 1, 1])
    cost = billed(aten.conv_depthwise3d.default, x, w, [2, 3, 2], B3[:3], *settings_, out=out)
    assert cost.macs == out.numel() * (2 * 3 * 2)
    assert cost.arith == out.numel()


@pytest.mark.parametrize(
    ("kernel", "bias"),
    [("cudnn_convolution_transpose", []), ("miopen_convolution_transpose", [None])],
)
def test_transposed_kernels_of_accelerators(kernel: str, bias: list[None]) -> None:
    weight = W2.transpose(0, 1)
    out = F.conv_transpose2d(X2, weight, None, **UP)
    arguments = X2, weight, *bias, ONCE, [1, 0], TWICE, ONCE, 1
    cost = billed(getattr(aten, kernel).default, *arguments, out=out)
    assert cost == cost_of(lambda: F.conv_transpose2d(X2, weight, None, **UP))
    assert cost.macs == W2.numel() * 2 * 6 * 5


def test_the_gradients_of_the_kernel_without_a_library() -> None:
    grad = torch.ones_like(OUT2)
    mask = [True, True, True]
    one = aten._slow_conv2d_backward.output_mask
    same = aten.convolution_backward
    assert cost_of(lambda: one(grad, X2, W2, [3, 2], TWICE, ONCE, mask)) == cost_of(
        lambda: same(grad, X2, W2, [4], TWICE, ONCE, ONCE, False, [0, 0], 1, mask)
    )


def test_a_complex_convolution_arrives_as_three_real_ones() -> None:
    """On the CPU torch computes (a + ib)·(c + id) from a·c, b·d and (a + b)·(c + d)."""
    x, w = torch.ones(1, 2, 5, dtype=torch.complex64), torch.ones(3, 2, 3, dtype=torch.complex64)
    with FlopCounter() as counter:
        F.conv1d(x, w)
    assert counter.report().total.macs == 3 * (3 * (2 * 3) * 3)


@settings(max_examples=100)
@given(
    length=st.integers(1, 12),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 4),
    padding=st.integers(0, 6),
    dilation=st.integers(1, 3),
    positions=st.integers(1, 12),
)
def test_taps_inside_the_image_by_brute_force(
    length: int, kernel: int, stride: int, padding: int, dilation: int, positions: int
) -> None:
    inside = sum(
        0 <= position * stride + tap * dilation - padding < length
        for tap in range(kernel)
        for position in range(positions)
    )
    assert taps_inside(length, positions, kernel, stride, padding, dilation) == inside


def test_a_cost_without_convolution_has_no_void_macs() -> None:
    assert Cost(macs=5).valid_macs == 5


def test_whole_convolutions_of_other_names() -> None:
    x, weight, bias = torch.rand(2, 3, 8, 8), torch.rand(4, 3, 3, 3), torch.rand(4)
    settings = [1, 1], [0, 0], [1, 1], False, [0, 0], 1
    out = torch.empty(2, 4, 6, 6)
    results = 2 * 4 * 6 * 6
    expected = Cost(macs=results * 27, dots=results, arith=results)
    assert billed(aten.convolution_overrideable.default, x, weight, bias, *settings, out=out) == (
        expected
    )
    switches = [False] * 4
    with FlopCounter() as counter:
        aten._convolution(x, weight, bias, *settings, *switches)
    made = counter.report().by_operator()["aten._convolution"]
    assert replace(made, read=0, written=0) == expected


def test_gradients_of_a_convolution_on_a_device_of_its_own() -> None:
    grad, x, weight = torch.rand(2, 4, 6, 6), torch.rand(2, 3, 8, 8), torch.rand(4, 3, 3, 3)
    op = aten.convolution_backward_overrideable.default
    settings = [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True] * 3
    cost = billed(op, grad, x, weight, *settings, out=(x, weight, torch.rand(4)))
    # dx is scattered, dw a dot product for each weight, db a sum over 2·6·6 positions
    macs = 2 * 4 * 6 * 6 * 27
    assert cost == Cost(macs=2 * macs, dots=4 * 27, arith=4 * (2 * 6 * 6 - 1))


@pytest.mark.parametrize("transposed", [False, True], ids=["plain", "transposed"])
def test_a_batch_of_no_images_has_no_dot_products(transposed: bool) -> None:
    layer = (torch.nn.ConvTranspose2d if transposed else torch.nn.Conv2d)(3, 4, 3)
    with FlopCounter() as counter:
        layer(torch.empty(0, 3, 8, 8, requires_grad=True)).sum().backward()
    assert counter.report().total.exact_flops == 0
