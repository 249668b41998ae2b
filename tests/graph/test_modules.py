"""Rows of modules, from the calls that nodes were traced in."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx, nn, ops

from flopcount import Report, count_graph
from flopcount.torch_private.compiler import NO_MODULE

Stack = dict[str, tuple[str, Any]]


def traced(*stacks: Stack | None, key: str = "nn_module_stack", tag: str = "is_forward") -> Report:
    """The report of an exponential of 10 numbers in each of these calls."""
    graph = fx.Graph()
    node = graph.placeholder("x")
    node.meta["val"] = torch.empty(10, device="meta")
    for stack in stacks:
        node = graph.call_function(ops.aten.exp.default, (node,))
        node.meta = {"val": torch.empty(10, device="meta"), key: stack, "partitioner_tag": tag}
    graph.output(node)
    return count_graph(fx.GraphModule(nn.Module(), graph))


def modules(report: Report) -> list[tuple[str, str, int, int]]:
    """Path, class, calls and exponentials of each module itself, parents first."""
    nodes = list(report.root.walk())[1:]
    return [(node.path, node.type, node.calls, node.own.special) for node in nodes]


def test_containers_on_the_way_are_rows_that_are_not_called() -> None:
    report = traced(
        {"a": ("", "package.Model"), "b": ("layers.0.conv", "torch.nn.Conv2d")},
        {"a": ("", "package.Model")},
    )
    assert report.model.name == "Model"
    assert modules(report) == [
        ("", "Model", 1, 10),
        ("layers", "", 0, 0),
        ("layers.0", "", 0, 0),
        ("layers.0.conv", "Conv2d", 1, 10),
    ]


def test_a_key_stands_for_a_call() -> None:
    root = {"a": ("", "Model")}
    inner = ("l", nn.Linear)
    report = traced(*({**root, key: inner} for key in ("b", "b", "b@1", "b@2", "b@1")))
    assert modules(report) == [("", "Model", 1, 0), ("l", "Linear", 3, 50)]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("L['model']", "Linear"),
        ("G['models'][1]", "Linear"),
        ("L['models']['left'][0]", "Linear"),
    ],
)
def test_a_variable_of_the_traced_function_owns_a_root_named_by_its_class(
    path: str, name: str
) -> None:
    report = traced({"a": (path, nn.Linear), "b": (f"{path}.act", nn.ReLU)}, None)
    assert report.model.name == name
    assert modules(report) == [("", "Linear", 1, 0), ("act", "ReLU", 1, 10)]
    assert report.root.own.special == 10  # what remembers no call ran outside


def test_roots_of_one_class_are_told_apart_and_found_again() -> None:
    first, second = {"a": ("L['a']", nn.Linear)}, {"b": ("L['b']", nn.Linear)}
    assert modules(traced(first, second, first)) == [
        ("Linear", "Linear", 1, 20),
        ("Linear#2", "Linear", 1, 10),
    ]


def test_the_traced_forward_owns_what_remembers_no_call() -> None:
    report = traced(None, {"a": ("L['self'].act", nn.ReLU)}, {})
    assert report.model.name == "self"
    assert modules(report) == [("", "", 1, 20), ("act", "ReLU", 1, 10)]


@pytest.mark.parametrize("wrapper", ["_orig_mod", "_checkpoint_wrapped_module"])
def test_wrappers_leave_no_trace(wrapper: str) -> None:
    class Wrapper(nn.Module):
        pass

    stack: Stack = {
        "a": ("L['m']", nn.Sequential),
        "b": ("L['m'].block", Wrapper),
        "c": (f"L['m'].block.{wrapper}", nn.GRU),
        "d": (f"L['m'].block.{wrapper}.act", nn.ReLU),
    }
    assert modules(traced(stack)) == [
        ("", "Sequential", 1, 0),
        ("block", "GRU", 1, 0),
        ("block.act", "ReLU", 1, 10),
    ]


def test_a_node_of_backward_belongs_to_its_forward_and_is_no_call() -> None:
    stack = {"a": ("L['m']", nn.ReLU)}
    report = traced(stack, key="fwd_nn_module_stack", tag="is_backward")
    assert modules(report) == [("", "ReLU", 0, 10)]
    assert report.model.phases["backward"].special == 10


def test_what_a_pass_of_the_exporter_put_in_was_called_by_no_module() -> None:
    root = {"a": ("", "Model")}
    report = traced({NO_MODULE: (NO_MODULE, NO_MODULE)}, root)
    assert modules(report) == [("", "Model", 1, 10)]
    assert report.root.own.special == 10


def test_without_any_call_everything_is_in_the_block() -> None:
    report = traced(None, None)
    assert modules(report) == []
    assert report.root.own.special == 20
