import bisect
import itertools
import math

import numpy as np
import pytest
import torch
from torch import ops

import flopcount
from flopcount import Cost
from flopcount.formulas.ops.sorting import sort_comparisons
from tests.formulas.counting import Number, counting, floats, numbers
from tests.formulas.decomposed import decomposed_cost, measured, plain

aten = ops.aten
inf = math.inf

ROWS, LENGTH = 4, 6
n, m = ROWS * LENGTH, ROWS
x, y, g = torch.rand(3, ROWS, LENGTH, generator=torch.Generator().manual_seed(0)) + 0.5

REDUCTIONS = {
    "sum of all": (lambda: x.sum(), Cost(arith=n - 1)),
    "sum of rows": (lambda: x.sum(1), Cost(arith=n - m)),
    "sum that keeps the dimension": (lambda: x.sum(1, keepdim=True), Cost(arith=n - m)),
    "sum of one number a row": (lambda: x[:, :1].sum(1), Cost()),
    "sum of nothing": (lambda: x[:, :0].sum(1), Cost()),
    "sum of complex numbers, two additions each": (
        lambda: torch.complex(x, y).sum(1),
        Cost(arith=2 * (n - m)),
    ),
    "sum of integers is no floating-point work": (lambda: torch.ones(n, dtype=int).sum(), Cost()),
    "sum without the not-a-numbers": (lambda: x.nansum(1), Cost(arith=n - m, compare=n)),
    "mean of rows": (lambda: x.mean(1), Cost(arith=n - m + m)),
    "mean of complex numbers": (
        lambda: torch.complex(x, y).mean(1),
        Cost(arith=2 * (n - m) + 2 * m),
    ),
    "product of rows": (lambda: x.prod(1), Cost(arith=n - m)),
    "trace": (lambda: x.trace(), Cost(arith=min(ROWS, LENGTH) - 1)),
    "largest of all": (lambda: x.max(), Cost(compare=n - 1)),
    "largest of rows": (lambda: x.max(1), Cost(compare=n - m)),
    "larger of two": (lambda: torch.max(x, y), Cost(compare=n)),
    "smallest of rows": (lambda: x.amin(1), Cost(compare=n - m)),
    "place of the largest": (lambda: x.argmax(1), Cost(compare=n - m)),
    "both extremes": (lambda: torch.aminmax(x, dim=1), Cost(compare=2 * (n - m))),
    "any": (lambda: x.any(1), Cost(compare=n)),
    "any of complex numbers, two parts each": (
        lambda: torch.complex(x, y).any(1),
        Cost(compare=2 * n),
    ),
    "any of booleans": (lambda: torch.ones(5, dtype=torch.bool).any(), Cost()),
    "number of nonzeros": (lambda: x.count_nonzero(1), Cost(compare=n)),
    "variance of rows": (lambda: x.var(1), Cost(arith=4 * n)),
    "variance of all": (lambda: x.var(), Cost(arith=4 * n)),
    "variance of complex numbers": (
        # mean 2·n, differences 2·n, squared moduli 3·n, and their mean n
        lambda: torch.complex(x, y).var(1),
        Cost(arith=2 * n + 2 * n + 3 * n + n),
    ),
    "deviation and mean": (lambda: torch.std_mean(x, 1), Cost(arith=4 * n + m)),
    "running sum": (lambda: x.cumsum(1), Cost(arith=n - m)),
    "running sum of one number": (lambda: torch.tensor(1.0).cumsum(0), Cost()),
    "running sum of nothing": (lambda: x[:, :0].cumsum(1), Cost()),
    "running sum along rows of one number": (lambda: x[:, :1].cumsum(1), Cost()),
    "running product": (lambda: x.cumprod(0), Cost(arith=n - LENGTH)),
    "running maximum": (lambda: x.cummax(1), Cost(compare=n - m)),
    "2-norm": (lambda: torch.linalg.vector_norm(x, 2, 1), Cost(arith=n + n - m + m)),
    "2-norm by default": (
        lambda: aten.norm.ScalarOpt_dim(x, None, [1]),
        Cost(arith=n + n - m + m),
    ),
    "old 2-norm": (lambda: x.norm(), Cost(arith=n + n - 1 + 1)),
    "norms of a list": (
        lambda: torch._foreach_norm([x, y]),
        2 * Cost(arith=n + n - 1 + 1),
    ),
    "2-norm of complex numbers": (
        lambda: torch.linalg.vector_norm(torch.complex(x, y), 2, 1),
        Cost(arith=3 * n + n - m + m),
    ),
    "1-norm of complex numbers": (
        lambda: torch.linalg.vector_norm(torch.complex(x, y), 1, 1),
        Cost(arith=4 * n + n - m),
    ),
    "distance of two tensors": (lambda: torch.dist(x, y), Cost(arith=3 * n)),
    "distance of complex tensors": (
        lambda: torch.dist(torch.complex(x, y), torch.complex(y, x)),
        Cost(arith=2 * n + 3 * n + n - 1 + 1),
    ),
    "distance of tensors that broadcast": (
        # (4, 1) against (6,): 4·6 differences, their squares, a sum and a root
        lambda: torch.dist(x[:, :1], y[0]),
        Cost(arith=n + n + n - 1 + 1),
    ),
    "distance of a complex and a real tensor": (
        # of each difference one part, 3 for each squared modulus
        lambda: torch.dist(torch.complex(x, y), y),
        Cost(arith=n + 3 * n + n - 1 + 1),
    ),
    "larger of two, placed": (
        lambda: torch.max(x, y, out=torch.empty(ROWS, LENGTH)),
        Cost(compare=n),
    ),
}


