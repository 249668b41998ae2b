"""Compiled functions inside a counter: counted op by op, and compiled again after it."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import nn

from flopcount import FlopCounter


@pytest.fixture(autouse=True)
def _forget_compiled_code() -> None:
    torch._dynamo.reset()


class Backend:
    """Runs the graph as it is, and remembers that it was asked to compile."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self.graphs += 1
        return graph


def test_a_function_first_called_inside_is_counted_and_compiles_afterwards() -> None:
    backend, x = Backend(), torch.ones(4, 8)
    layer = torch.compile(nn.Linear(8, 8), backend=backend, fullgraph=True)
    with FlopCounter() as counter:
        layer(x).sum().backward()
    assert counter.report().total.macs == 2 * 4 * 8 * 8
    assert backend.graphs == 0
    layer(x)
    assert backend.graphs == 1


def test_a_compiled_function_is_counted_and_stays_compiled() -> None:
    backend, x = Backend(), torch.ones(4, 8)
    layer = torch.compile(nn.Linear(8, 8), backend=backend, fullgraph=True)
    layer(x)
    with FlopCounter() as counter:
        layer(x)
    assert counter.report().total.macs == 4 * 8 * 8
    layer(x)
    assert backend.graphs == 1


def test_threads_that_leave_in_another_order_leave_no_trace() -> None:
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
    backend = Backend()
    torch.compile(torch.sin, backend=backend)(torch.ones(2))
    assert backend.graphs == 1
