import functools
import itertools
import math
from importlib import import_module

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn, ops

import flopcount
from flopcount import Cost, zoo
from flopcount.formulas import resampling
from flopcount.formulas.registry import Uncountable
from tests.formulas.counting import Number, counting, floats, numbers
from tests.formulas.decomposed import measured, plain

aten = ops.aten
LINEAR, NEAREST, CUBIC = 0, 1, 2
A = -0.75  # Keys' parameter, as torch sets it


# the textbook, on numbers that count: weights and slopes of the taps of one axis at one place


def linear_taps(position):
    low = position.floor()
    fraction = position - low
    first = int(low.value)
    return [first, first + 1], [1 - fraction, fraction], [-1, 1]


def near(x):
    return ((A + 2) * x - (A + 3)) * x * x + 1


def far(x):
    return ((A * x - 5 * A) * x + 8 * A) * x - 4 * A


def cubic_taps(position):
    low = position.floor()
    t = position - low
    first = int(low.value)
    reach = [t + 1, t, 1 - t, 2 - t]
    weights = [far(reach[0]), near(reach[1]), near(reach[2]), far(reach[3])]
    return range(first - 1, first + 3), weights, reach


def nearest_tap(position):
    low = (position - 0.5).floor()
    return [int(low.value)], [], []


def cubic_slopes(reach):
    def steep(x):
        return (3 * A * x - 10 * A) * x + 8 * A

    def flat(x):
        return (3 * (A + 2) * x - 2 * (A + 3)) * x

    # the last two taps lie on the other side: their sign goes into the sum
    return [steep(reach[0]), flat(reach[1]), flat(reach[2]), steep(reach[3])], [1, 1, -1, -1]


def product(factors):
    return functools.reduce(lambda a, b: a * b, factors)


def total(terms):
    return functools.reduce(lambda a, b: a + b, terms)


def joint(taps):
    """Places and weights of all taps of a place, from those of each axis."""
    places = list(itertools.product(*(indices for indices, _, _ in taps)))
    weights = [product(factors) for factors in itertools.product(*(w for _, w, _ in taps))]
    return places, weights


def resized_places(size, resized, mode, align_corners):
    """Places and weights of each result's taps."""
    axes = []
    for length, count in zip(size, resized, strict=True):
        scale = (length - 1) / (count - 1) if align_corners else length / count
        axis = []
        for i in range(count):
            position = scale * Number(i) if align_corners else scale * (Number(i + 0.5)) - 0.5
            if not align_corners:
                # the half of (i + ½): an addition that Number(i + ½) does not show
                _ = Number(i) + 0.5
                if mode == LINEAR:
                    position = position if position > 0 else Number(0.0)
            indices, weights, slopes = (linear_taps if mode == LINEAR else cubic_taps)(position)
            axis.append(([min(max(j, 0), length - 1) for j in indices], weights, slopes))
        axes.append(axis)
    return {
        place: joint([axis[i] for axis, i in zip(axes, place, strict=True)])
        for place in np.ndindex(*resized)
    }


RESIZINGS = {
    f"{mode} {sides}": (mode, size, resized, align)
    for mode, size, resized in [
        ("linear", (4,), (7,)),
        ("bilinear", (3, 5), (5, 4)),
        ("trilinear", (3, 2, 4), (4, 3, 2)),
        ("bicubic", (4, 5), (6, 3)),
    ]
    for sides, align in [("with corners aligned", True), ("with half pixels", False)]
}


