from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import flopcount
from flopcount import Cost, FlopCounter
from tests.formulas.counting import Tally, counting, floats, numbers, opened
from tests.formulas.decomposed import measured

pytestmark = pytest.mark.filterwarnings("ignore:Sparse")
aten = torch.ops.aten
M, K, N = 4, 6, 5
S = 8  # values that are stored, none of the rows being empty

DENSE = torch.zeros(M, K)
DENSE[0, :2] = DENSE[1, 2:4] = DENSE[2, 1:3] = DENSE[3, 4:] = torch.tensor([2.0, 3.0])
B, C, V = torch.rand(K, N), torch.rand(M, N), torch.rand(K)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # compressed rows are in beta
    COO, CSR, CSC = DENSE.to_sparse(), DENSE.to_sparse_csr(), DENSE.to_sparse_csc()
    BSR = DENSE.to_sparse_bsr((2, 2))  # stores whole blocks
SPARSE_SUM = torch.eye(M, N).to_sparse()
LAYOUTS = pytest.mark.parametrize("a", [COO, CSR, CSC], ids=["COO", "CSR", "CSC"])


def by_rows(a: Tensor, b: Tensor) -> tuple[Any, Tally]:
    """a @ b, each row of a sum of its stored values' products with rows of b."""
    rows, left, right = a.tolist(), numbers(a), numbers(b)
    result = []
    with counting() as tally:
        for i, row in enumerate(rows):
            stored = [j for j, value in enumerate(row) if value != 0]
            terms = [right[j] * left[i, j] for j in stored]
            first, *rest = terms
            for term in rest:
                first = first + term
            result.append(list(first))
    return result, tally


@LAYOUTS
def test_each_stored_value_meets_a_row_of_the_other_factor(a: Tensor) -> None:
    result, tally = by_rows(DENSE, B)
    assert torch.allclose(floats(result).float(), a @ B)
    cost = measured(lambda: a @ B)
    assert opened(cost) == tally.cost
    assert cost == Cost(macs=S * N, dots=M * N)
    assert measured(lambda: torch.mm(a, B, out=torch.empty(M, N))) == cost


