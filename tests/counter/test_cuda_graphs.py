"""CUDA graphs: a replay counts what was captured, or the graph is named."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import flopcount
from flopcount import FlopCounter, Report, UncountedOpWarning
from tests.counter.stand_ins import look_for_stand_ins
from tests.counter.units import PRODUCT, batch, linear, mm

Capture = Callable[[Callable[[], Any]], torch.cuda.CUDAGraph]
"""Captures what a function does in a graph."""


class Base:
    """Stands for the base of torch's class of graphs: a capture and a replay do nothing."""

    _has_graph_exec = True

    def __new__(cls, keep_graph: bool = False) -> Any:
        return object.__new__(cls)

    def capture_begin(self, pool: Any, capture_error_mode: str) -> None: ...
    def capture_end(self) -> None: ...
    def capture_end_pre(self) -> None: ...
    def capture_end_post(self) -> None: ...
    def instantiate(self) -> None: ...
    def replay(self) -> None: ...


@pytest.fixture
def capture(monkeypatch: pytest.MonkeyPatch) -> Capture:
    """Captures a graph: torch's own class, as it is written, on the stand-in for its base."""
    look_for_stand_ins(monkeypatch)
    names = {**vars(torch.cuda.graphs), "_CUDAGraph": Base}
    own = inspect.getsource(torch.cuda.CUDAGraph)
    exec("from __future__ import annotations\n" + own, names)
    monkeypatch.setattr(torch._C, "_CUDAGraph", Base)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", names["CUDAGraph"])

    def capture(work: Callable[[], Any]) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin()
        work()
        graph.capture_end()
        return graph

    return capture


def rows(report: Report) -> dict[tuple[str, str], int]:
    """The products of each module and phase, in units."""
    macs: dict[tuple[str, str], int] = {}
    for row in report.entries:
        if row.cost.macs:
            key = row.module, row.phase
            macs[key] = macs.get(key, 0) + row.cost.macs // PRODUCT
    return macs