@pytest.mark.parametrize(("mode", "size", "resized", "align"), RESIZINGS.values(), ids=RESIZINGS)
def test_interpolation_is_what_a_loop_counts(mode, size, resized, align):
    x = torch.rand(2, 3, *size, dtype=torch.double, requires_grad=True)
    values = numbers(x)
    family = CUBIC if mode == "bicubic" else LINEAR
    result = np.empty((2, 3, *resized), dtype=object)
    with counting() as forward:
        for place, (taps, weights) in resized_places(size, resized, family, align).items():
            for image in np.ndindex(2, 3):
                terms = [
                    weight * values[image + tap] for tap, weight in zip(taps, weights, strict=True)
                ]
                result[image + place] = total(terms)
    y = F.interpolate(x, resized, mode=mode, align_corners=align)
    np.testing.assert_allclose(floats(result), y.detach(), atol=1e-6)

    gradient = np.vectorize(lambda v: Number(0.0), otypes=[object])(values)
    with counting() as backward:
        for taps, weights in resized_places(size, resized, family, align).values():
            for image in np.ndindex(2, 3):
                for tap, weight in zip(taps, weights, strict=True):
                    gradient[image + tap] = gradient[image + tap] + weight * Number(1.0)
    y.sum().backward()
    np.testing.assert_allclose(floats(gradient), x.grad, atol=1e-6)

    report = flopcount.count(nn.Upsample(resized, mode=mode, align_corners=align), x)
    assert plain(report.model.phases["forward"]) == forward.cost
    assert report.model.gradients["input"] == backward.cost


def test_bilinear_upsampling_by_hand():
    """1 image, 2 channels, 2 x 2 to 3 x 3: 18 results of 4 taps, 9 places."""
    sums = 18 * (4 + 3)
    axes = 6 * (3 + 2)  # scale·(i + ½) - ½; fraction and its complement
    bounds = 6 * (1 + 1)  # floor, not below 0
    products = 9 * 4
    cost = measured(aten.upsample_bilinear2d.default, torch.rand(1, 2, 2, 2), [3, 3], False)
    assert cost == Cost(arith=sums + axes + products, compare=bounds)


def test_an_interpolation_costs_the_same_called_whole():
    x = torch.rand(1, 2, 3, 3)
    # in inference mode torch does not take apart what it calls
    with torch.inference_mode(), flopcount.FlopCounter() as counter:
        F.interpolate(x, (5, 5), mode="bilinear")
    expected = measured(aten.upsample_bilinear2d.default, x, [5, 5], False)
    assert plain(counter.report().total) == expected


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
def test_nearest_only_copies_and_its_gradient_adds_each_result(mode, dimensions):
    x = torch.rand(1, 2, *[3] * dimensions, requires_grad=True)
    report = flopcount.count(nn.Upsample(scale_factor=2, mode=mode), x)
    assert report.model.phases["forward"].flops == 0
    assert report.model.phases["forward"].written == 4 * 2 * 6**dimensions
    assert report.model.gradients["input"] == Cost(arith=2 * 6**dimensions)


# antialiasing


def filter_taps(length, count, mode):
    """Elements and weights of each place, by the definition of a widened filter."""

    def triangle(x):
        return max(1 - abs(x), 0)

    def keys(x, a=-0.5):
        x = abs(x)
        if x < 1:
            return ((a + 2) * x - (a + 3)) * x * x + 1
        return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0

    scale = length / count
    stretch = max(scale, 1)
    support = stretch * (1 if mode == "bilinear" else 2)
    shape = triangle if mode == "bilinear" else keys
    for i in range(count):
        center = scale * (i + 0.5)
        elements = range(
            max(int(center - support + 0.5), 0), min(int(center + support + 0.5), length)
        )
        weights = [shape((j - center + 0.5) / stretch) for j in elements]
        yield elements, [weight / sum(weights) for weight in weights]


def resampled(values, count, mode):
    """One pass, along the last dimension."""
    result = np.empty((*values.shape[:-1], count), dtype=object)
    for i, (elements, weights) in enumerate(filter_taps(values.shape[-1], count, mode)):
        for row in np.ndindex(*values.shape[:-1]):
            terms = [w * values[(*row, j)] for j, w in zip(elements, weights, strict=True)]
            result[(*row, i)] = total(terms)
    return result


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("resized", [(4, 3), (9, 11), (3, 11)], ids=["smaller", "larger", "both"])
def test_antialiasing_is_two_passes(mode, resized):
    x = torch.rand(2, 1, 7, 8, dtype=torch.double, requires_grad=True)
    with counting() as tally:
        across = resampled(numbers(x), resized[1], mode)
        down = resampled(across.swapaxes(2, 3), resized[0], mode).swapaxes(2, 3)
    y = F.interpolate(x, resized, mode=mode, antialias=True)
    np.testing.assert_allclose(floats(down), y.detach(), atol=1e-6)
    op = getattr(aten, f"_upsample_{mode}2d_aa")
    assert measured(op.default, x, resized, False) == tally.cost
    with flopcount.FlopCounter() as counter:
        F.interpolate(x, resized, mode=mode, antialias=True).sum().backward()
    backward = counter.report().by_operator()[f"aten._upsample_{mode}2d_aa_backward"]
    # each tap a product and an addition: where forward has one addition less a value
    assert backward.flops == tally.arith + across.size + down.size