@pytest.mark.parametrize("p", [17.0, 18.0, -18.0, 0.25, 1 / 3, 17, 18])
@pytest.mark.parametrize(
    "norm",
    [
        pytest.param(lambda p: torch.linalg.vector_norm(x, p, 1), id="norm"),
        pytest.param(lambda p: torch.linalg.vector_norm(torch.complex(x, y), p, 1), id="complex"),
        pytest.param(lambda p: x.norm(p), id="old norm"),
        pytest.param(lambda p: torch._foreach_norm([x], p), id="norms of a list"),
        pytest.param(lambda p: torch.dist(x, y, p), id="distance"),
        pytest.param(lambda p: torch.renorm(x, abs(p), 0, 1.0), id="renormalisation"),
        pytest.param(lambda p: torch.cdist(x, y, abs(p)), id="pairwise distances"),
        pytest.param(
            lambda p: aten._cdist_backward(g[:, :4].contiguous(), x, y, abs(p), y[:, :4]),
            id="gradient of pairwise distances",
        ),
    ],
)
def test_norms_of_two_numbers_cost_the_same_in_either_order(norm, p):
    with flopcount.FlopCounter() as counter:
        norm(3.3)
        norm(p)
        norm(3.3)
    assert plain(counter.report().total) == 2 * measured(norm, 3.3) + measured(norm, p)


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        # an even power needs no modulus; above 16 a power is one evaluation, and so is its root
        (17.0, Cost(compare=n, special=n + m, arith=n - m)),
        (18.0, Cost(special=n + m, arith=n - m)),
        (-18.0, Cost(special=n + m, arith=n - m)),
        # the root of a fourth root's sum is its fourth power, two squarings
        (0.25, Cost(compare=n, special=n, arith=n - m + 2 * m)),
        (1 / 3, Cost(compare=n, special=n, arith=n - m + 2 * m)),  # a cube, two products
        (3.3, Cost(compare=n, special=n + m, arith=n - m)),
    ],
)
def test_norms_of_unusual_numbers(p, expected):
    assert measured(torch.linalg.vector_norm, x, p, 1) == expected


@pytest.mark.parametrize(("call", "expected"), REDUCTIONS.values(), ids=REDUCTIONS)
def test_reduction(call, expected):
    assert measured(call) == expected


DECOMPOSED = {
    "sum": (aten.sum.dim_IntList, (x, [1])),
    "mean": (aten.mean.dim, (x, [1])),
    "variance": (aten.var.correction, (x, [1])),
    "variance and mean": (aten.var_mean.correction, (x, [1])),
    "deviation": (aten.std.correction, (x, [1])),
    "softmax": (aten._softmax.default, (x, 1, False)),
    "softmax along the first dimension": (aten._softmax.default, (x, 0, False)),
    "log softmax": (aten._log_softmax.default, (x, 1, False)),
    "safe softmax": (aten._safe_softmax.default, (x, 1)),
    "gradient of softmax": (aten._softmax_backward_data.default, (g, y, 1, torch.float32)),
    "gradient of log softmax": (aten._log_softmax_backward_data.default, (g, y, 1, torch.float32)),
    "0-norm": (aten.linalg_vector_norm.default, (x, 0, [1])),
    "1-norm": (aten.linalg_vector_norm.default, (x, 1, [1])),
    "2-norm": (aten.linalg_vector_norm.default, (x, 2, [1])),
    "3-norm": (aten.linalg_vector_norm.default, (x, 3, [1])),
    "4-norm": (aten.linalg_vector_norm.default, (x, 4, [1])),
    "2.5-norm": (aten.linalg_vector_norm.default, (x, 2.5, [1])),
    "largest absolute value": (aten.linalg_vector_norm.default, (x, inf, [1])),
    "smallest absolute value": (aten.linalg_vector_norm.default, (x, -inf, [1])),
    "distance": (aten.dist.default, (x, y, 3)),
    "renormalisation": (aten.renorm.default, (x, 2, 0, 1.0)),
    "distances by a product": (aten._euclidean_dist.default, (x, y[:3])),
    "trace": (aten.trace.default, (x,)),
}


