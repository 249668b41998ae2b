"""What nodes give, and what ops therefore read and write."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn, ops
from torch.fx.experimental.proxy_tensor import make_fx

from flopcount import FlopCounter, count_graph


class TestOperands:
    """Bytes of 4 × 8 floats: 128."""

    @pytest.mark.parametrize(
        ("function", "read", "written"),
        [
            (lambda x: x * x, 128, 128),
            (lambda x: x * x.expand(3, 4, 8), 2 * 128, 3 * 128),
            (lambda x: x.add_(x), 128, 128),
            (lambda x: torch.add(x, 1, out=torch.empty(4, 8)), 128, 128),
            (lambda x: x.t().exp(), 128, 128),
            (lambda x: x.max(0)[0] * 2, 128 + 32, 2 * 32 + 8 * 8),
        ],
        ids=[
            "a square reads its operand once",
            "an expanded dimension is there once",
            "an op in place returns what it changes",
            "out= is written once",
            "views move nothing",
            "of several results one goes on",
        ],
    )
    def test_bytes(self, function: Callable[[Tensor], Tensor], read: int, written: int) -> None:
        graph = make_fx(function)(torch.ones(4, 8))
        total = count_graph(graph).total
        assert (total.read, total.written) == (read, written)
        x = torch.ones(4, 8)
        with FlopCounter() as counter:
            function(x)
        assert counter.report().total == total


class TestShapes:
    def test_what_gives_nothing_needs_no_shape(self) -> None:
        graph = fx.Graph()
        x = graph.placeholder("x")
        x.meta["val"] = torch.ones(4)
        graph.call_function(ops.aten._foreach_mul_.Scalar, ([x, x], 2.0))
        graph.output(x)
        assert count_graph(fx.GraphModule(nn.Module(), graph)).total.arith == 8

    def test_nodes_without_shapes_are_named(self) -> None:
        graph = fx.Graph()
        graph.output(graph.call_function(ops.aten.exp.default, (graph.placeholder("x"),)))
        with pytest.raises(ValueError, match=r"node 'x' has no meta\['val'\].*make_fx"):
            count_graph(fx.GraphModule(nn.Module(), graph))