# grid samplers


def index_of(coordinate, size, padding, align):
    """A coordinate in [-1, 1] as an index of an axis."""
    index = (coordinate + 1) / 2 * (size - 1) if align else ((coordinate + 1) * size - 1) / 2
    if padding == "reflection":
        low, span = (0, size - 1) if align else (-0.5, size)
        distance = abs(index - low)
        rest = distance - (distance / span).floor() * span
        odd = (distance / span).floor().value % 2
        turned = span - rest
        index = (turned if Number(odd) > 0.5 else rest) + low
    if padding != "zeros":
        index = index if index > 0 else Number(0.0)
        index = index if index < size - 1 else Number(float(size - 1))
    return index


def tap_value(values, image, tap, padding):
    size = values.shape[2:]
    inside = all(0 <= i < length for i, length in zip(tap, size, strict=True))
    if not inside and padding == "zeros":
        return Number(0.0)
    return values[image + tuple(min(max(i, 0), s - 1) for i, s in zip(tap, size, strict=True))]


def sampled_taps(values, grid, n, place, mode, padding, align):
    size = values.shape[2:]
    coordinates = grid[(n, *place)][::-1]  # the grid is ordered x, y
    of_axis = {"bilinear": linear_taps, "bicubic": cubic_taps, "nearest": nearest_tap}[mode]
    return [
        of_axis(index_of(coordinate, length, padding, align))
        for coordinate, length in zip(coordinates, size, strict=True)
    ]


SAMPLERS = {
    f"{mode}, {padding}, {'corners' if align else 'half pixels'}, {len(size)} dimensions": (
        mode,
        padding,
        align,
        size,
    )
    for mode, padding, align, size in [
        ("bilinear", "zeros", False, (3, 4)),
        ("bilinear", "zeros", True, (3, 4)),
        ("bilinear", "border", False, (3, 4)),
        ("bilinear", "reflection", False, (3, 4)),
        ("bilinear", "reflection", True, (3, 4)),
        ("bilinear", "zeros", False, (3, 4, 2)),
        ("bilinear", "border", True, (3, 4, 2)),
        ("bicubic", "zeros", False, (4, 5)),
    ]
}


@pytest.mark.parametrize(("mode", "padding", "align", "size"), SAMPLERS.values(), ids=SAMPLERS)
def test_grid_sampler_is_what_a_loop_counts(mode, padding, align, size):
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(2, 3, *size, generator=generator, dtype=torch.double)
    spots = [2] * len(size)
    grid = torch.rand(2, *spots, len(size), generator=generator, dtype=torch.double) * 3 - 1.5
    values, coordinates = numbers(x), numbers(grid)
    result = np.empty((2, 3, *spots), dtype=object)
    with counting() as tally:
        for n, *place in np.ndindex(2, *spots):
            taps, weights = joint(sampled_taps(values, coordinates, n, place, mode, padding, align))
            for c in range(3):
                result[(n, c, *place)] = total(
                    w * tap_value(values, (n, c), tap, padding)
                    for tap, w in zip(taps, weights, strict=True)
                )
    settings = {"mode": mode, "padding_mode": padding, "align_corners": align}
    if (mode, padding) == ("bicubic", "zeros") or mode == "bilinear":
        expected = F.grid_sample(x, grid, **settings)
        np.testing.assert_allclose(floats(result), expected, atol=1e-6)
    assert measured(F.grid_sample, x, grid, **settings) == tally.cost


