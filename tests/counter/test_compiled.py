"""Functions that torch compiles."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from functorch.compile import aot_module, nop
from torch import Tensor, nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from flopcount import FlopCounter
from flopcount.torch_private.compiler import stance
from tests.counter.units import PRODUCT, batch, linear, mm
from tests.graph.graphs import keeping
from tests.invariants import check

LATE = """
import sys
import torch
from flopcount import FlopCounter

graphs = []

def backend(graph, inputs):
    graphs.append(graph)
    return graph.forward

def product(x):
    return x @ torch.ones(8, 8)

x = torch.ones(4, 8)
assert "torch._dynamo" not in sys.modules
with FlopCounter() as counter:
    function = torch.compile(product, backend=backend, fullgraph=True)
    y = function(x)
print(counter.report().total.macs)
print(len(graphs), torch.equal(y, product(x)))
z = function(x)
print(len(graphs), torch.equal(z, y))
"""


class TestCompiledFunctions:
    @pytest.fixture(autouse=True)
    def fresh(self) -> Any:
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        yield
        torch._dynamo.reset()

    @staticmethod
    def compiled(fullgraph: bool = True) -> tuple[Callable[[Tensor], Tensor], list[Any]]:
        """A function, and the graphs that it was compiled to."""
        backend, graphs = keeping()

        def double_product(x: Tensor) -> Tensor:
            return 2 * (x @ torch.ones(8, 8))

        return torch.compile(double_product, backend=backend, fullgraph=fullgraph), graphs

    def test_first_called_inside_it_is_compiled_afterwards(self) -> None:
        function, graphs = self.compiled()
        with FlopCounter() as counter:
            y = function(batch())
        assert torch.equal(y, 2 * mm())
        assert counter.report().total.macs == PRODUCT
        assert graphs == []  # under a dispatch mode torch runs it eagerly
        for _ in range(2):
            assert torch.equal(function(batch()), y)
        assert len(graphs) == 1

    def test_compiled_before_it_stays_compiled(self) -> None:
        function, graphs = self.compiled()
        y = function(batch())
        with FlopCounter() as counter:
            assert torch.equal(function(batch()), y)
        assert counter.report().total.macs == PRODUCT
        assert torch.equal(function(batch()), y)
        assert len(graphs) == 1

    @pytest.mark.filterwarnings("ignore:Using `torch.compile")  # said of any global hook
    @pytest.mark.parametrize("fullgraph", [True, False])
    @pytest.mark.parametrize(
        "backend", ["eager", "aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]
    )
    def test_a_model_that_trains(self, fullgraph: bool, backend: str) -> None:
        model = nn.Sequential(linear(), nn.ReLU(), linear())
        function = torch.compile(model, backend=backend, fullgraph=fullgraph)
        counter = FlopCounter(model)
        compiled = torch._dynamo.utils.counters["stats"]
        for _ in range(2):
            with counter:
                function(batch()).sum().backward()
            function(batch()).sum().backward()
        assert compiled["unique_graphs"] == 1  # once for both steps outside the block
        report = counter.report()
        check(report, plain=True)
        assert [node.calls for node in report.model.walk()] == [2] * 4
        assert report.model.total.macs == 2 * (2 + 3) * PRODUCT

    @pytest.mark.parametrize(
        "backend", ["eager", "aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]
    )
    def test_flex_attention_with_a_block_mask(self, backend: str) -> None:
        """Two products over all pairs of tokens, and its scores and mask are functions."""

        def causal(b: Any, h: Any, q: Any, k: Any) -> Any:
            return q >= k

        def nearer(score: Tensor, b: Any, h: Any, q: Any, k: Any) -> Tensor:
            return score + (q - k) / 100

        heads, tokens, width = 2, 128, 16
        q, k, v = (torch.randn(1, heads, tokens, width) for _ in range(3))
        function = torch.compile(flex_attention, backend=backend, fullgraph=True)
        with FlopCounter() as counter:
            mask = create_block_mask(causal, None, None, tokens, tokens, device="cpu")
            y = function(q, k, v, score_mod=nearer, block_mask=mask)
        report = counter.report()
        assert report.total.macs == 2 * heads * tokens * tokens * width
        assert not report.uncounted
        compiled = torch._dynamo.utils.counters["stats"]
        inside = compiled["unique_graphs"]  # without a compiler torch compiles parts of it anyway
        after = function(q, k, v, score_mod=nearer, block_mask=mask)
        assert compiled["unique_graphs"] == inside + 1
        torch.testing.assert_close(after, y)
        assert torch.equal(y, flex_attention(q, k, v, score_mod=nearer, block_mask=mask))

    def test_first_called_inside_it_by_a_program_that_loads_the_compiler_there(self) -> None:
        """In a process of its own: here the compiler is loaded."""
        run = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True)
        assert (run.stdout, run.returncode) == (f"{PRODUCT}\n0 True\n1 True\n", 0), run.stderr

    def test_a_stance_that_the_program_sets_inside_stays(self) -> None:
        with FlopCounter():
            torch.compiler.set_stance("eager_on_recompile")
        try:
            assert stance().stance == "eager_on_recompile"
        finally:
            torch.compiler.set_stance("default")

    def test_first_called_under_a_stance_of_the_programs_it_is_compiled_afterwards(self) -> None:
        function, graphs = self.compiled(fullgraph=False)  # whole, torch would refuse it there
        with FlopCounter(), torch.compiler.set_stance("default"):
            function(batch())
        assert not graphs
        function(batch())
        assert len(graphs) == 1

    def test_a_counter_that_a_compiled_function_enters(self) -> None:
        counter = FlopCounter()

        @torch.compile(backend="eager")
        def product(x: Tensor) -> Tensor:
            with counter:
                return x @ torch.ones(8, 8)

        assert torch.equal(product(batch()), mm())
        assert counter.report().total.macs == PRODUCT
        function, graphs = self.compiled()
        with FlopCounter():
            pass
        function(batch())
        assert len(graphs) == 1

    def test_a_gradient_that_aot_autograd_made_is_backward(self) -> None:
        """Its graphs are modules, which the program has no names for."""
        layer = linear()
        function = aot_module(layer, fw_compiler=nop, bw_compiler=nop)
        function(batch()).sum().backward()
        with FlopCounter(layer) as counter:
            function(batch()).sum().backward()
        phases = counter.report().phases
        assert {name: cost.macs for name, cost in phases.items() if cost.macs} == {
            "forward": PRODUCT,
            "backward": PRODUCT,
        }

    def test_threads_that_leave_in_another_order_leave_no_trace(self) -> None:
        first_in, second_in, first_out = (threading.Event() for _ in range(3))

        def first() -> None:
            with FlopCounter():
                first_in.set()
                second_in.wait(10)
            first_out.set()

        def second() -> None:
            first_in.wait(10)
            with FlopCounter():
                second_in.set()
                first_out.wait(10)

        threads = [threading.Thread(target=run) for run in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        function, graphs = self.compiled()
        function(batch())
        assert len(graphs) == 1
