"""Programs that are traced: the trace is the same, and it counts what it computes.

On symbolic sizes nothing is computed, and no size may be asked.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from flopcount import FlopCounter
from tests.counter.observation import Notes, Programs, assert_undisturbed
from tests.counter.units import batch, linear, pair

PROGRAMS = Programs()
program, test_undisturbed = PROGRAMS.taking, PROGRAMS.as_test()


@program(2)  # while it is traced, and when it is called
def a_function_traced_by_jit(notes: Notes) -> Any:
    traced = torch.jit.trace(linear(), batch(), check_trace=False)
    return traced.code, traced(batch())


@program(3 * 2)  # forward, and backward of the weight
def a_scripted_function_that_trains(notes: Notes) -> Any:
    """The first calls are profiled, later ones optimised for what was seen."""

    @torch.jit.script
    def scripted(x: Tensor, weight: Tensor) -> Tensor:
        return torch.tanh(x @ weight)

    weight = torch.eye(8, requires_grad=True)
    results = []
    for _ in range(3):
        results.append(scripted(batch(), weight))
        results[-1].sum().backward()
    return results, weight.grad


@program(1)
def a_module_scripted_here(notes: Notes) -> Any:
    script = torch.jit.script(linear())
    return script.code, script(batch())


@program(1)  # a symbolic trace computes nothing
def a_symbolic_trace(notes: Notes) -> Any:
    traced = torch.fx.symbolic_trace(pair())
    return (
        traced.code,
        [str(node) for node in traced.graph.nodes],
        traced.get_submodule("0")(batch()),
    )


@program(2)  # the function is run to be traced, and then its graph
def make_fx_of_values(notes: Notes) -> Any:
    traced = make_fx(lambda x: (x @ torch.ones(8, 8)).relu())(batch())
    return traced.code, traced(batch())


@pytest.mark.parametrize("pre_dispatch", [True, False])
@pytest.mark.parametrize("tracing_mode", ["real", "fake", "symbolic"])
def test_make_fx(pre_dispatch: bool, tracing_mode: str) -> None:
    def trace(notes: Notes) -> Any:
        net = pair().requires_grad_(False)
        traced = make_fx(net, tracing_mode=tracing_mode, pre_dispatch=pre_dispatch)(batch())
        return traced.code, traced(batch())

    assert_undisturbed(trace)


def test_export() -> None:
    """The same graph, with not a node more."""

    def export(notes: Notes) -> Any:
        program = torch.export.export(pair(), (batch(),), strict=False)
        return program.graph_module.code, str(program.graph_signature), program.module()(batch())

    assert_undisturbed(export)


# -- on symbolic sizes


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
def test_make_fx_of_a_function(mode: str) -> None:
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