@pytest.mark.parametrize(
    ("mode", "size"),
    [
        pytest.param("bilinear", (3, 4), id="bilinear"),
        pytest.param("bilinear", (3, 4, 2), id="trilinear"),
        pytest.param("bicubic", (4, 5), id="bicubic"),
    ],
)
@pytest.mark.parametrize("wanted", ["image", "grid", "both"])
def test_gradient_of_a_grid_sampler_is_what_a_loop_counts(mode, size, wanted):
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(1, 3, *size, generator=generator, dtype=torch.double)
    spots = [2] * len(size)
    grid = torch.rand(1, *spots, len(size), generator=generator, dtype=torch.double) * 2 - 1
    x.requires_grad_(wanted != "grid")
    grid.requires_grad_(wanted != "image")
    values, coordinates = numbers(x), numbers(grid)
    one = Number(1.0)
    to_image = np.vectorize(lambda v: Number(0.0), otypes=[object])(values)
    to_grid = np.empty(grid.shape, dtype=object)
    with counting() as tally:
        for n, *place in np.ndindex(1, *spots):
            axes = sampled_taps(values, coordinates, n, place, mode, "zeros", False)
            taps, weights = joint(axes)
            if wanted != "grid":
                for (tap, weight), c in itertools.product(
                    zip(taps, weights, strict=True), range(3)
                ):
                    inside = all(0 <= i < s for i, s in zip(tap, size, strict=True))
                    here = (n, c, *tap)
                    change = weight * one
                    kept = (to_image[here] if inside else Number(0.0)) + change
                    if inside:
                        to_image[here] = kept
            if wanted != "image":
                dw = [
                    total(one * tap_value(values, (n, c), tap, "zeros") for c in range(3))
                    for tap in taps
                ]
                for axis, length in enumerate(size):
                    factors, signs = zip(*slopes_of(axes, axis, mode), strict=True)
                    terms = [product([d, *f]) for d, f in zip(dw, factors, strict=True)]
                    slope = signed_total(terms, signs) * (length / 2)
                    to_grid[(n, *place, len(size) - 1 - axis)] = slope
    with flopcount.FlopCounter() as counter:
        y = F.grid_sample(x, grid, mode=mode, align_corners=False)
        y.sum().backward()
    if wanted != "grid":
        np.testing.assert_allclose(floats(to_image), x.grad, atol=1e-6)
    if wanted != "image":
        np.testing.assert_allclose(floats(to_grid), grid.grad, atol=1e-6)
    operators = counter.report().by_operator()
    assert plain(operators[f"aten.grid_sampler_{len(size)}d_backward"]) == tally.cost


def slopes_of(axes, axis, mode):
    """For each tap the factors of its weight's slope along ``axis``, and the slope's sign."""
    reach = axes[axis][2]
    slopes, signs = ([None, None], [-1, 1]) if mode == "bilinear" else cubic_slopes(reach)
    factors = [slopes if other == axis else w for other, (_, w, _) in enumerate(axes)]
    for spot in np.ndindex(*map(len, factors)):
        chosen = [of_axis[i] for of_axis, i in zip(factors, spot, strict=True)]
        yield [factor for factor in chosen if factor is not None], signs[spot[axis]]


def signed_total(terms, signs):
    """A sum whose terms are added or subtracted; a leading minus costs nothing."""
    pairs = sorted(zip(terms, signs, strict=True), key=lambda pair: -pair[1])
    result = pairs[0][0]
    for term, sign in pairs[1:]:
        result = result + term if sign > 0 else result - term
    return result


