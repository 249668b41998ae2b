"""Sizes that a traced program leaves open, and what is put in their place."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram, export
from torch.fx.experimental.proxy_tensor import make_fx

import flopcount
from flopcount import count_graph


class Sums(nn.Module):
    """Makes sizes of the batch: n, 4·n + 1, n // 2 + 2 and n + m."""

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        n = x.shape[0]
        return (
            x @ x.t(),
            x.new_ones(4 * n + 1) + 1,
            x.new_ones(n // 2 + 2) * 2,
            torch.cat([x, y]).exp(),
        )


def program() -> ExportedProgram:
    """Sums of a batch of 2 to 64 rows, and of other rows, whose dimension has no name."""
    batch = {0: Dim("batch", min=2, max=64)}
    return export(
        Sums(), (torch.ones(6, 8), torch.ones(3, 8)), dynamic_shapes=(batch, {0: Dim.DYNAMIC})
    )


def symbols(exported: ExportedProgram) -> list[str]:
    return list(map(str, exported.range_constraints))


def traced(function: Callable[[Tensor, Tensor], Any]) -> fx.GraphModule:
    """A function of two vectors of any length."""
    return make_fx(function, tracing_mode="symbolic")(torch.ones(3), torch.ones(5))


def length(graph: fx.GraphModule, name: str) -> Any:
    """The symbolic length of an input."""
    (node,) = (n for n in graph.graph.find_nodes(op="placeholder") if n.name == name)
    return node.meta["val"].shape[0]


class TestSizes:
    @pytest.mark.parametrize(("n", "m"), [(2, 2), (9, 5), (64, 3)])
    def test_every_size_is_worked_out(self, n: int, m: int) -> None:
        exported = program()
        report = count_graph(exported, sizes=dict(zip(symbols(exported), (n, m), strict=True)))
        total = report.total
        assert total.macs == n * n * 8
        assert total.arith == (4 * n + 1) + (n // 2 + 2)
        assert total.special == (n + m) * 8
        eager = flopcount.count(Sums(), torch.ones(n, 8), torch.ones(m, 8), backward=False)
        assert total == eager.total

    def test_a_dimension_may_be_called_by_the_name_that_the_user_gave_it(self) -> None:
        exported = program()
        batch, other = symbols(exported)
        by_symbol = count_graph(exported, sizes={batch: 9, other: 5})
        assert count_graph(exported, sizes={"batch": 9, other: 5}) == by_symbol

    def test_a_program_that_was_loaded_knows_its_symbols_and_ranges(self) -> None:
        exported, file = program(), io.BytesIO()
        torch.export.save(exported, file)
        file.seek(0)
        loaded = torch.export.load(file)
        sizes = dict(zip(symbols(exported), (9, 5), strict=True))
        assert count_graph(loaded, sizes=sizes) == count_graph(exported, sizes=sizes)
        with pytest.raises(ValueError, match=r"the graph holds for sizes from 2 to 64$"):
            count_graph(loaded, sizes={**sizes, symbols(exported)[0]: 65})

    def test_sizes_of_one_symbol_serve_every_graph(self) -> None:
        exported = program()
        sizes = dict(zip(symbols(exported), (9, 5), strict=True))
        twice = count_graph(exported, exported, sizes=sizes)
        once = count_graph(exported, sizes=sizes)
        assert twice.total == 2 * once.total
        assert twice.model.calls == 2

    def test_no_size_is_asked_that_no_op_needs(self) -> None:
        """A view of y costs nothing, whatever its size."""
        graph = traced(lambda x, y: (x.exp(), y.unsqueeze(0)))
        symbol = str(length(graph, "x_1"))
        assert count_graph(graph, sizes={symbol: 7}).total.special == 7

    def test_dimensions_that_are_equal_have_the_name_of_all(self) -> None:
        class Sum(nn.Module):
            def forward(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
                return x + y + z

        args = tuple(torch.ones(4) for _ in range(3))
        exported = export(Sum(), args, dynamic_shapes=({0: Dim("batch")},) * 3)
        assert count_graph(exported, sizes={"batch": 9}).total.arith == 2 * 9

    def test_without_symbols_none_need_be_given(self) -> None:
        exported = export(nn.ReLU(), (torch.ones(4),))
        assert count_graph(exported, sizes={}) == count_graph(exported)


class TestBadSizes:
    def test_missing_ones_are_listed_with_where_they_come_from(self) -> None:
        exported = program()
        _, other = symbols(exported)
        message = (
            rf"sizes={{'batch': …, '{other}': …}}: batch is dimension 0 of input x; "
            rf"{other} is dimension 0 of input y$"
        )
        with pytest.raises(ValueError, match=message):
            count_graph(exported)
        with pytest.raises(ValueError, match=rf"sizes={{'{other}': …}}"):
            count_graph(exported, sizes={"batch": 4})

    def test_those_of_all_ops_are_listed_at_once(self) -> None:
        graph = traced(lambda x, y: (torch.cat([x, y]), x.new_ones(4).exp()))
        x, y = length(graph, "x_1"), length(graph, "y_1")
        message = (
            rf"sizes={{'{x}': …, '{y}': …}}: {x} is dimension 0 of input x_1; "
            rf"{y} is dimension 0 of input y_1$"
        )
        with pytest.raises(ValueError, match=message):
            count_graph(graph)

    def test_a_number_that_is_an_input_is_called_so(self) -> None:
        """Though a dimension of a result holds it, too."""
        graph = fx.Graph()
        size = length(traced(lambda x, y: x.exp()), "x_1")
        n, x = graph.placeholder("n"), graph.placeholder("x")
        n.meta["val"], x.meta["val"] = size, torch.empty(4, device="meta")
        ones = graph.call_function(torch.ops.aten.new_ones.default, (x, [n]))
        ones.meta["val"] = torch.empty(size + 1, device="meta")
        graph.output(ones)
        with pytest.raises(ValueError, match=f"{size} is input n$"):
            count_graph(fx.GraphModule(nn.Module(), graph))

    def test_a_batch_of_one_is_not_traced_with_others(self) -> None:
        exported = export(nn.ReLU(), (torch.ones(4),), dynamic_shapes=({0: Dim("batch", min=1)},))
        message = (
            "batch = 1, but the graph holds for sizes of 2 or more; torch specializes on 0 and 1: "
            "to count 1, trace the program with a size of 1"
        )
        with pytest.raises(ValueError, match=f"^{message}$"):
            count_graph(exported, sizes={"batch": 1})
        assert count_graph(export(nn.ReLU(), (torch.ones(1),))).total.compare == 1

    def test_a_symbol_that_is_part_of_a_size_is_shown_in_it(self) -> None:
        even = {0: 2 * Dim("half", min=2, max=9)}
        exported = export(nn.ReLU(), (torch.ones(8),), dynamic_shapes=(even,))
        (half,) = exported.graph.find_nodes(op="output")[0].all_input_nodes[0].meta["val"].shape
        (symbol,) = map(str, half.node.expr.free_symbols)
        message = r"sizes={'half': …}: half is in dimension 0 of input input, which is 2\*half$"
        with pytest.raises(ValueError, match=message):
            count_graph(exported)
        assert count_graph(exported, sizes={symbol: 7}).total.compare == 14
        assert count_graph(exported, sizes={"half": 7}).total.compare == 14

    @pytest.mark.parametrize(
        ("sizes", "error", "message"),
        [
            ({"bacth": 4}, ValueError, r"no symbol 'bacth'; did you mean 'batch'\?"),
            ({"zzz": 4}, ValueError, "no symbol 'zzz'; its symbols are batch, s"),
            ({4: 4}, ValueError, "no symbol 4; its symbols are"),
            ({"batch": 65}, ValueError, "batch = 65, but the graph holds for sizes from 2 to 64$"),
            (
                {"batch": 1},
                ValueError,
                "from 2 to 64; torch specializes on 0 and 1: to count 1, trace",
            ),
            ({"batch": -4}, ValueError, "batch = -4 is negative"),
            ({"batch": 4.0}, TypeError, "a whole number as the size 'batch', got 4.0"),
            ({"batch": True}, TypeError, "a whole number as the size 'batch', got True"),
            (4, TypeError, r"expected sizes={symbol: number}, got 4"),
        ],
    )
    def test_they_are_refused(self, sizes: Any, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            count_graph(program(), sizes=sizes)

    def test_a_size_that_leaves_a_remainder_is_refused(self) -> None:
        graph = make_fx(lambda x: x.view(-1, 2).exp(), tracing_mode="symbolic")(torch.ones(6))
        (x,) = graph.graph.find_nodes(op="placeholder")
        symbol = str(x.meta["val"].shape[0])
        assert count_graph(graph, sizes={symbol: 8}).total.special == 8
        with pytest.raises(ValueError, match=rf"traced for Mod\({symbol}, 2\) = 0.*: 7}}"):
            count_graph(graph, sizes={symbol: 7})

    def test_a_graph_without_symbols_says_so(self) -> None:
        with pytest.raises(ValueError, match="no symbol 'batch'; it has none"):
            count_graph(export(nn.ReLU(), (torch.ones(4),)), sizes={"batch": 4})