# where torch writes more than the textbook
ALSO = {
    # its mean is taken once for the variance and once for itself: n - m additions, m divisions
    "variance and mean": Cost(arith=n),
    # a number divided by a tensor is a reciprocal and a product
    "renormalisation": Cost(arith=ROWS),
}


@pytest.mark.parametrize("name", DECOMPOSED)
def test_agrees_with_its_decomposition(name):
    op, args = DECOMPOSED[name]
    assert decomposed_cost(op, *args) == measured(op, *args) + ALSO.get(name, Cost())


def test_logsumexp_leaves_out_the_guard_against_infinity():
    guard = Cost(compare=3 * m)  # |maximum|, its comparison with infinity, a select
    cost = measured(aten.logsumexp.default, x, [1])
    assert decomposed_cost(aten.logsumexp.default, x, [1]) == cost + guard


def row_softmax(values):
    e = np.exp(values - values.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def row_logsumexp(values):
    largest = values.max(axis=1)
    return np.log(np.exp(values - largest[:, None]).sum(axis=1)) + largest


def row_variance(values):
    k = values.shape[1]
    difference = values - (values.sum(axis=1) / k)[:, None]
    return (difference * difference).sum(axis=1) / (k - 1)


def running_logsumexp(values):
    result = values.copy()
    for row in result:
        for i in range(1, len(row)):
            a, b = row[i - 1], row[i]
            larger = a if a > b else b
            smaller = b if a >= b else a
            row[i] = larger + np.log1p(np.exp(np.array([smaller - larger])))[0]
    return result


def pair_distances(values):
    return np.sqrt(((values[:, None] - values) * (values[:, None] - values)).sum(axis=2))


LOOPS = {
    "softmax": (row_softmax, lambda: x.softmax(1), Cost()),
    "logsumexp": (row_logsumexp, lambda: x.logsumexp(1), Cost()),
    "variance": (row_variance, lambda: x.var(1), Cost()),
    "running log-sum-exp": (running_logsumexp, lambda: x.logcumsumexp(1), Cost()),
    # the loop takes each difference twice
    "pairwise distances": (
        pair_distances,
        lambda: torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist"),
        Cost(arith=ROWS * ROWS * LENGTH),
    ),
}


@pytest.mark.parametrize(("loop", "call", "also"), LOOPS.values(), ids=LOOPS)
def test_agrees_with_a_loop_that_counts(loop, call, also):
    values = numbers(x)
    with counting() as tally:
        result = loop(values)
    np.testing.assert_allclose(floats(result), call(), atol=1e-4)
    assert measured(call) + also == tally.cost


wide = torch.rand(64, 1000)

# XLA's cost analysis of 64 rows of 1000: flops and transcendental evaluations together. A root
# is an evaluation there. It starts a maximum of softmax at -inf: 64 comparisons more.
XLA = {
    "sum of rows": (lambda: wide.sum(1), 63_936),
    "sum of all": (lambda: wide.sum(), 63_999),
    "mean of rows": (lambda: wide.mean(1), 64_000),
    "mean of all": (lambda: wide.mean(), 64_000),
    "product": (lambda: wide.prod(1), 63_936),
    "maximum": (lambda: wide.amax(1), 63_936),
    "norm": (lambda: torch.linalg.vector_norm(wide, dim=1), 127_936 + 64),
    "softmax": (lambda: wide.softmax(1), 255_936 + 64_000 - 64),
    "log softmax": (lambda: wide.log_softmax(1), 255_936 + 64_064 - 64),
}


@pytest.mark.parametrize(("call", "expected"), XLA.values(), ids=XLA)
def test_agrees_with_xla(call, expected):
    assert measured(call).flops == expected


# gradients


@pytest.mark.parametrize(
    ("p", "pair", "element"),
    [
        pytest.param(1, Cost(), Cost(compare=1), id="p = 1, a sign"),
        pytest.param(2, Cost(arith=1, compare=1), Cost(), id="p = 2, a division a pair"),
        pytest.param(inf, Cost(), Cost(compare=3), id="p = ∞, the winner's sign"),
        pytest.param(
            5,
            Cost(arith=2 + 1, compare=1),  # distance⁴ by two squarings, a division
            Cost(compare=1, arith=2 + 1),  # |a - b|³ by two products, times the difference
            id="p = 5",
        ),
    ],
)
def test_gradient_of_distances(p, pair, element):
    a, b = x.clone().requires_grad_(), y[:3]
    with flopcount.FlopCounter() as counter:
        torch.cdist(a, b, p).sum().backward()
    cost = plain(counter.report().by_operator()["aten._cdist_backward"])
    pairs, values = ROWS * 3, ROWS * 3 * LENGTH
    # the difference, its product with the pair's factor, and the sum over b
    steps = Cost(arith=values + values + values - ROWS * LENGTH)
    assert cost == steps + pairs * pair + values * element


def test_a_distance_that_counts_differences_has_no_gradient():
    for p, cost in ((0.0, Cost()), (1.0, Cost(arith=2 * 18 + 18 - 6, compare=18))):
        assert measured(aten._cdist_backward, g[:1, :3], x[:1], y[:3], p, y[:1, :3]) == cost
    assert not aten._cdist_backward(g[:1, :3], x[:1], y[:3], 0.0, y[:1, :3]).any()


def test_gradient_of_distances_within_a_set_goes_to_both_rows():
    a = x.clone().requires_grad_()
    with flopcount.FlopCounter() as counter:
        torch.nn.functional.pdist(a).sum().backward()
    pairs, values = 6, 6 * LENGTH
    operators = counter.report().by_operator()
    assert plain(operators["aten._pdist_forward"]) == Cost(arith=3 * values)
    backward = Cost(arith=2 * values + 2 * values - n) + pairs * Cost(arith=1, compare=1)
    assert plain(operators["aten._pdist_backward"]) == backward


def test_the_gradient_of_softmax_is_the_inputs():
    model = torch.nn.Softmax(1)
    report = flopcount.count(model, x.clone().requires_grad_())
    assert report.model.gradients["input"] == Cost(arith=3 * n + n - m)


def test_masked_softmax_selects_before_and_after():
    mask = torch.zeros(ROWS, LENGTH, dtype=torch.bool)
    softmax = Cost(arith=3 * n - m, compare=n - m, special=n)
    for dim in (1, None):
        cost = measured(aten._masked_softmax.default, x, mask, dim, 2)
        assert cost == softmax + Cost(compare=2 * n)
        cost = measured(aten._masked_softmax_backward.default, g, y, mask, dim)
        assert cost == Cost(arith=4 * n - m, compare=n)


def test_what_torch_takes_apart_costs_the_same_called_whole():
    calls = [lambda: torch.max(x, y), lambda: x.msort(), lambda: x.softmax(1)]
    for call in calls:
        with torch.inference_mode(), flopcount.FlopCounter() as counter:
            call()
        assert plain(counter.report().total) == measured(call)


# sorting

SORTS = {
    # 4 rows of 6: ⌈log₂ 6⌉ = 3
    "sort": (lambda: x.sort(1), 4 * 6 * 3),
    "sort of columns": (lambda: x.sort(0), 6 * 4 * 2),
    "stable sort": (lambda: x.sort(dim=0, stable=True), 6 * 4 * 2),
    "order": (lambda: x.argsort(1), 4 * 6 * 3),
    "sort of one number": (lambda: x[0, 0].sort(), 0),
    "one number's only best": (lambda: x[0, 0].kthvalue(1), 0),
    "median of one number": (lambda: x[0, 0].median(0), 0),
    "none of each row": (lambda: x.topk(0), 0),
    "best of each row": (lambda: x.topk(1), 4 * 5),
    "best two": (lambda: x.topk(2), 4 * (6 * 1 + 4)),
    "all of them, ordered": (lambda: x.topk(6), 4 * 6 * 3),
    "second from above": (lambda: x.kthvalue(5), 4 * (6 * 1 + 4)),
    "median of each row": (lambda: x.median(1), 4 * (6 * 2 + 3)),
    "median of all": (lambda: x.median(), 24 * 4 + 12),
    "most frequent": (lambda: x.mode(1), 4 * (6 * 3 + 5)),
}


@pytest.mark.parametrize(("call", "comparisons"), SORTS.values(), ids=SORTS)
def test_sorting(call, comparisons):
    assert measured(call) == Cost(compare=comparisons)


def places(*shape):
    return torch.empty(shape), torch.empty(shape, dtype=torch.long)


# each with its bytes written: values of 4 bytes, where they were of 8
PLACED = {
    "sort": (lambda out: torch.sort(x, 1, out=out), SORTS["sort"][1], places(ROWS, LENGTH)),
    "stable sort": (
        lambda out: torch.sort(x, stable=True, dim=1, out=out),
        SORTS["order"][1],
        places(ROWS, LENGTH),
    ),
    "best two": (lambda out: torch.topk(x, 2, out=out), SORTS["best two"][1], places(ROWS, 2)),
    "second from above": (
        lambda out: torch.kthvalue(x, 5, out=out),
        SORTS["second from above"][1],
        places(ROWS),
    ),
    "median": (
        lambda out: torch.median(x, 1, out=out),
        SORTS["median of each row"][1],
        places(ROWS),
    ),
    "median but for not-a-numbers": (
        lambda out: torch.nanmedian(x, 1, out=out),
        SORTS["median of each row"][1],
        places(ROWS),
    ),
    "most frequent": (
        lambda out: torch.mode(x, 1, out=out),
        SORTS["most frequent"][1],
        places(ROWS),
    ),
    "largest": (lambda out: torch.max(x, 1, out=out), n - m, places(ROWS)),
    "smallest": (lambda out: torch.min(x, 1, out=out), n - m, places(ROWS)),
    "running maximum": (lambda out: torch.cummax(x, 1, out=out), n - m, places(ROWS, LENGTH)),
}


@pytest.mark.parametrize(("call", "comparisons", "out"), PLACED.values(), ids=PLACED)
def test_results_that_are_placed_are_written_and_not_read(call, comparisons, out):
    with flopcount.FlopCounter() as counter:
        call(out)
    report = counter.report()
    assert not report.uncounted
    total = report.total
    assert total.flops == total.compare == comparisons
    assert (total.read, total.written) == (4 * n, (4 + 8) * out[0].numel())


def test_what_is_placed_costs_the_same_called_whole():
    with torch.inference_mode():
        assert measured(lambda: torch.max(x, y, out=torch.empty(ROWS, LENGTH))).compare == n
        assert measured(lambda: x.argsort(dim=1, stable=True)).compare == SORTS["order"][1]


def best(values, k):
    """The k best by the method that ``sort_comparisons`` bounds."""
    kept = []
    for value in values:
        if len(kept) == k:
            if not value > kept[0]:
                continue
            del kept[0]
        bisect.insort(kept, value)
    return kept


@pytest.mark.parametrize("k", range(1, 6))
def test_no_order_of_the_values_takes_more_comparisons_than_counted(k):
    most = 0
    for order in itertools.permutations(range(5)):
        values = [Number(float(value)) for value in order]
        with counting() as tally:
            kept = best(values, k)
        assert [number.value for number in kept] == list(range(5 - k, 5))
        most = max(most, tally.compare)
    assert most <= sort_comparisons(5, k)
    if k == 1:
        assert most == sort_comparisons(5, 1) == 5 - 1


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        (2, Cost(arith=12 + 11)),  # squares, and their sum
        (3, Cost(compare=12, arith=2 * 12 + 11)),  # moduli, two products each
        (0, Cost(compare=12, arith=11)),  # x ≠ 0
    ],
    ids=["of squares", "of cubes", "of ones"],
)
def test_a_sum_of_powers_is_a_norm_without_its_root(p, expected):
    values = torch.linspace(-1, 1, 12)
    assert measured(aten.linalg__powsum, values, p) == expected
    assert measured(aten._foreach_powsum, [values, values], p) == 2 * expected


def test_extremes_so_far_into_places_that_are_there():
    values = torch.rand(3, 4)
    places = torch.empty(3, 4), torch.empty(3, 4, dtype=torch.int64)
    for helper in (aten._cummax_helper, aten._cummin_helper):
        with flopcount.FlopCounter() as counter:
            helper(values, *places, 1)
        cost = counter.report().total
        assert cost.flops == cost.compare == 3 * (4 - 1)
        assert (cost.read, cost.written) == (48, 48 + 96)


def test_softmax_into_a_place_that_is_there():
    values, place = torch.rand(3, 4), torch.empty(3, 4)
    # of 12 values in 3 rows: a maximum, differences, exponentials, their sum, quotients
    cost = Cost(compare=12 - 3, arith=12 + (12 - 3) + 12, special=12)
    assert measured(aten.softmax.int_out, values, 1, out=place) == cost
    # differences in place of quotients, and a logarithm for each row
    assert measured(aten.log_softmax.int_out, values, 1, out=place) == cost + Cost(special=3)