class TestGraphs:
    def test_a_replay_counts_what_was_captured_where_it_ran(self, capture: Capture) -> None:
        """A step of two layers: 2 products forward; 3 backward, as the input needs no gradient."""
        model = nn.Sequential(linear(), linear())
        with FlopCounter(model, strict=True) as counter:
            graph = capture(lambda: model(batch()).sum().backward())
            assert counter.report().total == flopcount.Cost()  # a capture runs nothing
            mm()
            for _ in range(3):
                graph.replay()
        assert rows(counter.report()) == {
            ("", "forward"): 1,
            ("Sequential.0", "forward"): 3,
            ("Sequential.0", "backward"): 3,
            ("Sequential.1", "forward"): 3,
            ("Sequential.1", "backward"): 6,
        }

    def test_it_costs_what_the_captured_ops_cost(self, capture: Capture) -> None:
        model, x = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 2)), batch()
        with FlopCounter(model) as direct:
            model(x).sum().backward()
        model.zero_grad()  # so that the second pass adds to no gradients, either
        with FlopCounter(model) as replayed:
            capture(lambda: model(x).sum().backward()).replay()
        assert replayed.report().entries == direct.report().entries

    def test_one_that_was_captured_before_the_counter_was_opened(self, capture: Capture) -> None:
        graph = capture(mm)
        with FlopCounter() as counter:
            graph.replay()
        with pytest.warns(UncountedOpWarning, match="captured when the counter was not open"):
            report = counter.report()
        assert report.uncounted == {"torch.cuda.CUDAGraph": 1}

    def test_a_counter_that_is_entered_again_remembers(self, capture: Capture) -> None:
        counter = FlopCounter()
        with counter:
            graph = capture(mm)
        graph.replay()
        counter.reset()
        with counter:
            graph.replay()
        assert counter.report().total.macs == PRODUCT

    def test_a_capture_that_was_seen_in_part_is_not_known(self, capture: Capture) -> None:
        late, early, reset = FlopCounter(), FlopCounter(), FlopCounter()
        graph = torch.cuda.CUDAGraph()
        with reset:
            with early:
                graph.capture_begin()
                mm()
            with late, early:
                mm()
                graph.capture_end()
                reset.reset()
                graph.replay()
        for counter, macs in ((late, 1), (early, 2), (reset, 2)):
            report = counter.report()
            assert report.uncounted == ({} if counter is reset else {"torch.cuda.CUDAGraph": 1})
            assert report.total.macs == macs * PRODUCT

    def test_two_graphs_and_a_graph_that_captures_again(self, capture: Capture) -> None:
        with FlopCounter() as counter:
            one, two = capture(mm), capture(lambda: [mm(), mm()])
            one.replay()
            two.replay()
            one.capture_begin()
            [mm() for _ in range(10)]
            one.capture_end()
            one.replay()
        assert counter.report().total.macs == (1 + 2 + 10) * PRODUCT

    def test_ops_around_the_capture_are_kept(self, capture: Capture) -> None:
        with FlopCounter() as counter:
            mm()
            graph = capture(mm)
            mm()
            graph.replay()
            graph.replay()
        report = counter.report()
        assert report.total.macs == 4 * PRODUCT
        assert [row.calls for row in report.entries if row.op == "aten.mm"] == [4]

    def test_uncounted_ops_in_it_stay_uncounted(self, capture: Capture) -> None:
        sparse = torch.eye(3).to_sparse()
        with FlopCounter() as counter:
            graph = capture(lambda: sparse @ sparse)
            graph.replay()
            graph.replay()
        assert counter.report().uncounted == {"aten.mm": 2}

    def test_a_graph_does_not_live_longer(self, capture: Capture) -> None:
        with FlopCounter() as counter:
            capture(mm)
        assert len(counter._captures._captured) == 0

    def test_a_callable_that_is_graphed(self, capture: Capture) -> None:
        """As make_graphed_callables does it: a forward graph, and one of the gradients."""
        layer, x = linear(), batch().requires_grad_()
        outputs: list[Tensor] = []
        with FlopCounter(layer) as counter:
            forward = capture(lambda: outputs.append(layer(x)))
            backward = capture(lambda: torch.autograd.grad(outputs[0].sum(), layer.weight))

            class Graphed(torch.autograd.Function):
                @staticmethod
                def forward(ctx: Any, x: Tensor) -> Tensor:
                    forward.replay()
                    return outputs[0].detach().clone()

                @staticmethod
                def backward(ctx: Any, gradient: Tensor) -> Any:
                    backward.replay()
                    return gradient

            for _ in range(2):
                Graphed.apply(x).sum().backward()
        assert rows(counter.report()) == {("Linear", "forward"): 2, ("Linear", "backward"): 2}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
class TestOnAGpu:
    def test_a_real_graph(self) -> None:
        model, x = nn.Sequential(linear(), linear()).cuda(), batch().cuda()

        def step() -> None:
            model.zero_grad(set_to_none=True)
            model(x).sum().backward()

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with FlopCounter(model) as counter:
            with torch.cuda.graph(graph):
                step()
            for _ in range(3):
                graph.replay()
        torch.cuda.synchronize()
        assert rows(counter.report()) == {
            ("Sequential.0", "forward"): 3,
            ("Sequential.0", "backward"): 3,
            ("Sequential.1", "forward"): 3,
            ("Sequential.1", "backward"): 6,
        }

    def test_a_graphed_callable(self) -> None:
        """Three rounds to warm up, and two steps: 1 product forward and 2 backward in each."""
        layer, x = linear().cuda(), batch().cuda().requires_grad_()
        with FlopCounter(layer) as counter:
            graphed = torch.cuda.make_graphed_callables(layer, (x,))
            for _ in range(2):
                graphed(x).sum().backward()
        assert counter.report().total.macs == 15 * PRODUCT
