from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flopcount import Cost
from tests.formulas.decomposed import billed
from tests.formulas.reports import only, report_of

aten = torch.ops.aten
TABLE = torch.rand(100, 8)  # rows of 32 bytes
ROWS = torch.tensor([3, 1, 4, 1])  # 32 bytes
VALUES = torch.rand(4, 8)  # 128 bytes
SHOWN = ROWS.view(4, 1) > 1


# -- looking up


@pytest.mark.parametrize(
    "look_up",
    [
        pytest.param(lambda: F.embedding(ROWS, TABLE), id="embedding"),
        pytest.param(lambda: TABLE[ROWS], id="indexing"),
        pytest.param(lambda: TABLE.index_select(0, ROWS), id="index_select"),
        pytest.param(
            lambda: torch.index_select(TABLE, 0, ROWS, out=torch.empty(0)), id="index_select, out"
        ),
    ],
)
def test_of_a_table_only_the_rows_that_are_looked_up_are_read(look_up: Callable[[], Any]) -> None:
    costs = report_of(look_up).by_operator()
    costs.pop("aten.empty", None)
    (cost,) = costs.values()
    assert cost.flops == 0
    assert (cost.read, cost.written) == (4 * 32 + 32, 4 * 32)  # rows and indices


@pytest.mark.parametrize(
    ("look_up", "read", "written"),
    [
        pytest.param(
            lambda: TABLE.gather(0, ROWS.view(1, 4)), 4 * 4 + 32, 4 * 4, id="gather: elements"
        ),
        pytest.param(lambda: TABLE.take(ROWS), 4 * 4 + 32, 4 * 4, id="take: elements"),
        pytest.param(
            lambda: VALUES.masked_select(MASK),
            2 * 32 + 32,
            2 * 32,
            id="masked_select: the mask too",
        ),
    ],
)
def test_what_is_looked_up_is_free(look_up: Callable[[], Any], read: int, written: int) -> None:
    cost = only(look_up)
    assert (cost.flops, cost.read, cost.written) == (0, read, written)


MANY = torch.zeros(100, dtype=torch.long)
TYPES = torch.rand(2, 8)


@pytest.mark.parametrize(
    ("look_up", "elements"),
    [
        pytest.param(lambda: F.embedding(MANY, TYPES), 2 * 8, id="embedding"),
        pytest.param(lambda: TYPES[MANY], 2 * 8, id="indexing"),
        pytest.param(lambda: TYPES[:, :1].expand(2, 8)[MANY], 2, id="a table that is expanded"),
    ],
)
def test_what_is_looked_up_again_and_again_is_read_once(
    look_up: Callable[[], Any], elements: int
) -> None:
    cost = only(look_up)
    assert (cost.read, cost.written) == (4 * elements + 8 * 100, 4 * 100 * 8)


MASK = torch.tensor([True, False, True, False]).view(4, 1).expand(4, 8).contiguous()  # 32 bytes


@pytest.mark.parametrize(
    ("x", "parts"), [(TABLE, 1), (torch.complex(TABLE, TABLE), 2)], ids=["real", "complex"]
)
def test_a_masked_index_selects_each_part_of_each_element(x: Tensor, parts: int) -> None:
    cost = only(lambda: aten._unsafe_masked_index(x, SHOWN, [ROWS], 0))
    assert (cost.arith, cost.compare) == (0, parts * 4 * 8)


# -- placing


def target() -> Tensor:
    return torch.zeros(100, 8)


BIG = target()  # 3,200 bytes
SOME = torch.arange(100) < 3  # 100 bytes
COLUMNS = torch.arange(4).view(2, 2, 1)
INDEX = ROWS.view(4, 1).expand(4, 8).contiguous()  # one for each value: 256 bytes


