"""Nested tensors: what a program costs on them is what it costs on their components, one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from flopcount import Cost, FlopCounter, Gradients, UncountedOpWarning, formula
from flopcount.formulas import plan_of
from flopcount.formulas.plan import UNKNOWN
from tests.formulas.decomposed import plain
from tests.formulas.reports import report_of

aten = torch.ops.aten
pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")

Program = Callable[[Any], Any]

LENGTHS = 3, 5, 2, 3  # two are alike


def components(*row: int) -> list[Tensor]:
    """Tensors of several lengths, whose rows have this shape."""
    torch.manual_seed(0)
    return [torch.rand(length, *row, requires_grad=True) for length in LENGTHS]


def nested(parts: list[Tensor], layout: torch.layout = torch.strided) -> Any:
    leaf = torch.nested.nested_tensor([part.detach() for part in parts], layout=layout)
    return leaf.requires_grad_()


# -- with the loop over components


class Step:
    """Forward and backward of a program, with the weights that it has."""

    def __init__(self, program: Program, *, weights: nn.Module | None = None) -> None:
        self.program = program
        self.weights = weights or nn.Identity()
        self.results: list[Tensor] = []

    def __call__(self, *operands: Any) -> list[Tensor]:
        """Results, and gradients of operands and weights."""
        torch.manual_seed(0)
        self.weights.zero_grad()
        results = [self.program(operand) for operand in operands]
        for result in results:
            result.backward(torch.ones_like(result))
        gradients = [operand.grad for operand in operands]
        found = [*results, *gradients, *(weight.grad for weight in self.weights.parameters())]
        return [
            part.clone()
            for tensor in found
            for part in (tensor.unbind() if tensor.is_nested else [tensor])
        ]


LINEAR, NORM, NORM_OF_TWO = nn.Linear(4, 6), nn.LayerNorm(4), nn.LayerNorm([2, 4])


def attention(x: Any) -> Any:
    """Of two heads of length 4, by the kernel that torch has for nested tensors on a CPU."""
    with sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(x, x, x)


ON_BOTH = [
    pytest.param(Step(torch.sin), id="sine"),
    pytest.param(Step(lambda x: x * x + 2 * x), id="sums and products"),
    pytest.param(Step(lambda x: -x / 3), id="a quotient"),
    pytest.param(Step(F.gelu), id="GELU"),
    pytest.param(Step(F.silu), id="SiLU"),
    pytest.param(Step(F.relu), id="ReLU"),
    pytest.param(Step(lambda x: torch.native_dropout(x, 0.5, True)[0]), id="dropout"),
    pytest.param(Step(lambda x: x.masked_fill(x > 0.5, 0.0)), id="filled by a mask"),
    pytest.param(Step(lambda x: F.softmax(x, -1)), id="softmax along rows"),
    pytest.param(Step(LINEAR, weights=LINEAR), id="linear layer"),
    pytest.param(Step(NORM, weights=NORM), id="layer norm"),
    pytest.param(Step(lambda x: torch.clone(x.detach() + x)), id="copies"),
]
"""Programs that both layouts run without padding."""

ON_STRIDED = [
    pytest.param(Step(lambda x: F.softmax(x, 1)), id="softmax along the ragged dimension"),
    pytest.param(Step(lambda x: x.sum(-1, keepdim=True)), id="sum of rows"),
    pytest.param(Step(lambda x: x @ x.transpose(1, 2)), id="product"),
    pytest.param(Step(lambda x: torch.bmm(x.transpose(1, 2), x)), id="product of batches"),
    pytest.param(Step(lambda x: x.transpose(1, 2).contiguous().sin()), id="transposed"),
]


def test_the_loop_computes_the_same() -> None:
    parts = components(4)
    together = Step(LINEAR, weights=LINEAR)(nested(parts))
    one_by_one = Step(LINEAR, weights=LINEAR)(
        *(part.detach()[None].requires_grad_() for part in parts)
    )
    for ours, theirs in zip(together, one_by_one, strict=True):
        assert torch.allclose(ours, theirs.view_as(ours), atol=1e-6)


def compared(step: Step, parts: list[Tensor], layout: torch.layout) -> None:
    """Assert that a step on nested tensors gives what it does alone, and costs what a loop does."""
    expected = step(nested(parts, layout))
    operand = nested(parts, layout)
    found: list[Tensor] = []
    whole = report_of(lambda: found.extend(step(operand))).total
    assert len(found) == len(expected)
    for ours, alone in zip(found, expected, strict=True):
        assert torch.equal(ours, alone)
    batches = [part.detach()[None].requires_grad_() for part in parts]
    loop = report_of(lambda: step(*batches)).total
    assert whole.macs == loop.macs
    assert (whole.compare, whole.special) == (loop.compare, loop.special)
    # a weight's gradient has fewer and longer dot products; the loop adds up those of components
    assert whole.exact_flops == loop.exact_flops
    assert whole.flops > 0


@pytest.mark.parametrize("step", [*ON_BOTH, *ON_STRIDED])
def test_a_step_on_strided_nested_tensors_costs_what_it_does_one_by_one(step: Step) -> None:
    compared(step, components(4), torch.strided)


@pytest.mark.parametrize("step", ON_BOTH)
def test_a_step_on_jagged_tensors_costs_what_it_does_one_by_one(step: Step) -> None:
    compared(step, components(4), torch.jagged)


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(Step(NORM_OF_TWO, weights=NORM_OF_TWO), id="layer norm of two dimensions"),
        pytest.param(Step(lambda x: x.reshape(x.size(0), -1, 8).sin()), id="reshaped"),
        pytest.param(Step(lambda x: x.transpose(-1, -2) @ x), id="product of heads"),
    ],
)
def test_a_step_on_components_of_more_dimensions_costs_what_it_does_one_by_one(step: Step) -> None:
    compared(step, components(2, 4), torch.strided)


def test_attention_costs_what_it_does_one_by_one() -> None:
    heads_first = [part.transpose(0, 1).contiguous() for part in components(2, 4)]
    compared(Step(attention), heads_first, torch.strided)


def test_jagged_attention_costs_what_it_does_one_by_one() -> None:
    step = Step(lambda x: attention(x.transpose(1, 2)).transpose(1, 2))
    compared(step, components(2, 4), torch.jagged)


def test_a_jagged_block_of_layers_costs_what_it_does_one_by_one() -> None:
    into, norm, out = nn.Linear(4, 24), nn.LayerNorm(4), nn.Linear(8, 4)

    def block(x: Any) -> Any:
        queries, keys, values = (
            each.contiguous().unflatten(-1, [2, 4]).transpose(1, 2)
            for each in into(norm(x)).chunk(3, dim=-1)
        )
        with sdpa_kernel(SDPBackend.MATH):
            seen = F.scaled_dot_product_attention(queries, keys, values)
        return x + out(seen.transpose(1, 2).flatten(-2))

    compared(Step(block, weights=nn.ModuleList([into, norm, out])), components(4), torch.jagged)


# -- by hand


def two(*row: int, layout: torch.layout = torch.strided) -> Any:
    """Components of two and three rows."""
    return torch.nested.nested_tensor([torch.rand(2, *row), torch.rand(3, *row)], layout=layout)


def test_a_linear_layer_reads_its_weight_once() -> None:
    layer, x = nn.Linear(4, 6), two(4).requires_grad_()
    with FlopCounter(layer) as counter:
        y = layer(x)
        y.backward(torch.ones_like(y))
    report = counter.report()
    rows = {row["op"]: row for row in report.rows()}
    forward, back = rows["aten.linear"], rows["aten.linear_backward"]
    assert (forward["macs"], forward["dots"], forward["arith"]) == (5 * 4 * 6, 5 * 6, 5 * 6)
    assert forward["read"] == 4 * (5 * 4 + 6 * 4 + 6)
    assert forward["written"] == 4 * 5 * 6
    assert back["macs"] == 2 * 5 * 4 * 6
    assert back["dots"] == 5 * 4 + 6 * 4  # dx; dw in dot products over all five rows
    assert back["arith"] == 6 * (5 - 1)
    assert back["read"] == 4 * (5 * 4 + 5 * 6 + 6 * 4)
    assert back["written"] == 4 * (5 * 4 + 6 * 4 + 6)
    gradients = report[""].gradients
    assert gradients["input"].macs == gradients["weight"].macs == 5 * 4 * 6


def test_a_product_is_as_large_as_each_component() -> None:
    x = two(4).requires_grad_()
    forward = report_of(lambda: x @ x.transpose(1, 2)).total
    pairs = 2 * 2 + 3 * 3
    assert (forward.macs, forward.dots) == (pairs * 4, pairs)
    assert (forward.read, forward.written) == (2 * 4 * 5 * 4, 4 * pairs)
    y = x @ x.transpose(1, 2)
    report = report_of(lambda: y.backward(torch.ones_like(y)))
    back = report.by_operator()["aten.matmul_backward"]
    assert back.macs == 2 * pairs * 4
    assert back.dots == 2 * 5 * 4  # those of length 2 and of length 3
    assert report.root.gradients["input"].macs == back.macs


@pytest.mark.parametrize("wanted", [(True, False), (False, True)])
def test_one_gradient_of_a_product_alone(wanted: tuple[bool, bool]) -> None:
    x = two(4)
    y = torch.nested.nested_tensor([torch.rand(4, 7), torch.rand(4, 1)])
    grad = x @ y  # (2, 4) @ (4, 7) and (3, 4) @ (4, 1)
    cost = report_of(lambda: aten.matmul_backward(grad, x, y, wanted)).total
    assert cost.macs == 2 * 4 * 7 + 3 * 4 * 1
    assert cost.dots == (2 * 4 + 3 * 4 if wanted[0] else 4 * 7 + 4 * 1)


@pytest.mark.parametrize("dimension", [1, 2])
def test_a_softmax_has_as_many_rows_as_are_there(dimension: int) -> None:
    x = two(4)
    cost = report_of(lambda: torch.softmax(x, dimension)).total
    elements, rows = 5 * 4, 5 if dimension == 2 else 2 * 4
    # a maximum and a sum of each row; differences, exponentials, quotients
    assert (cost.compare, cost.special) == (elements - rows, elements)
    assert cost.arith == 2 * elements + (elements - rows)
    assert (cost.read, cost.written) == (80, 80)


def test_a_softmax_of_padded_scores_leaves_out_the_padding() -> None:
    scores = torch.rand(2, 6, 3, 3)  # of six heads
    cost = report_of(lambda: torch._nested_tensor_softmax_with_shape(scores, two(4))).total
    elements, rows = 6 * (2 * 2 + 3 * 3), 6 * 5
    assert (cost.compare, cost.special) == (elements - rows, elements)
    assert cost.arith == 2 * elements + (elements - rows)


@pytest.mark.parametrize(
    ("dtype", "each"),
    [
        pytest.param(torch.float32, 1, id="real"),
        pytest.param(torch.complex64, 6, id="complex: 4 products, 2 sums"),
        pytest.param(torch.int64, 0, id="integers"),
    ],
)
def test_arithmetic_in_place(dtype: torch.dtype, each: int) -> None:
    x = two(4).to(dtype)
    cost = report_of(lambda: x.mul_(x)).total
    assert cost.flops == 5 * 4 * each
    assert cost.read == cost.written == 5 * 4 * dtype.itemsize


def test_a_table_is_read_as_far_as_components_look() -> None:
    table = nn.Embedding(7, 4)
    indices = torch.nested.nested_tensor([torch.arange(2), torch.arange(3)])
    cost = report_of(lambda: table(indices)).total
    assert (cost.flops, cost.read, cost.written) == (0, 8 * 5 + 4 * 5 * 4, 4 * 5 * 4)


@pytest.mark.parametrize(
    ("components", "flops"),
    [
        pytest.param([], 0, id="none"),
        pytest.param([torch.rand(0, 4), torch.rand(2, 4)], 8, id="one without elements"),
        pytest.param([torch.rand(()), torch.rand(())], 2, id="scalars"),
    ],
)
def test_components_that_are_hardly_there(components: list[Tensor], flops: int) -> None:
    x = torch.nested.nested_tensor(components)
    assert report_of(lambda: torch.sin(x)).total.flops == flops


def test_components_of_another_shape_are_another_call() -> None:
    with FlopCounter(strict=True) as counter:
        for lengths in ([2, 3], [1, 4], [2, 2]):
            x = torch.nested.nested_tensor([torch.rand(length, 4) for length in lengths])
            x @ x.transpose(1, 2)
    assert counter.report().total.macs == 4 * ((4 + 9) + (1 + 16) + (4 + 4))


def test_a_part_of_each_component_is_a_view() -> None:
    x = torch.nested.nested_tensor([torch.rand(2, 4), torch.rand(3, 4)])
    with FlopCounter(strict=True) as counter:
        parts = x.chunk(2, -1)
    assert [tuple(part.shape) for part in parts[1].unbind()] == [(2, 2), (3, 2)]
    assert not counter.report().total


def test_every_op_that_torch_has_a_kernel_for_is_decided() -> None:
    undecided = set()
    for name in torch._C._dispatch_get_registrations_for_dispatch_key("NestedTensorCPU"):
        packet, _, overload = name.removeprefix("aten::").partition(".")
        decided = plan_of(getattr(getattr(aten, packet), overload or "default"))
        if decided.decision in UNKNOWN and not decided.nested:
            undecided.add(packet)
    # the former is for torch's own tests, and nothing but jagged tensors reaches the latter
    tested, jagged = "_test_autograd_multiple_dispatch", "value_selecting_reduction_backward"
    assert undecided == {tested, jagged}


# -- composite ops


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(lambda x: F.layer_norm(x, [8], torch.ones(8), torch.ones(8)), id="layer norm"),
        pytest.param(lambda x: F.softmax(x, -1), id="softmax"),
        pytest.param(lambda x: F.linear(x, torch.ones(3, 8)), id="linear"),
        pytest.param(lambda x: x @ x.transpose(1, 2), id="product"),
        pytest.param(lambda x: F.dropout(x, 0.5), id="dropout"),
    ],
)
def test_composite_ops_cost_the_same_where_torch_leaves_them_whole(program: Program) -> None:
    x = two(8)
    with torch.inference_mode():
        whole = report_of(lambda: program(x))
    with torch.no_grad():
        opened = report_of(lambda: program(x))
    assert whole.total == opened.total
    assert whole.total.flops > 0


def test_a_kernel_without_a_formula_is_uncounted_and_says_why() -> None:
    x = two(4)
    with FlopCounter() as counter, torch.no_grad():
        aten._test_autograd_multiple_dispatch.ntonly(x, True)
    with pytest.warns(UncountedOpWarning, match="its kernel for nested tensors has no formula"):
        assert counter.report().uncounted == {"aten._test_autograd_multiple_dispatch": 1}


# -- formulas of a program's own


def test_a_formula_is_asked_for_each_component_unless_there_is_one_for_nested_tensors() -> None:
    library = torch.library.Library("nested_tests", "DEF")
    library.define("cubes(Tensor x) -> Tensor")
    library.define("squares(Tensor x) -> Tensor")

    @formula("nested_tests::cubes", "nested_tests::squares")
    def cubes(x: Tensor, *, out: Tensor) -> Gradients:
        return Gradients(input=Cost(arith=x.shape[1] ** 3))

    assert plan_of(torch.ops.nested_tests.squares.default).nested is None

    @formula("nested_tests::squares", nested=True)
    def squares(x: Tensor, *, out: Tensor) -> Cost:
        return Cost(arith=100 * x.size(0))

    x = torch.nested.nested_tensor([torch.rand(length, 4) for length in LENGTHS])
    ops = torch.ops.nested_tests
    bill = plan_of(ops.cubes.default).bill([x], {}, x)
    assert bill.cost == Cost(arith=27 + 125 + 8 + 27, read=13 * 16, written=13 * 16)
    assert plain(bill.gradients["input"]) == plain(bill.cost)
    assert plan_of(ops.squares.default).bill([x], {}, x).cost.arith == 400
    assert plan_of(ops.squares.default).bill([torch.rand(1, 2)], {}, x[0]).cost.arith == 8


# -- what only moves

ROWS = torch.rand(5, 2)  # 40 bytes: rows of two and three elements
PADDED = torch.rand(2, 3, 2)  # 48 bytes
OFFSETS = torch.tensor([0, 2, 5])  # 24 bytes
MASK = torch.tensor([[True, True, False], [True, True, True]])  # 6 bytes


@pytest.mark.parametrize(
    ("call", "read", "written"),
    [
        pytest.param(
            lambda: aten._jagged_to_padded_dense_forward(ROWS, [OFFSETS], [3]),
            40 + 24,
            48,
            id="padded",
        ),
        pytest.param(
            lambda: aten._padded_dense_to_jagged_forward(PADDED, [OFFSETS], 5),
            40 + 24,
            40,
            id="unpadded: the padding is not read",
        ),
        pytest.param(
            lambda: torch._nested_tensor_from_mask(PADDED, MASK), 48 + 6, 40, id="by a mask"
        ),
        pytest.param(
            lambda: torch.nested.to_padded_tensor(two(2), 0.0), 40, 48, id="padded by its layout"
        ),
    ],
)
def test_padding_is_no_arithmetic(call: Callable[[], Any], read: int, written: int) -> None:
    report = report_of(call)
    row = max(report.rows(), key=lambda row: (row["read"], row["written"]))
    assert report.total.flops == 0
    assert (row["read"], row["written"]) == (read, written)


def test_how_much_a_mask_leaves_depends_on_its_values() -> None:
    full, empty = torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, 3, dtype=torch.bool)
    written = [
        report_of(lambda mask=mask: torch._nested_tensor_from_mask(PADDED, mask)).total.written
        for mask in (full, MASK, empty, full)
    ]
    assert written == [48, 40, 0, 48]


def test_account_of_lengths_is_free() -> None:
    x = two(2)

    def asked() -> None:
        x._nested_tensor_size()
        x._nested_tensor_strides()
        x._nested_tensor_storage_offsets()

    assert report_of(asked).total == Cost()
