"""Graphs that are called by higher-order ops of other graphs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn, ops
from torch.export import Dim, export
from torch.fx.experimental.proxy_tensor import make_fx

import flopcount
from flopcount import Cost, UncountedOpWarning, count_graph
from tests.graph.graphs import U, macs, rows


def test_a_region_without_gradients_and_one_with_autocast_run_once() -> None:
    class Layer(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                y = torch.mm(x, self.weight) * 2
            return y + 1

    class Regions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Layer(8, 8, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            y = self.layer(x)
            with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
                return self.layer(y) + x

    model, x = Regions(), torch.ones(4, 8)
    report = count_graph(export(model, (x,)))
    assert rows(report) == rows(flopcount.count(model, x, backward=False))
    assert {dtype: cost.macs for dtype, cost in report.by_dtype().items()} == {
        "float32": U,
        "bfloat16": U,
    }
    assert report["layer"].calls == 2  # though each is in and out of a region


def test_a_product_is_folded_where_it_needs_a_gradient() -> None:
    """As eagerly: a weight is not repeated along a batch if its gradient is wanted."""

    class Products(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(8, 8))

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            folded = x.transpose(0, 1) @ (self.weight * 2)
            with torch.no_grad():
                return folded, x.transpose(0, 1) @ (self.weight * 2)

    model, x = Products(), torch.ones(3, 4, 8)
    report = count_graph(export(model, (x,)))
    assert rows(report) == rows(flopcount.count(model, x, backward=False))
    products = {op: cost.macs for op, cost in report.by_operator().items() if cost.macs}
    assert products == {"aten.mm": 3 * U, "aten.bmm": 3 * U}


def test_map_runs_its_body_for_each_slice_and_scan_too() -> None:
    from torch._higher_order_ops.map import map as map_slices
    from torch._higher_order_ops.scan import scan

    class Loops(nn.Module):
        def forward(self, x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
            mapped = map_slices(lambda row: row @ w, x)
            carry, sums = scan(lambda a, b: (a + b, a * b), x[0].clone(), x)
            return mapped, carry, sums

    report = count_graph(export(Loops(), (torch.ones(5, 4, 8), torch.ones(8, 8))))
    assert report.total.macs == 5 * U
    assert report.total.arith == 5 * (4 * 8 + 4 * 8)  # a sum and a product for each slice
    calls = {row.op: row.calls for row in report.entries}
    assert (calls["aten.mm"], calls["aten.add"], calls["aten.mul"]) == (5, 5, 5)


def test_a_loop_over_a_symbolic_number_of_slices_needs_its_size() -> None:
    from torch._higher_order_ops.map import map as map_slices

    class Loop(nn.Module):
        def forward(self, x: Tensor, w: Tensor) -> Tensor:
            return map_slices(lambda row: row @ w, x)

    shapes = ({0: Dim("slices", min=2)}, None)
    program = export(Loop(), (torch.ones(5, 4, 8), torch.ones(8, 8)), dynamic_shapes=shapes)
    with pytest.raises(ValueError, match=r"slices is dimension 0 of input x$"):
        count_graph(program)
    assert count_graph(program, sizes={"slices": 7}).total.macs == 7 * U


@pytest.mark.parametrize(
    ("name", "before"),
    [("invoke_subgraph", ("an id",)), ("wrap", ()), ("tag_activation_checkpoint", ())],
)
def test_a_part_of_the_program_costs_what_it_costs_in_place(
    name: str, before: tuple[str, ...]
) -> None:
    """The part is called on x twice, so that a product of its inputs reads x once."""
    part = make_fx(lambda x, y: torch.sin(x @ y))(torch.ones(8, 8), torch.ones(8, 8))
    for node in part.graph.nodes:
        node.meta["nn_module_stack"] = {"inner": ("L['m'].inner", nn.Linear)}
    graph = fx.Graph()
    x = graph.placeholder("x")
    body = graph.get_attr("part")
    call = getattr(ops.higher_order, name)
    calls = [graph.call_function(call, (body, *before, x, x)) for _ in range(2)]
    graph.output(calls)
    for node in (x, *calls):
        node.meta["val"] = torch.ones(8, 8)
    for node in calls:
        node.meta["nn_module_stack"] = {"model": ("L['m']", nn.Sequential)}
    report = count_graph(fx.GraphModule({"part": part}, graph))
    assert macs(report) == {"": {"forward": 2 * 512}, "inner": {"forward": 2 * 512}}
    assert report["inner"].calls == 2
    assert report.by_operator()["aten.mm"].read == 2 * 256


def test_a_part_of_backward_that_repeats_forward_ops_recomputes_them() -> None:
    part = make_fx(lambda x: torch.cos(x @ x))(torch.ones(8, 8))
    tags = {ops.aten.mm.default: "is_forward", ops.aten.cos.default: "is_backward"}
    for node in part.graph.nodes:
        node.meta["partitioner_tag"] = tags.get(node.target, "is_forward")
    graph = fx.Graph()
    x, body = graph.placeholder("x"), graph.get_attr("part")
    call = graph.call_function(ops.higher_order.invoke_subgraph, (body, "an id", x))
    graph.output(call)
    x.meta["val"] = call.meta["val"] = torch.ones(8, 8)
    call.meta["partitioner_tag"] = "is_backward"
    phases = count_graph(fx.GraphModule({"part": part}, graph)).phases
    assert (phases["recompute"].macs, phases["backward"].special) == (512, 64)
    assert not phases["forward"]


def test_flexible_attention_opens_as_it_does_eagerly() -> None:
    from torch.nn.attention.flex_attention import flex_attention

    class Attention(nn.Module):
        def forward(self, q: Tensor) -> Tensor:
            return flex_attention(q, q, q, score_mod=lambda score, b, h, i, j: score + (i - j))

    q = torch.ones(1, 2, 128, 16)
    report = count_graph(export(Attention(), (q,)).run_decompositions())
    eager = flopcount.count(Attention(), q, backward=False)
    assert report.total.macs == 2 * (2 * 128 * 128 * 16)  # scores, and what they weigh
    assert report.total.flops == eager.total.flops


def test_which_branch_runs_is_unknown() -> None:
    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cond(x.sum() > 0, lambda x: x @ x, lambda x: x + 1, (x,))

    program = export(Branches(), (torch.ones(8, 8),))
    with pytest.warns(UncountedOpWarning, match="cond is uncounted: which of its graphs runs"):
        report = count_graph(program)
    assert report.uncounted == {"cond": 1}
    assert report.total.flops == 63 + 1  # the sum and the comparison


def test_how_often_a_loop_runs_is_unknown() -> None:
    from torch._higher_order_ops.while_loop import while_loop

    class Loop(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return while_loop(lambda x: x.sum() < 9, lambda x: (x * 2,), (x,))

    program = export(Loop(), (torch.ones(4),))
    with pytest.warns(UncountedOpWarning, match="how often it runs depends on values"):
        assert count_graph(program).uncounted == {"while_loop": 1}


def test_an_op_that_was_made_functional_is_counted_itself() -> None:
    @torch.library.custom_op("graphs::bump", mutates_args=("x",))
    def bump(x: Tensor, y: Tensor) -> None:
        x.add_(y)

    @flopcount.formula(bump)
    def bump_cost(x: Tensor, y: Tensor, *, out: None) -> Cost:
        return Cost(arith=x.numel())

    class Bump(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            x = x * 1
            bump(x, y)
            return x

    program = export(Bump(), (torch.ones(4, 8), torch.ones(4, 8)))
    decomposed = program.run_decompositions()
    assert any("auto_functionalized" in node.name for node in decomposed.graph.nodes)
    report = count_graph(decomposed)
    assert rows(report) == rows(count_graph(program))
    assert report.by_operator()["graphs.bump"] == Cost(arith=32, read=256, written=128)