@LAYOUTS
@pytest.mark.parametrize(
    ("call", "expected"),
    [
        pytest.param(
            lambda a: torch.rand(3, M) @ a,
            Cost(macs=3 * S, dots=3 * K),
            id="or a column, if it is the second factor: 6 columns, all with values",
        ),
        pytest.param(lambda a: a @ V, Cost(macs=S, dots=M), id="or a number of a vector"),
        pytest.param(
            lambda a: torch.addmm(C, a, B),
            Cost(macs=S * N, dots=M * N, arith=M * N),
            id="a bias is an addition for each dot product",
        ),
        pytest.param(
            lambda a: torch.addmm(C, a, B, beta=2, alpha=3),
            Cost(macs=S * N, dots=M * N, arith=3 * M * N),
            id="factors are products",
        ),
        pytest.param(
            lambda a: torch.addmm(*(each.to(torch.complex64) for each in (C, a, B)), alpha=3),
            Cost(macs=4 * S * N, dots=2 * M * N, arith=(2 + 2) * M * N),
            id="a real factor scales both parts of a complex number",
        ),
        pytest.param(
            lambda a: torch.sparse.mm(a, B),
            Cost(macs=S * N, dots=M * N),
            id="sparse.mm has no bias",
        ),
        pytest.param(
            lambda a: torch.sparse.addmm(C, a, B, alpha=3),
            Cost(macs=S * N, dots=M * N, arith=2 * M * N),
            id="sparse.addmm has one",
        ),
    ],
)
def test_products(call: Callable[[Tensor], Any], a: Tensor, expected: Cost) -> None:
    assert measured(call, a) == expected


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        pytest.param(
            lambda: BSR @ B,
            Cost(macs=5 * 4 * N, dots=M * N),
            id="of blocks all values are stored: five of 2 by 2",
        ),
        pytest.param(
            lambda: torch.hspmm(COO, B),
            Cost(macs=S * N, dots=M * N),
            id="a hybrid result stores rows",
        ),
        pytest.param(
            lambda: torch.bmm(torch.stack([COO, COO]), torch.stack([B, B])),
            Cost(macs=2 * S * N, dots=2 * M * N),
            id="a batch",
        ),
        pytest.param(
            lambda: COO.to(torch.complex64) @ B.to(torch.complex64),
            Cost(macs=4 * S * N, dots=2 * M * N),
            id="a complex product is four real ones",
        ),
        pytest.param(
            lambda: torch.eye(2, 9).to_sparse() @ torch.rand(9, N),
            Cost(macs=2 * N, dots=2 * N),
            id="a row with one value is a product without a sum",
        ),
        pytest.param(
            lambda: torch.zeros(M, K).to_sparse() @ B, Cost(), id="nothing is stored: nothing done"
        ),
        pytest.param(
            lambda: torch.sparse.sampled_addmm(CSR, torch.rand(M, 7), torch.rand(7, K)),
            Cost(macs=S * 7, dots=S, arith=S),
            id="a sampled product has a dot product for each stored value, and a sum",
        ),
        pytest.param(
            lambda: torch.sparse.sampled_addmm(
                CSR, torch.rand(M, 7), torch.rand(7, K), beta=2, alpha=3
            ),
            Cost(macs=S * 7, dots=S, arith=3 * S),
            id="with factors",
        ),
        pytest.param(
            lambda: torch.sparse.mm(CSR, B, "sum"), Cost(macs=S * N, dots=M * N), id="summed"
        ),
        pytest.param(
            lambda: torch.sparse.mm(CSR, B, "mean"),
            Cost(macs=S * N, dots=M * N, arith=M * N),
            id="averaged: each sum is divided",
        ),
        pytest.param(
            lambda: torch.sparse.mm(CSR, B, "amax"),
            Cost(arith=S * N, compare=(S - M) * N),
            id="the largest product of each row",
        ),
        pytest.param(lambda: COO.relu(), Cost(compare=S), id="relu of what is stored"),
        pytest.param(lambda: -CSR, Cost(compare=S), id="negation"),
        pytest.param(lambda: CSR.sin(), Cost(special=S), id="sine"),
        pytest.param(lambda: COO**3, Cost(arith=2 * S), id="a cube"),
        pytest.param(lambda: COO * 2, Cost(arith=S), id="a product with a number"),
        pytest.param(lambda: COO * torch.rand(M, K), Cost(arith=S), id="or with a dense tensor"),
        pytest.param(lambda: COO / 2, Cost(arith=S), id="a quotient"),
        pytest.param(
            lambda: COO * torch.eye(M, K).to_sparse(),
            Cost(arith=2),
            id="two sparse tensors: where both have values, at (0, 0) and (2, 2)",
        ),
        pytest.param(
            lambda: CSR + torch.eye(M, K).to_sparse_csr(),
            Cost(arith=2),
            id="their sum: likewise",
        ),
        pytest.param(
            lambda: torch.add(CSR, torch.eye(M, K).to_sparse_csr(), alpha=3),
            Cost(arith=2 + 4),
            id="and a product for each value of the second",
        ),
        pytest.param(
            lambda: torch.rand(M, K) + COO, Cost(arith=S), id="a dense one meets all values"
        ),
        pytest.param(
            lambda: torch.rand(M, K).add_(COO, alpha=-0.1), Cost(arith=2 * S), id="scaled, in place"
        ),
        pytest.param(lambda: COO.sum(), Cost(arith=S - 1), id="a sum"),
        pytest.param(
            lambda: torch.sparse.sum(COO, 1), Cost(arith=S - M), id="sums of rows, all with values"
        ),
        pytest.param(
            lambda: torch.sparse_coo_tensor(
                torch.tensor([[0, 0, 1], [2, 2, 3]]), torch.ones(3), (M, K)
            ).coalesce(),
            Cost(arith=1),
            id="of three values two have one place",
        ),
        pytest.param(lambda: COO.to_dense(), Cost(), id="conversions are free"),
        pytest.param(lambda: DENSE.sparse_mask(COO), Cost(), id="and masks"),
        pytest.param(lambda: COO.int() + COO.int(), Cost(), id="integers are free"),
    ],
)
def test_what_is_stored_counts(call: Callable[[], Any], expected: Cost) -> None:
    assert measured(call) == expected


