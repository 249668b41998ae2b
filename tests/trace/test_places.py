"""The module and the phase of recorded ops: from frames, ranges, numbers of nodes, and steps."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.profiler import record_function
from torch.utils.checkpoint import checkpoint

import flopcount
from flopcount import FlopCounter, Report
from tests.trace.recordings import (
    ENGINE,
    HOST,
    annotation,
    event,
    module,
    node,
    op,
    products,
    recorded,
    written,
)

A, B = [4, 8], [8, 2]
P = 4 * 8 * 2
"""MACs of their product."""


def report(folder: Path, *events: Any) -> Report:
    return flopcount.read_trace(written(folder / "trace.json", events))


def mm(start: float, end: float, number: int | None = None, thread: Any = HOST) -> Any:
    args = {} if number is None else {"Sequence number": number, "Fwd thread id": 0}
    return op("aten::mm", start, end, A, B, thread=thread, **args)


def backward(number: int, start: float, end: float, thread: Any = HOST) -> list[Any]:
    """A node that computes two products, with gradients off."""
    numbers = {"Sequence number": number, "Fwd thread id": 1}
    middle = (start + end) / 2
    return [
        node("MmBackward0", start, end, thread, **numbers),
        event("cpu_op", "MmBackward0", start, end, thread, **numbers),
        mm(start + 1, middle, thread=thread),
        mm(middle, end - 1, thread=thread),
    ]


def rows(found: Report) -> dict[str, dict[str, int]]:
    """MACs of each module without its children, by phase."""
    return {
        path: {row.phase: row.cost.macs for row in found[path].rows if row.cost.macs}
        for path in found
    }


@pytest.mark.parametrize("thread", [HOST, ENGINE])
def test_backward_belongs_to_the_module_that_made_the_node(tmp_path: Path, thread: Any) -> None:
    found = report(
        tmp_path,
        module("Net_0", 0, 40),
        module("Linear_0", 1, 10),
        mm(2, 9, 0),
        module("Linear_1", 11, 20),
        mm(12, 19, 1),
        *backward(1, 50, 60, thread),
        *backward(0, 60, 70, thread),
        node("torch::autograd::AccumulateGrad", 70, 80, thread),
        op("aten::add_", 71, 79, [8, 2], [8, 2], 1, thread=thread),
    )
    assert rows(found) == {
        "<block>": {},
        "": {},
        "Linear_0": {"forward": P, "backward": 2 * P},
        "Linear_1": {"forward": P, "backward": 2 * P},
    }
    assert found["Linear_0"].type == "Linear"
    assert found["Linear_0"].calls == 1
    assert found["Linear_0"].params is None  # a recording does not tell
    assert found["Linear_0"].phases["backward"].arith == 16  # and its gradient is added up


def test_threads_that_number_their_nodes_alike(tmp_path: Path) -> None:
    """Flows tell which thread made a node; each began to count at 0."""
    flows: list[Any] = []
    for flow, thread, start, back in ((1, (1, 1), 2, 50), (2, (1, 3), 3, 70)):
        flows.append(
            {"ph": "s", "cat": "fwdbwd", "id": flow, "pid": 1, "tid": thread[1], "ts": start}
        )
        flows.append({"ph": "f", "cat": "fwdbwd", "id": flow, "pid": 1, "tid": 2, "ts": back})
    numbers = [{"Sequence number": 0, "Fwd thread id": number} for number in (1, 2)]
    found = report(
        tmp_path,
        *flows,
        module("A_0", 0, 10),
        mm(2, 9, 0),
        module("B_0", 1, 12, (1, 3)),
        mm(3, 11, 0, (1, 3)),
        node("MmBackward0", 50, 60, ENGINE, **numbers[0]),
        mm(51, 59, thread=ENGINE),
        node("MmBackward0", 70, 80, ENGINE, **numbers[1]),
        mm(71, 79, thread=ENGINE),
    )
    both = {"forward": P, "backward": P}
    assert {path: rows(found)[path] for path in ("A_0", "B_0")} == {"A_0": both, "B_0": both}


def test_a_node_that_nobody_saw_made_is_unattributed(tmp_path: Path) -> None:
    found = report(tmp_path, module("M_0", 0, 10), mm(1, 9, 5), *backward(3, 20, 30))
    assert rows(found)["unattributed"] == {"backward": 2 * P}


def test_a_module_that_backward_calls_runs_again(tmp_path: Path) -> None:
    """A call in recomputation is none of the forward."""
    numbers = {"Sequence number": 0, "Fwd thread id": 1}
    found = report(
        tmp_path,
        module("Linear_0", 1, 10),
        mm(2, 9, 0),
        node("MmBackward0", 50, 90, ENGINE, **numbers),
        event("cpu_op", "MmBackward0", 51, 89, ENGINE, **numbers),
        module("Linear_0", 52, 60, ENGINE),
        mm(53, 59, 9, ENGINE),
        mm(70, 80, thread=ENGINE),
    )
    assert products(found) == {"forward": P, "backward": P, "recompute": P}
    assert found.model.calls == 1


def test_steps_are_the_optimizers_and_their_closures_are_not(tmp_path: Path) -> None:
    found = report(
        tmp_path,
        annotation("Optimizer.step#SGD.step", 0, 100),
        module("Linear_0", 1, 10),
        mm(2, 9, 0),
        *backward(0, 20, 40),
        mm(50, 60),
        annotation("Optimizer.zero_grad#SGD.zero_grad", 100, 110),
    )
    assert products(found) == {"forward": P, "backward": 2 * P, "optimizer": P}


def test_what_runs_outside_of_modules_with_gradients_off_is_other(tmp_path: Path) -> None:
    """An op that makes a tensor has no number either way, and tells nothing."""
    zeros = op("aten::zeros", 30, 31, "[8, 8]", "", "", "", "")
    zeros["args"]["Input type"] = ["ScalarList", "", "", "", ""]
    found = report(tmp_path, module("M_0", 0, 5), mm(1, 4, 0), zeros, mm(40, 50, 1), mm(60, 70))
    assert products(found) == {"forward": 2 * P, "other": P}
    assert {row.phase for row in found.entries if row.op == "aten.zeros"} == {"forward"}


def test_a_recording_that_knows_neither_modules_nor_gradients_is_forward(tmp_path: Path) -> None:
    assert products(report(tmp_path, mm(0, 5))) == {"forward": P}


def test_ranges_stand_for_modules_where_no_frames_are(tmp_path: Path) -> None:
    ranges = [
        annotation("ProfilerStep#1", 0, 90),
        annotation("encoder", 1, 30),
        annotation("block.0", 2, 20),
        annotation("## Call CompiledFxGraph abc ##", 3, 15),
    ]
    found = report(tmp_path, *ranges, mm(4, 10, 0), *backward(0, 40, 60))
    assert rows(found)["block_0"] == {"forward": P, "backward": 2 * P}
    found = report(tmp_path, *ranges, module("M_0", 0, 80), mm(4, 10, 0))
    assert rows(found)[""] == {"forward": P}  # frames say more


class Net(nn.Module):
    """Two layers of one class, one of which is called twice, and a function."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.second(self.first(self.first(x)))).relu()