def test_nearest_sampling_takes_coordinates_alone():
    x, grid = torch.rand(2, 3, 4, 4), torch.zeros(2, 5, 5, 2)
    coordinates = 2 * 5 * 5 * 2
    # ((x + 1)·size - 1) / 2 is four steps, the nearest index a rounding
    assert measured(aten.grid_sampler_2d.default, x, grid, 0, 0, False).arith > 4 * coordinates
    cost = measured(aten.grid_sampler_2d.default, x, grid, 1, 0, False)
    assert cost == Cost(arith=4 * coordinates, compare=coordinates)
    g = torch.rand(2, 3, 5, 5)
    both = [True, True]
    backward = measured(aten.grid_sampler_2d_backward.default, g, x, grid, 1, 0, False, both)
    assert backward == cost + Cost(arith=g.numel())


def test_affine_grid_is_a_product_of_places_and_theta():
    theta = torch.rand(2, 2, 3)
    macs, dots = 2 * 4 * 5 * 2 * 3, 2 * 4 * 5 * 2
    aligned = measured(F.affine_grid, theta, (2, 3, 4, 5), align_corners=True)
    assert aligned == Cost(macs=macs, dots=dots)
    halves = measured(F.affine_grid, theta, (2, 3, 4, 5), align_corners=False)
    assert halves == Cost(macs=macs, dots=dots, arith=2 * (4 + 5))


# padding and reordering

PADDINGS = {
    "reflection": lambda x: F.pad(x, (1, 2, 1, 1), mode="reflect"),
    "replication": lambda x: F.pad(x, (1, 2, 1, 1), mode="replicate"),
}


@pytest.mark.parametrize("pad", PADDINGS.values(), ids=PADDINGS)
def test_padding_is_free_and_its_gradient_adds_each_element(pad):
    x = torch.rand(1, 2, 4, 4, requires_grad=True)
    report = flopcount.count(Function(pad), x)
    assert not report.uncounted
    assert report.model.phases["forward"].flops == 0
    assert report.model.gradients["input"] == Cost(arith=2 * 7 * 6)


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.forward = function


def test_padding_with_a_constant_and_its_gradient_only_move_bytes():
    report = flopcount.count(
        Function(lambda x: F.pad(x, (1, 2, 1, 1))), torch.rand(1, 2, 4, 4, requires_grad=True)
    )
    cost = report.by_operator()["aten.constant_pad_nd"]  # forward, and cut off again in backward
    inner, outer = 4 * 2 * 4 * 4, 4 * 2 * 7 * 6
    # the gradient of a sum is one number, expanded
    assert cost == Cost(read=inner + 4, written=outer + inner)


def test_shuffled_pixels_only_move_bytes():
    for op, shape in [(aten.pixel_shuffle, (1, 8, 3, 3)), (aten.pixel_unshuffle, (1, 2, 6, 6))]:
        with flopcount.FlopCounter() as counter:
            op(torch.zeros(shape), 2)
        cost = counter.report().by_operator()[f"aten.{op.__name__}"]
        assert cost == Cost(read=4 * math.prod(shape), written=4 * math.prod(shape))


# regions of interest


def test_non_maximum_suppression_is_bounded_by_all_pairs():
    n = 6
    boxes = torch.tensor([[10.0 * i, 0.0, 10.0 * i + 5, 5.0] for i in range(n)])  # all apart
    scores = torch.rand(n, generator=torch.Generator().manual_seed(0))
    with counting() as tally:
        corners = numbers(boxes)
        order = sorted(range(n), key=list(numbers(scores)).__getitem__)
        areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in corners]
        kept = []
        for i, j in itertools.combinations(order, 2):
            a, b = corners[i], corners[j]
            left, top = (a[k] if a[k] > b[k] else b[k] for k in (0, 1))
            right, bottom = (a[k] if a[k] < b[k] else b[k] for k in (2, 3))
            width, height = right - left, bottom - top
            width = width if width > 0 else Number(0.0)
            height = height if height > 0 else Number(0.0)
            overlap = width * height
            kept.append(not overlap / (areas[i] + areas[j] - overlap) > 0.5)
    assert all(kept)
    cost = resampling.nms(boxes, scores, 0.5, out=torch.arange(n))
    pairs = n * (n - 1) // 2
    assert cost.arith == tally.arith
    assert 7 * pairs + n - 1 <= tally.compare <= cost.compare == 7 * pairs + n * 3


