"""Calls whose cost is unknown."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.export import export
from torch.fx.experimental.proxy_tensor import make_fx

from flopcount import UncountedOpWarning, count_graph


class TestUncounted:
    def test_an_op_without_a_formula_is_listed_and_warned_of_once(self) -> None:
        @torch.library.custom_op("graphs::mystery", mutates_args=())
        def mystery(x: Tensor) -> Tensor:
            return x.clone()

        mystery.register_fake(torch.empty_like)
        graph = make_fx(lambda x: mystery(mystery(x)))(torch.ones(4))
        with pytest.warns(UncountedOpWarning, match="mystery is uncounted") as warned:
            assert count_graph(graph).uncounted == {"graphs.mystery": 2}
        assert [str(w.filename) for w in warned if w.category is UncountedOpWarning] == [__file__]

    def test_sizes_that_depend_on_values_are_uncounted_unless_they_are_given(self) -> None:
        class Select(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                rows = x[torch.nonzero(x.sum(1)).squeeze(1)]
                return rows.mm(x.t()).sum() + x.sum()

        program = export(Select(), (torch.ones(4, 8),))
        with pytest.warns(UncountedOpWarning, match="u0, dimension 0 of result nonzero, depends"):
            unknown = count_graph(program)
        assert set(unknown.uncounted) == {"aten.nonzero", "aten.index", "aten.mm", "aten.sum"}
        assert unknown.total.arith == 4 * 7 + 31 + 1  # sums of rows, of all, and of both sums
        known = count_graph(program, sizes={"u0": 3})
        assert not known.uncounted
        assert known.total.macs == 3 * 4 * 8