def train(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(4, 8)).sum().backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def test_a_step_is_recorded_as_it_is_counted() -> None:
    net, model = Net(), Net()
    report = recorded(lambda: train(net))
    with FlopCounter(model) as counter:
        train(model)
    expected = counter.report()
    names = {"Linear_0": "first", "Linear_1": "second", "LayerNorm_0": "norm", "": ""}
    for ours, theirs in names.items():
        assert report[ours].phases == expected[theirs].phases
        assert report[ours].calls == expected[theirs].calls
    assert report.phases == expected.phases
    assert report.uncounted == {}


def test_ranges_of_a_program_without_stacks() -> None:
    layer = nn.Linear(8, 2, bias=False)

    def step() -> None:
        with record_function("head"):
            y = layer(torch.ones(4, 8))
        y.sum().backward()

    report = recorded(step, stacks=False)
    assert rows(report)["" if "head" not in report else "head"] == {"forward": P, "backward": P}


@pytest.mark.parametrize("stacks", [True, False])
@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpoint_runs_its_forward_again(stacks: bool, reentrant: bool) -> None:
    """A tanh follows the product, so that the checkpoint, which stops there, has run it."""
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Tanh())
    x = torch.ones(4, 8, requires_grad=True)
    report = recorded(
        lambda: checkpoint(model, x, use_reentrant=reentrant).sum().backward(), stacks=stacks
    )
    macs = 4 * 8 * 8
    assert products(report) == {"forward": macs, "backward": 2 * macs, "recompute": macs}


