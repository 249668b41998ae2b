"""The unit of these tests: one product of a 4 × 8 and an 8 × 8 matrix."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from flopcount import FlopCounter

PRODUCT = 4 * 8 * 8
"""MACs of a Linear(8, 8) on a 4 × 8 input."""


def linear() -> nn.Linear:
    return nn.Linear(8, 8, bias=False)


def batch() -> Tensor:
    return torch.ones(4, 8)


def mm() -> Tensor:
    return torch.mm(batch(), torch.ones(8, 8))


def pair() -> nn.Sequential:
    return nn.Sequential(linear(), nn.Tanh(), linear())


def products(counter: FlopCounter) -> float:
    """What a counter has counted, in units."""
    return counter.report().total.macs / PRODUCT


def close(counter: FlopCounter) -> None:
    """Leave a counter without a block."""
    counter.__exit__(None, None, None)


def run_aside(work: Callable[[], object], name: str | None = None) -> None:
    """Run ``work`` in a thread of its own, and raise what it raises."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name=name)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


def run_afresh(work: Callable[[], object]) -> None:
    """Run ``work``, a function of a module, in a new process, where nothing else has run.

    torch refuses to run backward in a forked process if its parent's engine has threads.
    """
    process = multiprocessing.get_context("spawn").Process(target=work)
    process.start()
    assert ended_well(process)


def ended_well(process: Any) -> bool:
    """Whether a process ends within a minute, without an error; if not, it is killed.

    Python waits at its own end for processes that go on.
    """
    process.join(60)
    if process.is_alive():
        process.kill()
        return False
    return bool(process.exitcode == 0)
