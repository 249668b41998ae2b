"""Traced programs for the tests: what AOT autograd makes of a function."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from flopcount import Report

Partition = Callable[..., tuple[fx.GraphModule, fx.GraphModule]]


U = 4 * 8 * 8
"""MACs of a Linear(8, 8) on a 4 × 8 input: 4 × 8 dot products of length 8."""


class ConvNet(nn.Module):
    """A convolution with batch norm, and what a classifier needs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.flatten(self.pool(self.stem(x)), 1))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))


def keeping() -> tuple[Callable[..., Any], list[fx.GraphModule]]:
    """A backend of ``torch.compile`` that runs graphs as they are, and the graphs it was given."""
    graphs: list[fx.GraphModule] = []

    def backend(graph: fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    return backend, graphs


def compiled(
    function: Callable[..., Tensor],
    *args: Tensor,
    partition: Partition | None = None,
    dynamic: bool = False,
) -> dict[str, fx.GraphModule]:
    """The graphs of a step: what a compiler gets, and the joint graph that it was cut from."""
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch.aot_autograd import make_boxed_func
    from torch._functorch.partitioners import default_partition

    graphs: dict[str, fx.GraphModule] = {}

    def keep(name: str) -> Callable[..., Any]:
        def compile_graph(module: fx.GraphModule, inputs: Any) -> Any:
            graphs[name] = module
            return make_boxed_func(module.forward)

        return compile_graph

    def cut(joint: fx.GraphModule, *args: Any, **kwargs: Any) -> Any:
        graphs["joint"] = copy.deepcopy(joint)
        return (partition or default_partition)(joint, *args, **kwargs)

    backend = aot_autograd(
        fw_compiler=keep("forward"), bw_compiler=keep("backward"), partition_fn=cut
    )
    torch._dynamo.reset()
    torch.compile(function, backend=backend, dynamic=dynamic)(*args).sum().backward()
    torch._dynamo.reset()
    return graphs


def rows(report: Report) -> list[str]:
    """The rows of a report in an order of their own."""
    return sorted(map(str, report.rows()))


def macs(report: Report) -> dict[str, dict[str, int]]:
    """MACs of each phase that has any, by module."""
    return {
        node.path: {phase: cost.macs for phase, cost in node.phases.items() if cost.macs}
        for node in report.model.walk()
    }
