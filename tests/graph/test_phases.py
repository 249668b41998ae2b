"""Phases of traced steps, with and without tags, and of functions with a backward of their own.

``U`` are the products of a layer: forward is one U, backward two, for its input and its weight.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._functorch.partitioners import default_partition, min_cut_rematerialization_partition
from torch.func import grad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

import flopcount
from flopcount import Report, count_graph
from tests.graph.graphs import Partition, U, compiled, macs
from tests.invariants import check
from tests.models import Product

aten = torch.ops.aten

PARTITIONS = pytest.mark.parametrize(
    "partition",
    [default_partition, min_cut_rematerialization_partition],
    ids=["the default partition", "a min-cut"],
)


class Saved(Product):
    """A third product in backward, which no gradient is part of."""

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        a, w = ctx.saved_tensors
        return g @ w.t() + a @ w.t(), a.t() @ g


class Two(torch.autograd.Function):
    """Two results, each a product; two products for each gradient."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(a, w)
        return a @ w, a @ w.t()

    @staticmethod
    def backward(ctx: Any, g: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        a, w = ctx.saved_tensors
        return g @ w.t() + h @ w, a.t() @ g + h.t() @ a


class Early(torch.autograd.Function):
    """A loss that has its gradients before backward, as fused losses do: three products."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, w: Tensor) -> Tensor:
        z = a @ w
        ctx.save_for_backward(z.sin() @ w.t(), a.t() @ z.sin())
        return z.cos().sum()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        return ctx.saved_tensors


class Layer(nn.Module):
    """Applies a function to what it gets and a weight, and adds up the results."""

    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.randn(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        results = self.function.apply(x, self.weight)
        return results if isinstance(results, Tensor) else results[0] + results[1]


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sin()


class Checkpointed(nn.Sequential):
    def __init__(self, *layers: nn.Module, **how: Any) -> None:
        super().__init__(*layers)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(super().forward, x, use_reentrant=False, **self.how)


def linear() -> nn.Module:
    return nn.Linear(8, 8, bias=False)


def layer_input() -> Tensor:
    return torch.randn(4, 8, requires_grad=True)


def products(report: Report) -> list[tuple[str, ...]]:
    """Rows with products, by paths that do not begin with the root's name."""
    return sorted(
        (row.module.partition(".")[2], row.phase, row.op, str(row.calls), str(row.cost.macs))
        for row in report.entries
        if row.cost.macs
    )


def units(*reports: Report) -> list[dict[str, float]]:
    """Products in each phase that has any."""
    return [
        {phase: cost.macs / U for phase, cost in report.phases.items() if cost.macs}
        for report in reports
    ]


class TestSteps:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(8, 8, bias=False)
            self.b = nn.Linear(8, 8, bias=False)

        def inner(self, x: Tensor) -> Tensor:
            return self.b(torch.sin(self.a(x)))

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.inner, x, use_reentrant=False).sum()

    def test_what_a_checkpoint_recomputes_is_told_from_backward(self) -> None:
        """As eagerly: a runs again, since b's gradient needs its sine; b does not."""
        model, x = self.Checkpointed(), torch.randn(4, 8, requires_grad=True)
        partition = min_cut_rematerialization_partition
        graphs = compiled(model, x, partition=partition)
        report = count_graph(graphs["forward"], graphs["backward"])
        check(report, plain=True)
        assert macs(report) == {
            "": {"forward": 2 * U, "backward": 4 * U, "recompute": U},
            "a": {"forward": U, "backward": 2 * U, "recompute": U},
            "b": {"forward": U, "backward": 2 * U},
        }
        assert report.phases["recompute"].special == 4 * 8  # the sine, again
        assert macs(report) == macs(flopcount.count(model, x))
        assert "recompute" not in macs(count_graph(graphs["joint"]))[""]

    def test_a_compiled_checkpoint_recomputes_its_result_where_what_follows_needs_it(self) -> None:
        """Eagerly the sine saves its input: it is outside of the checkpoint."""
        layer, x = nn.Linear(8, 8), torch.randn(4, 8)

        def step(x: Tensor) -> Tensor:
            return checkpoint(layer, x, use_reentrant=False).sin()

        graphs = compiled(step, x)
        report = count_graph(graphs["forward"], graphs["backward"])
        assert report.phases["recompute"].macs == U
        assert "recompute" not in macs(flopcount.count(step, x))[""]

    @pytest.mark.parametrize(
        ("partition", "recomputed"),
        [(default_partition, 0), (min_cut_rematerialization_partition, 2)],
        ids=["the default partition saves them", "a min-cut computes them again"],
    )
    def test_cosines_between_a_sine_and_its_gradient(
        self, partition: Partition, recomputed: int
    ) -> None:
        """Backward needs x, cos x and cos cos x: a min-cut keeps x alone."""
        x = torch.randn(100, requires_grad=True)
        graphs = compiled(lambda x: x.cos().cos().cos(), x, partition=partition)
        phases = count_graph(graphs["forward"], graphs["backward"]).phases
        assert phases["forward"].special == 300
        assert phases["backward"].special == 300  # the sine of each
        assert phases["recompute"].special == recomputed * 100

    def test_a_joint_graph_of_a_function_has_both(self) -> None:
        from torch._functorch.aot_autograd import aot_export_joint_simple

        x, w = torch.randn(4, 8), torch.randn(8, 8, requires_grad=True)
        joint = aot_export_joint_simple(lambda x, w: (torch.relu(x @ w),), [x, w], trace_joint=True)
        report = count_graph(joint)
        assert macs(report) == {"": {"forward": U, "backward": U}}
        assert {phase: cost.compare for phase, cost in report.phases.items() if cost.compare} == {
            "forward": 4 * 8,
            "backward": 4 * 8,
        }

    def test_without_tags_backward_begins_where_autograd_does(self) -> None:
        """``aot_export_module`` traces its joint graph twice, and loses the tags."""
        from torch._functorch.aot_autograd import aot_export_module

        class Loss(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b = (nn.Linear(8, 8, bias=False) for _ in range(2))

            def forward(self, x: Tensor) -> tuple[Tensor]:
                return (self.b(self.a(x).sin()).sum(),)

        joint, _ = aot_export_module(
            Loss(), [torch.ones(4, 8)], trace_joint=True, output_loss_index=0
        )
        # the gradients of both weights, and of the sine between
        assert macs(count_graph(joint)) == {"": {"forward": 2 * U, "backward": 3 * U}}

    def test_where_there_are_tags_a_one_begins_no_backward(self) -> None:
        x, w = torch.randn(4, 8), torch.randn(8, 8, requires_grad=True)
        graphs = compiled(lambda x, w: (x * torch.ones_like(x.sum())) @ w, x, w)
        assert macs(count_graph(graphs["forward"])) == {"": {"forward": U}}

    def test_a_mask_of_ones_begins_no_backward(self) -> None:
        graph = make_fx(lambda x: torch.tril(torch.ones_like(x)) @ x)(torch.ones(8, 8))
        assert macs(count_graph(graph)) == {"": {"forward": 8 * 8 * 8}}


class TestFunctions:
    @PARTITIONS
    @pytest.mark.parametrize(
        ("function", "forward", "backward"), [(Product, 1, 2), (Saved, 1, 3), (Two, 2, 4)]
    )
    @pytest.mark.parametrize(
        ("before", "after"),
        [(0, 0), (0, 1), (1, 1), (1, 0)],
        ids=["alone", "first", "in the middle", "last"],
    )
    def test_a_function_has_the_rows_of_the_eager_step(
        self,
        partition: Partition,
        function: type[torch.autograd.Function],
        forward: int,
        backward: int,
        before: int,
        after: int,
    ) -> None:
        layers = [linear()] * before + [Layer(function)] + [linear()] * after
        model = nn.Sequential(*layers, Sine())
        graphs = compiled(model, layer_input(), partition=partition)
        joint = count_graph(graphs["joint"])
        parts = count_graph(graphs["forward"], graphs["backward"])
        linears = before + after
        expected = {"forward": forward + linears, "backward": backward + 2 * linears}
        eager = flopcount.count(model, layer_input())
        assert units(joint, parts, eager) == [expected] * 3
        assert products(joint) == products(parts) == products(eager)
        for report in (joint, parts):
            check(report, plain=True)
        # a min-cut has what needs no gradient in whichever part it likes
        early = partition is not default_partition and function is Saved
        if not early:
            alone = units(count_graph(graphs["forward"]), count_graph(graphs["backward"]))
            assert alone == [{phase: count} for phase, count in expected.items()]

    @PARTITIONS
    @pytest.mark.parametrize(("function", "backward"), [(Product, 2), (Saved, 3)])
    @pytest.mark.parametrize("dropout", [False, True], ids=["", "with a random state"])
    def test_a_checkpoint_recomputes_it(
        self,
        partition: Partition,
        function: type[torch.autograd.Function],
        backward: int,
        dropout: bool,
    ) -> None:
        """The sine at the end needs the linear, which needs the sine before, and that the function.
        The function comes first, so that its gradients are what the backward returns."""
        between = [nn.Dropout(0.1)] if dropout else []
        model = Checkpointed(Layer(function), Sine(), *between, linear(), Sine())
        graphs = compiled(model, layer_input(), partition=partition)
        parts = count_graph(graphs["forward"], graphs["backward"])
        expected = {"forward": 2, "backward": backward + 2, "recompute": 2}
        eager = flopcount.count(model, layer_input())
        again = {"backward": backward + 2, "recompute": 2}
        in_backward = sum(node.target is aten.mm.default for node in graphs["backward"].graph.nodes)
        if in_backward == backward + 2 + 1:  # torch 2.11 keeps what a function has made
            again["recompute"] = 1
        else:
            assert products(parts) == products(eager)
        assert units(parts, eager) == [expected | again, expected]
        assert units(count_graph(graphs["joint"]), count_graph(graphs["backward"])) == [
            {"forward": 2, "backward": backward + 2},
            again,
        ]

    @PARTITIONS
    def test_a_selective_checkpoint_recomputes_what_it_does_not_save(
        self, partition: Partition
    ) -> None:
        """Products are saved, so that sines alone run again: both that the backward needs."""

        def policy(ctx: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
            saved = op is torch.ops.aten.mm.default
            return CheckpointPolicy.MUST_SAVE if saved else CheckpointPolicy.PREFER_RECOMPUTE

        layers = Sine(), Layer(Product), Sine(), linear()
        model = Checkpointed(
            *layers, context_fn=lambda: create_selective_checkpoint_contexts(policy)
        )
        graphs = compiled(model, layer_input(), partition=partition)
        parts = count_graph(graphs["forward"], graphs["backward"])
        assert units(parts) == [{"forward": 2, "backward": 4}]
        assert parts.phases["recompute"].special == 2 * 4 * 8

    @PARTITIONS
    def test_a_backward_that_returns_copies_recomputes_them(self, partition: Partition) -> None:
        """The forward makes no gradients, since the checkpoint does not keep them."""
        graphs = compiled(Checkpointed(Layer(Early)), layer_input(), partition=partition)
        copies = [node for node in graphs["backward"].graph.nodes if node.op == "call_function"]
        if not any("autograd_backward" in node.meta for node in copies):
            pytest.skip("this torch does not mark what its partitioners cut out")
        parts = [count_graph(graphs[name]) for name in ("forward", "backward")]
        assert units(count_graph(graphs["joint"]), *parts) == [
            {"forward": 3},
            {"forward": 1},
            {"recompute": 3},
        ]

    def test_a_function_in_the_body_of_a_loop(self) -> None:
        """``map`` keeps nothing: its backward runs the body again, for each of 3 slices."""
        from torch._higher_order_ops.map import map as map_slices

        weight = torch.randn(8, 8, requires_grad=True)

        class Plain(Product):  # bodies may not return views
            @staticmethod
            def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
                a, w = ctx.saved_tensors
                return g @ w.t().contiguous(), a.t().contiguous() @ g

        def step(x: Tensor) -> Tensor:
            return map_slices(lambda row: Plain.apply(row, weight * 1).sin(), x)

        graphs = compiled(step, torch.randn(3, 4, 8, requires_grad=True))
        expected = {"forward": 3, "backward": 6, "recompute": 3}
        parts = count_graph(graphs["forward"], graphs["backward"])
        assert units(count_graph(graphs["joint"]), parts) == [expected] * 2


class TestGradientsOfForward:
    """A function that asks for a gradient itself runs autograd, whatever that is for."""

    def test_it_may_be_differentiated_again(self) -> None:
        """The first gradient has one product. The last product has two for its gradients, as has
        that of the first gradient; as has the forward's, on both ways."""
        weight = torch.randn(8, 8, requires_grad=True)

        def step(x: Tensor) -> Tensor:
            return grad(lambda x: (x @ weight).sin().sum())(x) @ weight

        graphs = compiled(step, layer_input())
        parts = count_graph(graphs["forward"], graphs["backward"])
        eager = flopcount.count(step, layer_input())
        expected = {"forward": 2, "backward": 1 + 6}
        assert units(count_graph(graphs["joint"]), parts, eager) == [expected] * 3
        assert units(count_graph(graphs["forward"])) == [{"forward": 2, "backward": 1}]

    @pytest.mark.parametrize("trains", [True, False])
    def test_what_follows_it_is_forward_again(self, trains: bool) -> None:
        """With and without tags: a graph that needs no gradients has none."""
        from torch._dynamo import config
        from torch._dynamo.backends.common import aot_autograd
        from torch._functorch.aot_autograd import make_boxed_func

        if not hasattr(config, "trace_autograd_ops"):
            pytest.skip("this torch does not trace autograd.grad")
        weight = torch.randn(8, 8, requires_grad=trains)
        graphs: list[Any] = []

        def keep(graph: Any, inputs: Any) -> Any:
            graphs.append(graph)
            return make_boxed_func(graph.forward)

        def step(x: Tensor) -> Tensor:
            x = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad((x @ weight).sin().sum(), x)
            return (gradient @ weight) if trains else (gradient @ weight).detach()

        torch._dynamo.reset()
        with config.patch(trace_autograd_ops=True):
            result = torch.compile(step, backend=aot_autograd(fw_compiler=keep))(torch.randn(4, 8))
        if trains:
            result.sum().backward()
        torch._dynamo.reset()
        # the weight has a gradient from the last product
        assert units(count_graph(*graphs)) == [{"forward": 2, "backward": 1 + trains}]
