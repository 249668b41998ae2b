"""Programs that are traced on symbolic sizes: nothing is computed, and no size may be asked."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from flopcount import FlopCounter


def double(x: Tensor) -> Tensor:
    return torch.cat([x.sin(), x.new_zeros(x.shape[0], 2)], 1).relu()


def test_export_with_a_dynamic_batch() -> None:
    batch = torch.export.Dim("batch")
    model, x = nn.Linear(8, 4), torch.ones(3, 8)
    with FlopCounter(model) as counter:
        program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},))
    assert program.module()(torch.ones(5, 8)).shape == (5, 4)
    assert counter.report().total.macs == 0


@pytest.mark.parametrize("mode", ["symbolic", "fake", "real"])
def test_make_fx(mode: str) -> None:
    plain = make_fx(double, tracing_mode=mode)(torch.ones(3, 4))
    with FlopCounter() as counter:
        traced = make_fx(double, tracing_mode=mode)(torch.ones(3, 4))
    assert traced.code == plain.code
    if mode == "symbolic":
        assert counter.report().total.flops == 0
        assert "aten.sin" in counter.report().uncounted
        assert traced(torch.ones(7, 4)).shape == (7, 6)


def test_a_module_that_is_traced_before_it_runs() -> None:
    """Its parameters are counted when it is met, and no such thing is in the graph."""
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    alone = torch.jit.trace(model, torch.ones(4, 8))
    with FlopCounter(nn.Sequential(model)):
        traced = torch.jit.trace(model, torch.ones(4, 8))
    assert [n.kind() for n in traced.inlined_graph.nodes()] == [
        n.kind() for n in alone.inlined_graph.nodes()
    ]