def test_gradients_of_products() -> None:
    """dA = dC·Bᵀ where A stores values, dB = Aᵀ·dC."""
    for reduce, backward in {
        "sum": Cost(macs=2 * S * N, dots=S + K * N),
        "mean": Cost(macs=2 * S * N, dots=S + K * N, arith=2 * S),
        "amax": Cost(arith=2 * 2 * M * N),
    }.items():
        a, b = CSR.clone().requires_grad_(), B.clone().requires_grad_()
        with FlopCounter() as counter:
            y = torch.sparse.mm(a, b, reduce)
            y.backward(torch.ones_like(y))
        report = counter.report()
        assert not report.uncounted
        cost = report.by_operator()["aten._sparse_mm_reduce_impl_backward"]
        assert Cost(cost.macs, cost.dots, arith=cost.arith, compare=cost.compare) == backward
    with FlopCounter() as counter:
        y = torch.sparse.mm(a.detach().requires_grad_(), b)
        y.backward(torch.ones_like(y))
    report = counter.report()
    assert not report.uncounted
    assert report.phases["backward"].macs == 2 * S * N
    assert report.by_operator()["aten.mm"].macs == S * N


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda: COO @ COO.t(), id="a product of two sparse matrices"),
        pytest.param(
            lambda: torch.sspaddmm(SPARSE_SUM, COO, B),
            id="a product that is stored where it is not 0",
        ),
    ],
)
def test_what_depends_on_places_is_uncounted(call: Callable[[], Any]) -> None:
    with FlopCounter() as counter:
        call()
    assert counter.report().uncounted


ROUNDED = "ceil floor round trunc"
TOLD_APART = "abs isnan isneginf isposinf relu sgn sign signbit"
TRANSCENDENTAL = "asin asinh atan atanh erf erfinv expm1 log1p sin sinh tan tanh"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        pytest.param(ROUNDED, Cost(compare=S), id="a rounding"),
        pytest.param("frac", Cost(arith=S, compare=S), id="what a rounding takes away"),
        pytest.param(TOLD_APART, Cost(compare=S), id="a comparison"),
        pytest.param("isinf", Cost(compare=2 * S), id="a comparison with each of two infinities"),
        pytest.param("nan_to_num", Cost(compare=3 * S), id="selects: no number, two infinities"),
        pytest.param("sqrt square", Cost(arith=S), id="a root, a product"),
        pytest.param("deg2rad rad2deg", Cost(arith=S), id="a product with a number"),
        pytest.param(TRANSCENDENTAL, Cost(special=S), id="a function"),
    ],
)
def test_what_keeps_zeros_is_done_on_stored_values_alone(names: str, expected: Cost) -> None:
    for name in names.split():
        assert measured(getattr(torch, name), COO) == expected, name


def test_a_factor_without_columns_has_no_dot_products() -> None:
    a, b = CSR.clone().requires_grad_(), torch.rand(K, 0, requires_grad=True)
    with FlopCounter() as counter:
        torch.sparse.mm(a, b, "sum").sum().backward()
    assert counter.report().total.dots == 0


def test_more_that_keeps_zeros() -> None:
    assert measured(torch.angle, CSR) == Cost(compare=S)
    assert measured(torch.floor_divide, COO, 2) == Cost(arith=S, compare=S)


@pytest.mark.parametrize("layout", [COO, CSR], ids=["COO", "CSR"])
def test_relus_gradient_is_a_select_for_each_stored_value(layout: Tensor) -> None:
    x = layout.clone().requires_grad_()
    with FlopCounter() as counter:
        x.relu().backward(layout)
    report = counter.report()
    assert not report.uncounted
    assert report.phases["backward"].flops == report.phases["backward"].compare == S


def test_a_square_that_arrives_whole_is_a_product_of_each_stored_value() -> None:
    whole = torch.inference_mode()(torch.square)  # elsewhere it is a power
    assert measured(whole, COO) == Cost(arith=S)


def test_calls_on_equal_shapes_are_told_apart_by_what_they_store() -> None:
    """Nor is a sparse tensor taken for a dense one of which all strides are 0."""
    few, nothing = torch.eye(M, K).to_sparse(), torch.zeros(1).expand(M, K)
    for order in ([COO, few, nothing], [nothing, few, COO]):
        with FlopCounter() as counter:
            for a in order:
                a @ B
        report = counter.report()
        assert not report.uncounted
        assert report.total.macs == (S + 4 + M * K) * N
    with FlopCounter() as counter:
        DENSE.to_sparse()
        torch.eye(M, K).to_sparse()
    # written are for each value 4 bytes, and two indices of 8
    assert counter.report().by_operator()["aten._to_sparse"].written == (S + 4) * (4 + 2 * 8)