@pytest.mark.parametrize("stacks", [True, False])
def test_gradients_with_a_graph_are_backward(stacks: bool) -> None:
    def penalty() -> None:
        x, w = torch.ones(4, 8, requires_grad=True), torch.ones(8, 2, requires_grad=True)
        (gradient,) = torch.autograd.grad((x @ w).square().sum(), x, create_graph=True)
        gradient.square().sum().backward()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = recorded(penalty, stacks=stacks)
        with FlopCounter() as counter:
            penalty()
    assert report.phases == counter.report().phases


def test_a_change_in_place_of_a_view_makes_several_nodes() -> None:
    """Its op has the number of the first alone: the slices, and a view of what they become."""
    model, other = (nn.Sequential(nn.Linear(8, 8), InPlaceOnView()) for _ in range(2))
    with flopcount.record(model) as recording:
        model(torch.ones(4, 8)).sum().backward()
    with FlopCounter(other) as counter:
        other(torch.ones(4, 8)).sum().backward()
    report, expected = recording.report(), counter.report()
    assert list(report) == list(expected)
    for path in expected:
        assert report[path].phases["backward"] == expected[path].phases["backward"]


class InPlaceOnView(nn.Module):
    """Scales a view, and so what it is a view of."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x.flatten(0).mul_(2)
        return x


def test_a_node_without_a_number_has_that_of_its_function(tmp_path: Path) -> None:
    """torch leaves it out where hooks run around the node, as in FSDP."""
    number = {"Sequence number": 5, "Fwd thread id": 1}
    found = report(
        tmp_path,
        module("A_0", 0, 10),
        mm(1, 2, 5),
        module("B_0", 10, 20),
        mm(11, 12, 6),
        node("MmBackward0", 30, 40, **{**number, "Sequence number": 6}),
        mm(31, 32),
        node("MmBackward0", 50, 60),
        event("cpu_op", "MmBackward0", 51, 59, **number),
        mm(52, 53),
    )
    assert {p: c.macs for p, c in found["A_0"].phases.items() if c} == {"forward": P, "backward": P}
    assert {p: c.macs for p, c in found["B_0"].phases.items() if c} == {"forward": P, "backward": P}


@pytest.mark.parametrize("call", [module("A_0", 0, 10), annotation("flopcount.call:A", 0, 10)])
def test_a_thread_that_calls_modules_is_no_engine(tmp_path: Path, call: Any) -> None:
    """It calls one without gradients, runs a node that another thread made, and then a metric."""
    number = {"Sequence number": 5, "Fwd thread id": 2}
    other = (1, 3)
    found = report(
        tmp_path,
        mm(0, 1, 5, other),
        call,
        mm(1, 2),
        node("MmBackward0", 20, 30, **number),
        mm(21, 22),
        mm(40, 41),
    )
    phases = {phase: cost.macs for phase, cost in found.phases.items() if cost}
    assert phases == {"forward": 2 * P, "backward": P, "other": P}


@pytest.mark.parametrize("name", ["unattributed", ".", "", "a.b"])
@pytest.mark.parametrize("around", [annotation, module])
def test_what_is_around_an_op_may_have_any_name(tmp_path: Path, name: str, around: Any) -> None:
    found = report(tmp_path, around(name, 0, 10), mm(1, 2))
    assert found.total.macs == sum(node.own.macs for node in found.root.walk()) == P
    assert "total" in str(found)