@pytest.mark.parametrize("aligned", [True, False], ids=["aligned", "not aligned"])
def test_roi_align_is_what_a_loop_counts(aligned):
    channels, height, width, ratio = 3, 2, 3, 2
    rois = torch.tensor([[0.0, 1.0, 1.0, 6.0, 5.0], [0.0, 2.0, 0.0, 7.0, 6.0]])
    x = torch.rand(1, channels, 8, 8)
    values, regions = numbers(x), numbers(rois)
    result = np.empty((2, channels, height, width), dtype=object)
    with counting() as tally:
        for number, region in enumerate(regions):
            corners = [corner * 0.5 for corner in region[1:]]
            if aligned:
                corners = [corner - 0.5 for corner in corners]
            lengths = [corners[3] - corners[1], corners[2] - corners[0]]
            if not aligned:
                lengths = [length if length > 1 else Number(1.0) for length in lengths]
            axes = []
            for start, length, bins in zip(corners[1::-1], lengths, (height, width), strict=True):
                size = length / bins
                axes.append([])
                for i, sample in itertools.product(range(bins), range(ratio)):
                    position = start + Number(i) * size + (Number(sample) + 0.5) * size / ratio
                    position = position if position > 0 else Number(0.0)
                    axes[-1].append(linear_taps(position))
            samples = {
                spot: joint([axes[0][spot[0]], axes[1][spot[1]]])
                for spot in np.ndindex(height * ratio, width * ratio)
            }
            for c, i, j in np.ndindex(channels, height, width):
                sums = [
                    total(
                        weight * values[(0, c, *tap)]
                        for tap, weight in zip(*samples[i * ratio + a, j * ratio + b], strict=True)
                    )
                    for a, b in np.ndindex(ratio, ratio)
                ]
                result[number, c, i, j] = total(sums) / ratio**2
    zoo.load()
    in_python = import_module("torchvision.ops.roi_align")._roi_align
    with torch.compiler.set_stance("force_eager"):
        expected = in_python(x, rois, 0.5, height, width, ratio, aligned)
    np.testing.assert_allclose(floats(result), expected, atol=1e-6)
    out = torch.empty(result.shape)
    assert resampling.roi_align(x, rois, 0.5, height, width, ratio, aligned, out=out) == tally.cost
    # its gradient weighs and adds each tap, and divides once for each result
    sampled = out.numel() * ratio**2
    forward_only = Cost(arith=sampled * 7 + out.numel() * ratio**2)
    shape = (1, channels, 8, 8)
    backward = resampling._roi_align_backward(
        out, rois, 0.5, height, width, *shape, ratio, aligned, out=x
    )
    assert backward.input + forward_only == tally.cost + Cost(arith=sampled * 8 + out.numel())


def test_one_sample_a_bin_leaves_nothing_to_add():
    x, rois, out = torch.rand(1, 2, 8, 8), torch.rand(3, 5), torch.empty(3, 2, 2, 2)
    one = resampling.roi_align(x, rois, 1.0, 2, 2, 1, True, out=out)
    # 4 corners scaled and shifted, 2 lengths, 2 sizes; 4 coordinates of 6 + 2 steps; 4 places
    weights = 3 * (4 + 4 + 2 + 2 + 4 * 8 + 4 * 4)
    assert one == Cost(arith=weights + out.numel() * (7 + 1), compare=3 * 4 * 2)


def test_gradient_of_a_pooled_region_adds_each_result():
    grad = torch.rand(3, 2, 2, 2)
    cost = resampling._roi_pool_backward(grad, out=torch.empty(1, 2, 8, 8)).input
    assert cost == Cost(arith=3 * 2 * 2 * 2)


def test_as_many_samples_as_a_region_is_large_cannot_be_counted():
    with pytest.raises(Uncountable, match="sizes of the regions"):
        resampling.roi_align(
            torch.rand(1, 2, 8, 8),
            torch.rand(1, 5),
            1.0,
            2,
            2,
            0,
            True,
            out=torch.empty(1, 2, 2, 2),
        )