@pytest.mark.parametrize(
    ("place", "arith", "compare"),
    [
        pytest.param(lambda: BIG.index_copy(0, ROWS, VALUES), 0, 0, id="index_copy"),
        pytest.param(lambda: BIG.index_fill(0, ROWS, 1.0), 0, 0, id="index_fill"),
        pytest.param(lambda: BIG.scatter(0, INDEX, VALUES), 0, 0, id="scatter"),
        pytest.param(lambda: BIG.index_put((ROWS,), VALUES), 0, 0, id="index_put"),
        pytest.param(
            lambda: BIG.index_put((ROWS,), VALUES, accumulate=True), 32, 0, id="index_put that adds"
        ),
        pytest.param(
            lambda: aten.index_put(BIG, [None, ROWS], torch.rand(100, 4), True),
            400,
            0,
            id="index_put that adds to columns",
        ),
        pytest.param(
            lambda: BIG.index_put((ROWS.view(2, 2),), torch.ones(()), accumulate=True),
            32,
            0,
            id="index_put that adds one value everywhere",
        ),
        pytest.param(
            lambda: BIG.index_put((ROWS.view(4, 1), ROWS), torch.ones(4, 4), accumulate=True),
            16,
            0,
            id="index_put with indices that broadcast",
        ),
        pytest.param(
            lambda: aten.index_put(BIG, [SOME], torch.ones(3, 8), True),
            3 * 8,  # 3 rows of 8 values
            0,
            id="index_put with a mask and a value for each element that it selects",
        ),
        pytest.param(
            lambda: aten.index_put(BIG, [None, SOME[:8]], torch.ones(100, 3), True),
            100 * 3,
            0,
            id="index_put with a mask of columns and a value for each element",
        ),
        pytest.param(
            lambda: aten.index_put(BIG, [SOME], torch.ones(()), True),
            100 * 8,  # at most, all
            0,
            id="index_put with a mask and one value",
        ),
        pytest.param(
            lambda: aten.index_put(BIG, [SOME], torch.ones(8), True),
            100 * 8,
            0,
            id="index_put with a mask and one row",
        ),
        pytest.param(
            lambda: aten.index_put(BIG, [SOME], torch.ones(3, 1), True),
            100 * 8,
            0,
            id="index_put with a mask and values that are broadcast",
        ),
        pytest.param(
            lambda: aten.index_put(BIG, [SOME, COLUMNS], torch.ones(2, 3), True),
            100 * 8,  # in fact (2, 2, 3) elements: the values are broadcast
            0,
            id="index_put with a mask and an index",
        ),
        pytest.param(lambda: BIG.index_add(0, ROWS, VALUES), 32, 0, id="index_add"),
        pytest.param(
            lambda: BIG.index_add(0, ROWS, VALUES, alpha=3), 2 * 32, 0, id="index_add, scaled"
        ),
        pytest.param(lambda: BIG.scatter_add(0, INDEX, VALUES), 32, 0, id="scatter_add"),
        pytest.param(
            lambda: BIG.scatter(0, INDEX, VALUES, reduce="multiply"), 32, 0, id="scatter by product"
        ),
        pytest.param(
            lambda: BIG.scatter_reduce(0, INDEX, VALUES, "sum"), 32, 0, id="scatter_reduce, sum"
        ),
        pytest.param(
            lambda: BIG.scatter_reduce(0, INDEX, VALUES, "mean"),
            32 + 800,
            0,
            id="scatter_reduce, mean: each element of the result is divided",
        ),
        pytest.param(
            lambda: BIG.scatter_reduce(0, INDEX, VALUES, "amax"),
            0,
            32,
            id="scatter_reduce, maximum",
        ),
        pytest.param(
            lambda: BIG.index_reduce(0, ROWS, VALUES, "prod"), 32, 0, id="index_reduce, product"
        ),
        pytest.param(
            lambda: BIG.put(ROWS, torch.rand(4), accumulate=True), 4, 0, id="put that adds"
        ),
        pytest.param(lambda: BIG.masked_scatter(BIG > 1, VALUES), 0, 0, id="masked_scatter"),
        pytest.param(
            lambda: aten._unsafe_masked_index_put_accumulate(
                BIG, ROWS.view(4, 1) > 0, [ROWS], VALUES
            ),
            32,
            32,
            id="the gradient of a masked index: each value is selected, and added",
        ),
        pytest.param(
            lambda: aten._unsafe_masked_index_put_accumulate(
                torch.complex(BIG, BIG), ROWS.view(4, 1) > 0, [ROWS], torch.complex(VALUES, VALUES)
            ),
            2 * 32,
            2 * 32,
            id="the gradient of a masked complex index: both parts",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:index_reduce.*beta", "ignore:The reduce argument")
def test_each_value_that_is_placed_is_added_at_most_once(
    place: Callable[[], Any], arith: int, compare: int
) -> None:
    costs = report_of(place).by_operator()
    for made in ("aten.rand", "aten.ones", "aten.gt", "aten.complex"):
        costs.pop(made, None)
    (cost,) = costs.values()
    assert (cost.arith, cost.compare) == (arith, compare)


@pytest.mark.parametrize(
    ("place", "read", "written"),
    [
        pytest.param(
            lambda x: x.index_put_((ROWS,), VALUES), 128 + 32, 128, id="index_put_: values, indices"
        ),
        pytest.param(
            lambda x: x.index_put_((ROWS,), VALUES, accumulate=True),
            128 + 32 + 128,
            128,
            id="index_put_ that adds reads what is there",
        ),
        pytest.param(
            lambda x: x.index_add_(0, ROWS, VALUES), 128 + 32 + 128, 128, id="index_add_ reads, too"
        ),
        pytest.param(
            lambda x: x.index_put_((SOME,), torch.tensor(2.0)),
            100 + 4,
            3200,
            id="index_put_ with a mask writes the whole target at most",
        ),
        pytest.param(
            lambda x: x.index_put_((SOME,), VALUES[:3]),
            100 + 96,
            96,
            id="index_put_ with a mask and a value for each",
        ),
        pytest.param(
            lambda x: x.index_put_((SOME,), torch.tensor(2.0), accumulate=True),
            3200 + 100 + 4,
            3200,
            id="index_put_ with a mask that adds reads the whole target at most",
        ),
        pytest.param(
            lambda x: x.masked_scatter_(SOME.view(100, 1), VALUES),
            128 + 100,
            3200,
            id="masked_scatter_ writes the whole target at most",
        ),
        pytest.param(
            lambda x: x.masked_fill_(SOME.view(100, 1), 2.0),
            3200 + 100,
            3200,
            id="masked_fill_ selects all over the target",
        ),
        pytest.param(
            lambda x: x.index_copy_(0, ROWS, VALUES), 128 + 32, 128, id="index_copy_ does not"
        ),
        pytest.param(lambda x: x.index_fill_(0, ROWS, 1.0), 32, 128, id="index_fill_: indices"),
        pytest.param(
            lambda x: x.scatter_(0, INDEX, VALUES), 128 + 256, 128, id="scatter_: values, indices"
        ),
        pytest.param(
            lambda x: x.scatter_add_(0, INDEX, VALUES), 128 + 256 + 128, 128, id="scatter_add_"
        ),
        pytest.param(
            lambda x: x.index_add(0, ROWS, VALUES), 3200 + 32 + 128, 3200, id="a copy is whole"
        ),
    ],
)
def test_in_place_only_what_is_met_moves(
    place: Callable[[Tensor], Any], read: int, written: int
) -> None:
    x = target()
    cost = only(lambda: place(x))
    assert (cost.read, cost.written) == (read, written)


# -- gradients


def test_an_embeddings_gradient_adds_each_row_to_its_weight() -> None:
    weight = TABLE.clone().requires_grad_()
    report = report_of(lambda: F.embedding(ROWS, weight).sum().backward())
    cost = report.by_operator()["aten.embedding_dense_backward"]
    assert cost.flops == cost.arith == 4 * 8
    assert report.root.gradients["weight"].arith == 4 * 8
    assert cost.written == 3200  # the whole gradient

    def scaled() -> None:
        F.embedding(ROWS, weight, scale_grad_by_freq=True).sum().backward()

    assert report_of(scaled).by_operator()["aten.embedding_dense_backward"].arith == 2 * 4 * 8


def test_gradients_of_look_ups_are_added_where_they_came_from() -> None:
    x = TABLE.clone().requires_grad_()
    indexed = report_of(lambda: x[ROWS].sum().backward())
    assert indexed.by_operator()["aten.index_put"].arith == 4 * 8
    masked = report_of(lambda: x[x > 2].sum().backward())
    assert masked.by_operator()["aten.index_put"].arith == 0  # a value for each that it selects
    gathered = report_of(lambda: x.gather(0, INDEX).sum().backward())
    assert gathered.by_operator()["aten.scatter_add"].arith == 4 * 8


def test_overlapping_windows_are_added() -> None:
    x = torch.rand(10, requires_grad=True)
    unfolded = report_of(lambda: x.unfold(0, 3, 1).sum().backward())
    assert unfolded.by_operator()["aten.unfold_backward"].arith == 8 * 3  # windows · length
    columns = torch.rand(1, 4 * 9, 16)
    folded = only(lambda: F.fold(columns, (6, 6), (3, 3)))
    assert folded.arith == 4 * 9 * 16


@pytest.mark.parametrize(
    ("options", "forward", "backward"),
    [
        # two bags of two rows, 8 long: one addition less than rows in each bag
        pytest.param({"mode": "sum"}, 2 * 8, 4 * 8, id="sums"),
        pytest.param({"mode": "mean"}, 2 * 8 + 2 * 8, 2 * 8 + 4 * 8, id="means divide each bag"),
        pytest.param({"mode": "max"}, 2 * 8, 2 * 8, id="maxima: one row of each takes it all"),
        pytest.param(
            {"mode": "sum", "per_sample_weights": torch.rand(4)},
            4 * 8 + 2 * 8,
            4 * 8 + 4 * 8,
            id="weighted sums",
        ),
    ],
)
def test_bags_of_rows(options: dict[str, Any], forward: int, backward: int) -> None:
    weight = TABLE.clone().requires_grad_()
    offsets = torch.tensor([0, 2])
    report = report_of(lambda: F.embedding_bag(ROWS, weight, offsets, **options).sum().backward())
    costs = report.by_operator()
    assert costs["aten._embedding_bag"].flops == forward
    assert costs["aten._embedding_bag_backward"].flops == backward
    assert costs["aten._embedding_bag"].read < 3200  # rows, not the table


@pytest.mark.parametrize(
    ("by_frequency", "mode", "weights", "flops"),
    [
        # four rows of two bags, 8 long, of which each is added
        pytest.param(False, 0, None, 4 * 8, id="sums"),
        pytest.param(True, 0, None, 4 * 8 + 4 * 8, id="sums divided by how often a row occurs"),
        pytest.param(False, 1, None, 2 * 8 + 4 * 8, id="means divide each bag"),
        pytest.param(False, 2, None, 2 * 8, id="maxima: one row of each takes it all"),
        pytest.param(False, 0, torch.rand(4), 4 * 8 + 4 * 8, id="weighted sums"),
    ],
)
def test_dense_gradients_of_bags(by_frequency: bool, mode: int, weights: Any, flops: int) -> None:
    bags, rows = torch.ones(2, 8), len(TABLE)
    offsets = torch.tensor([0, 0, 1, 1]), torch.tensor([2, 2]), torch.zeros(2, 8).long()
    op = torch.ops.aten._embedding_bag_dense_backward.default
    arguments = (bags, ROWS, *offsets, rows, by_frequency, mode, weights)
    assert billed(op, *arguments, out=TABLE) == Cost(arith=flops)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("options", "flops"),
    [
        # 12 rows of 4 bags, 16 long
        pytest.param({"mode": "sum"}, 0, id="sums"),
        pytest.param({"mode": "mean"}, 4 * 16, id="means divide each bag"),
        pytest.param(
            {"mode": "sum", "per_sample_weights": torch.rand(12)}, 12 * 16, id="weighted sums"
        ),
    ],
)
def test_sparse_gradients_of_bags_add_nothing(
    options: dict[str, Any], flops: int, device: str
) -> None:
    options = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in options.items()}
    table = torch.rand(100, 16, device=device, requires_grad=True)
    rows, offsets = torch.arange(12, device=device), torch.tensor([0, 3, 6, 9], device=device)
    bags = F.embedding_bag(rows, table, offsets, sparse=True, **options)
    report = report_of(lambda: bags.backward(torch.ones_like(bags)))
    cost = report.by_operator()["aten._embedding_bag_backward"]
    assert (cost.flops, cost.written) == (flops, 12 * (16 * 4 + 8))  # the rows, and which they are
    assert report.root.gradients["weight"].flops == flops


def test_the_gradient_of_a_bags_weights_is_a_dot_product_each() -> None:
    weights = torch.rand(4, requires_grad=True)
    report = report_of(
        lambda: (
            F.embedding_bag(
                ROWS, TABLE, torch.tensor([0, 2]), mode="sum", per_sample_weights=weights
            )
            .sum()
            .backward()
        )
    )
    cost = report.by_operator()["aten._embedding_bag_per_sample_weights_backward"]
    assert (cost.macs, cost.dots) == (4 * 8, 4)


def test_rows_of_a_table_that_are_scaled_to_a_norm() -> None:
    table = torch.rand(100, 8)
    cost = only(lambda: aten.embedding_renorm_(table, ROWS, 1.0, 2.0))
    # of four rows: 8 squares, 7 additions, a root; a sum and a division; 8 products
    assert cost.arith == 4 * (8 + 7 + 1 + 2 + 8)
    assert cost.compare == 4 * 2  # is the norm above the limit? the factor, or 1
    assert (cost.read, cost.written) == (4 * 32 + 32, 4 * 32)
