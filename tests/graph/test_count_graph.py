"""What is a graph, and what counting one leaves as it was."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.export import export
from torch.fx.experimental.proxy_tensor import make_fx

from flopcount import Cost, FlopCounter, count_graph
from tests.graph.graphs import ConvNet, compiled, mlp


class TestSurroundings:
    def test_nothing_is_seen_by_a_counter_or_changed_by_the_callers_modes(self) -> None:
        program = export(mlp(), (torch.randn(4, 8),))
        expected = count_graph(program)
        state = torch.get_rng_state()
        with torch.autocast("cpu", torch.bfloat16), torch.inference_mode(), FlopCounter() as watch:
            assert count_graph(program) == expected
        assert watch.report().total == Cost()
        assert torch.equal(torch.get_rng_state(), state)

    def test_graphs_stay_as_they_are(self) -> None:
        joint = compiled(ConvNet(), torch.randn(2, 3, 8, 8))["joint"]
        before = [(str(node), copy.copy(node.meta)) for node in joint.graph.nodes]
        code = joint.code
        count_graph(joint)
        assert joint.code == code
        assert [(str(node), node.meta) for node in joint.graph.nodes] == before

    def test_it_loads_no_part_of_the_compiler_that_the_tracer_did_not(self) -> None:
        script = (
            "import sys, torch, flopcount\n"
            "def loaded(): return {name for name in sys.modules if 'dynamo' in name}\n"
            "flopcount.count_graph\n"
            "assert 'torch._dynamo' not in loaded()\n"
            "from torch.fx.experimental.proxy_tensor import make_fx\n"
            "graph = make_fx(lambda x: torch.nn.functional.linear(x, x))(torch.ones(4, 4))\n"
            "before = loaded()\n"
            "print(flopcount.count_graph(graph).total.macs, loaded() - before)"
        )
        output = subprocess.run(
            [sys.executable, "-c", script], check=True, capture_output=True, text=True
        ).stdout
        assert output.split() == ["64", "set()"]

    def test_kernels_are_those_of_the_devices_in_the_graph(self) -> None:
        """One that this machine need not have."""
        from torch._subclasses.fake_tensor import FakeTensorMode

        with FakeTensorMode():
            x = torch.empty(4, 8, device="cuda")
            graph = make_fx(lambda x: x @ x.t() + torch.ones(4, device="cuda"))(x)
        assert count_graph(graph).total.macs == 4 * 4 * 8


class TestWhatIsNoGraph:
    @pytest.mark.parametrize(
        ("value", "name"),
        [(nn.Linear(2, 2), "Linear"), ([make_fx(torch.exp)(torch.ones(2))], "list")],
        ids=["a module", "a list of graphs"],
    )
    def test_it_is_a_type_error(self, value: Any, name: str) -> None:
        with pytest.raises(TypeError, match=rf"ExportedProgram or a torch.fx.GraphModule.*{name}$"):
            count_graph(value)

    def test_nothing_is_a_type_error(self) -> None:
        with pytest.raises(TypeError, match="expected a graph"):
            count_graph()

    def test_a_graph_of_python_functions_has_no_ops(self) -> None:
        graphs: list[fx.GraphModule] = []

        def backend(graph: fx.GraphModule, inputs: Any) -> Any:
            graphs.append(graph)
            return graph.forward

        torch._dynamo.reset()
        torch.compile(mlp(), backend=backend)(torch.ones(4, 8))
        torch._dynamo.reset()
        with pytest.raises(
            ValueError, match=r"<built-in function linear>, which is no op.*aot_autograd"
        ):
            count_graph(graphs[0])

    def test_a_graph_of_modules_has_no_ops_either(self) -> None:
        with pytest.raises(ValueError, match="node '_0' calls '0', which is no op"):
            count_graph(fx.symbolic_trace(mlp()))