@pytest.mark.parametrize(
    ("call", "op", "read", "written"),
    [
        # 4 bytes a value, 8 an index
        pytest.param(lambda: COO @ B, "mm", S * 20 + 4 * K * N, 4 * M * N, id="a product, COO"),
        pytest.param(
            lambda: CSR @ B, "mm", S * 12 + (M + 1) * 8 + 4 * K * N, 4 * M * N, id="a product, CSR"
        ),
        pytest.param(
            lambda: CSC @ B, "mm", S * 12 + (K + 1) * 8 + 4 * K * N, 4 * M * N, id="a product, CSC"
        ),
        pytest.param(
            lambda: BSR @ B,
            "mm",
            5 * (16 + 8) + (M // 2 + 1) * 8 + 4 * K * N,
            4 * M * N,
            id="a product, BSR",
        ),
        pytest.param(lambda: COO.to_dense(), "_to_dense", S * 20, 4 * M * K, id="a conversion"),
        pytest.param(lambda: COO.clone(), "clone", S * 20, S * 20, id="a copy"),
        pytest.param(
            lambda: DENSE.sparse_mask(COO),
            "sparse_mask",
            S * 16 + S * 4,
            S * 20,
            id="a mask lends its indices",
        ),
        pytest.param(
            lambda: torch.rand(M, K).add_(COO),
            "add_",
            S * 20 + S * 4,
            S * 4,
            id="what is added to in place is touched where there are values",
        ),
        pytest.param(
            lambda: DENSE + COO, "add", S * 20 + 4 * M * K, 4 * M * K, id="a copy is made whole"
        ),
    ],
)
def test_values_and_indices_are_bytes(
    call: Callable[[], Any], op: str, read: int, written: int
) -> None:
    with FlopCounter() as counter:
        call()
    cost = counter.report().by_operator()[f"aten.{op}"]
    assert (cost.read, cost.written) == (read, written)


def test_a_formula_of_ones_own_may_read_sparse_tensors() -> None:
    @torch.library.custom_op("flopcount_tests::stored", mutates_args=())
    def stored(x: Tensor) -> Tensor:
        return x.to_dense().clone()

    with FlopCounter() as counter:
        stored(COO)
    assert counter.report().uncounted == {"flopcount_tests.stored": 1}

    @flopcount.formula("flopcount_tests::stored", sparse=True)
    def stored_cost(x: Tensor, *, out: Tensor) -> Cost:
        return Cost(arith=x._nnz())

    with FlopCounter() as counter:
        stored(COO)
    assert counter.report().total.flops == S
    with FlopCounter() as counter:
        stored(DENSE)  # not sparse
    assert counter.report().uncounted == {"flopcount_tests.stored": 1}


def test_fake_sparse_tensors_store_nothing_and_are_not_counted() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    mode = FakeTensorMode()
    a, b = mode.from_tensor(COO), mode.from_tensor(B)
    with mode, FlopCounter() as counter:
        assert (a @ b).shape == (M, N)
    assert counter.report().uncounted == {"aten.mm": 1}


def test_the_other_modes_of_a_program_do_not_see_what_is_asked_of_a_sparse_tensor() -> None:
    with FlopCounter() as outer, FlopCounter() as inner:
        COO @ B
    assert set(outer.report().by_operator()) == set(inner.report().by_operator()) == {"aten.mm"}


# -- softmax, norms and products of what is stored


STORED = torch.tensor([[2.0, 3.0]]).expand(M, 2).contiguous()  # the same numbers, close together


@pytest.mark.parametrize(
    ("sparse", "dense"),
    [(torch.sparse.softmax, torch.softmax), (torch.sparse.log_softmax, torch.log_softmax)],
    ids=["softmax", "its logarithm"],
)
def test_what_is_not_stored_is_no_part_of_a_softmax(sparse: Any, dense: Any) -> None:
    assert measured(sparse, COO, 1) == measured(dense, STORED, 1)
    x, y = COO.clone().requires_grad_(), STORED.clone().requires_grad_()
    with FlopCounter() as ours:
        torch.sparse.sum(sparse(x, 1)).backward()
    with FlopCounter() as theirs:
        dense(y, 1).sum().backward()
    name = sparse.__name__.removeprefix("_sparse_")
    costs = ours.report().by_operator()[f"aten._sparse_{name}_backward_data"]
    assert costs.flops == theirs.report().by_operator()[f"aten._{name}_backward_data"].flops
    assert not ours.report().uncounted


def test_a_dimension_within_what_is_stored_has_whole_rows() -> None:
    blocks = torch.sparse_coo_tensor(torch.tensor([[0, 3]]), torch.rand(2, 5), (4, 5))
    assert measured(torch.sparse.softmax, blocks, 1) == measured(torch.softmax, torch.rand(2, 5), 1)


def test_a_norm_of_what_is_stored() -> None:
    cost = Cost(arith=S + (S - 1) + 1)  # squares, their sum, a root
    assert measured(torch.native_norm, COO) == cost
    assert measured(COO.norm) == cost


def test_products_of_rows() -> None:
    assert measured(torch._sparse_csr_prod, CSR, [1], True) == Cost(arith=S - M)
