from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn, ops

import flopcount
from flopcount import Cost
from tests.formulas.counting import Number, counting, floats, numbers
from tests.formulas.decomposed import billed, measured, plain

aten = ops.aten

IMAGES = {1: (2, 3, 9), 2: (2, 3, 9, 8), 3: (2, 3, 5, 6, 4)}
RESULTS = {1: 2 * 3 * 4, 2: 2 * 3 * 4 * 4, 3: 2 * 3 * 2 * 3 * 2}  # windows of 2 side by side


def image(dimensions: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(IMAGES[dimensions], generator=generator).requires_grad_()


def phases(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Cost, Cost]:
    """Forward and backward of the only module: the pooling."""
    report = flopcount.count(Function(function), x)
    assert not report.uncounted
    return plain(report.model.phases["forward"]), plain(report.model.phases["backward"])


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.forward = function


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_max_pool_compares_and_adds_once_for_each_result(dimensions: int) -> None:
    pool = getattr(F, f"max_pool{dimensions}d")
    results, k = RESULTS[dimensions], 2**dimensions
    forward, backward = phases(lambda x: pool(x, 2), image(dimensions))
    assert forward == Cost(compare=results * (k - 1))
    assert backward == Cost(arith=results)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_avg_pool_adds_and_divides(dimensions: int) -> None:
    pool = getattr(F, f"avg_pool{dimensions}d")
    results, k = RESULTS[dimensions], 2**dimensions
    forward, backward = phases(lambda x: pool(x, 2), image(dimensions))
    assert forward == Cost(arith=results * (k - 1 + 1))
    assert backward == Cost(arith=results * (1 + k))


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_a_window_as_one_number_is_a_cube(dimensions: int) -> None:
    x = image(dimensions).detach()
    op = getattr(aten, f"max_pool{dimensions}d").default
    out = torch.empty(RESULTS[dimensions])
    assert billed(op, x, [2], out=out) == billed(op, x, [2] * dimensions, out=out)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_windows_of_any_kernel_take_as_many_steps(dimensions: int) -> None:
    """Kernels of other libraries, and those of one dimension, which run as two on the CPU."""
    x, out = image(dimensions).detach(), torch.empty(RESULTS[dimensions])
    window, k, name = [2] * dimensions, 2**dimensions, f"pool{dimensions}d"
    maximum = [f"max_{name}", f"max_{name}_with_indices", f"mkldnn_max_{name}"]
    for op in (getattr(aten, name, None) for name in maximum):
        if op is not None:
            expected = Cost(compare=out.numel() * (k - 1))
            result = (out, out) if len(op.default._schema.returns) == 2 else out
            assert billed(op.default, x, window, out=result) == expected
    average = getattr(aten, f"avg_{name}").default
    assert billed(average, x, window, out=out) == Cost(arith=out.numel() * (k - 1 + 1))
    if dimensions > 1:
        back = getattr(aten, f"avg_{name}_backward").default
        rest = [window, [0] * dimensions, False, True, None]
        expected = Cost(arith=out.numel() * (1 + k))
        assert billed(back, out, x, window, *rest, out=x) == expected


def test_a_window_of_one_element_leaves_nothing_to_do() -> None:
    x = image(2).detach()
    assert measured(F.max_pool2d, x, 1, 2) == Cost()
    assert measured(F.avg_pool2d, x, 1, 2) == Cost(arith=2 * 3 * 5 * 4)  # divisions by 1


# XLA's cost analysis of 4 x 16 channels of 20 x 20; it divides by a constant that it counts
XLA = {
    "max 2x2": (F.max_pool2d, {"kernel_size": 2}, 19_200),
    "max 3x3 stride 2 padding 1": (
        F.max_pool2d,
        {"kernel_size": 3, "stride": 2, "padding": 1},
        51_200,
    ),
    "average 2x2": (F.avg_pool2d, {"kernel_size": 2}, 25_600),
    "average 3x3 stride 2 padding 1": (
        F.avg_pool2d,
        {"kernel_size": 3, "stride": 2, "padding": 1},
        57_600,
    ),
}


@pytest.mark.parametrize(("pool", "settings", "expected"), XLA.values(), ids=XLA)
def test_pooling_agrees_with_xla(
    pool: Callable[..., Tensor], settings: dict[str, Any], expected: int
) -> None:
    forward, _ = phases(lambda x: pool(x, **settings), torch.rand(4, 16, 20, 20).requires_grad_())
    assert forward.flops == expected


def windows(length: int, count: int) -> list[range]:
    """The elements that each place of an adaptive pooling takes together: its definition."""
    return [range(i * length // count, -(-(i + 1) * length // count)) for i in range(count)]


SIZES = {
    "that divide": ((8, 6), (4, 3)),
    "that overlap": ((9, 8), (4, 5)),
    "larger than the image": ((3, 4), (5, 7)),
    "of one": ((7, 5), (1, 5)),
}


def largest(window: Any) -> Number:
    best, *others = window.ravel()
    for value in others:
        best = value if value > best else best
    return best


@pytest.mark.parametrize(
    ("op", "reduce"),
    [
        (aten._adaptive_avg_pool2d.default, lambda window: window.sum() / window.size),
        (aten.adaptive_max_pool2d.default, largest),
    ],
    ids=["average", "maximum"],
)
@pytest.mark.parametrize(("size", "pooled"), SIZES.values(), ids=SIZES)
def test_adaptive_pooling_is_what_a_loop_counts(
    size: tuple[int, ...], pooled: tuple[int, ...], op: Any, reduce: Callable[[Any], Number]
) -> None:
    x = torch.rand(2, 3, *size)
    values = numbers(x)
    results = np.empty((2, 3, *pooled), dtype=object)
    with counting() as tally:
        for i, rows in enumerate(windows(size[0], pooled[0])):
            for j, columns in enumerate(windows(size[1], pooled[1])):
                for n, c in itertools.product(range(2), range(3)):
                    results[n, c, i, j] = reduce(values[n, c, rows][:, columns])
    out = op(x, pooled)
    pooled_values = out if isinstance(out, Tensor) else out[0]  # a maximum comes with its place
    np.testing.assert_allclose(floats(results), pooled_values, atol=1e-6)
    assert measured(op, x, pooled) == tally.cost


@pytest.mark.parametrize(("size", "pooled"), SIZES.values(), ids=SIZES)
def test_adaptive_backward_adds_along_every_edge_of_the_jacobian(
    size: tuple[int, ...], pooled: tuple[int, ...]
) -> None:
    x = torch.rand(1, 2, *size)
    grad = torch.rand(1, 2, *pooled)
    jacobian = torch.autograd.functional.jacobian(lambda x: F.adaptive_avg_pool2d(x, pooled), x)
    edges = int(jacobian.count_nonzero())
    average = measured(aten._adaptive_avg_pool2d_backward.default, grad, x)
    assert average == Cost(arith=edges + grad.numel())  # and a division for each result
    _, places = F.adaptive_max_pool2d(x, pooled, return_indices=True)
    maximum = measured(aten.adaptive_max_pool2d_backward.default, grad, x, places)
    assert maximum == Cost(arith=grad.numel())


def test_adaptive_pooling_of_volumes_counts_all_three_lengths() -> None:
    x = torch.rand(1, 2, 5, 4, 3)
    jacobian = torch.autograd.functional.jacobian(lambda x: F.adaptive_avg_pool3d(x, (2, 3, 2)), x)
    edges, results = int(jacobian.count_nonzero()), 2 * 2 * 3 * 2
    forward, backward = phases(lambda x: F.adaptive_avg_pool3d(x, (2, 3, 2)), x.requires_grad_())
    assert (forward, backward) == (Cost(arith=edges), Cost(arith=edges + results))
    forward, backward = phases(lambda x: F.adaptive_max_pool3d(x, (2, 3, 2)), x)
    assert (forward, backward) == (Cost(compare=edges - results), Cost(arith=results))


def test_fractional_maximum_takes_whole_windows() -> None:
    forward, backward = phases(lambda x: F.fractional_max_pool2d(x, 3, 2), image(2))
    results = 2 * 3 * 2 * 2
    assert (forward, backward) == (Cost(compare=results * (9 - 1)), Cost(arith=results))


def test_the_gradient_of_a_pooling_is_the_inputs() -> None:
    report = flopcount.count(nn.AvgPool2d(2), image(2))
    assert report.model.gradients["input"].flops == RESULTS[2] * (1 + 4)


@pytest.mark.parametrize(
    ("dimensions", "shape", "size", "covered"),
    [
        pytest.param(1, (2, 3, 8), [3], 3 + 4 + 3, id="one: windows of 3, 4 and 3 of 8"),
        pytest.param(2, (2, 3, 8, 6), [3, 2], (3 + 4 + 3) * (3 + 3), id="two"),
        pytest.param(3, (2, 3, 2, 8, 6), [1, 3, 2], 2 * 10 * 6, id="three"),
    ],
)
def test_an_adaptive_mean_into_a_place(
    dimensions: int, shape: tuple[int, ...], size: tuple[int, ...], covered: int
) -> None:
    x, place = torch.rand(shape), torch.empty(*shape[:2], *size)
    op = getattr(aten, f"adaptive_avg_pool{dimensions}d").out
    # of each window one addition less than elements, and a division
    assert measured(op, x, size, out=place) == Cost(arith=2 * 3 * covered)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="a build without oneDNN")
def test_one_dnn_takes_as_many_steps() -> None:
    x = torch.rand(2, 3, 8, 8, requires_grad=True)
    with flopcount.FlopCounter() as counter:
        pooled = F.adaptive_avg_pool2d(x.to_mkldnn(), 4)
        pooled.to_dense().sum().backward()
    costs = counter.report().by_operator()
    results = 2 * 3 * 4 * 4  # of windows of 2·2: 3 additions and a division
    assert plain(costs["aten.mkldnn_adaptive_avg_pool2d"]) == Cost(arith=4 * results)
    backward = plain(costs["aten.mkldnn_adaptive_avg_pool2d_backward"])
    assert backward == Cost(arith=(1 + 4) * results)  # a division, and an addition for each element


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_gradient_of_one_dnns_largest_is_added_to_it(dimensions: int) -> None:
    grad = torch.rand(2, 3, *[4] * dimensions)
    x = torch.rand(2, 3, *[8] * dimensions)
    op = getattr(aten, f"mkldnn_max_pool{dimensions}d_backward").default
    assert billed(op, grad, grad, x, [2] * dimensions, out=x) == Cost(arith=2 * 3 * 4**dimensions)
