"""What is asked: one tool about one case, in a process of its own, in the peers' environment."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmarks.peers import programs
from benchmarks.peers.cases import LAYERS, NETWORKS, Case, weights
from benchmarks.peers.isolation import Died, Hung, apart, preload
from benchmarks.peers.tools import TOOLS

__all__ = ["Job", "answer", "ask", "case_of", "get_ready"]


class Job(NamedTuple):
    """A question.

    Attributes:
        kind: of which collection: layers, networks, weights, programs; or memory, of a network.
        name: which case of it.
        direction: forward, or step: forward and backward.
    """

    kind: str
    name: str
    direction: str = "forward"


SECONDS = {"layers": 60, "networks": 200, "weights": 200, "programs": 60, "memory": 200}
"""How long a question may take, many times what it should."""


def case_of(job: Job) -> Case:
    """The case that a job is about."""
    if job.kind == "weights":
        return weights()[job.name][0]
    return {"layers": LAYERS, "networks": NETWORKS}[job.kind][job.name]


@contextmanager
def blank() -> Iterator[None]:
    """In this block layers start as zeros, which takes less time, and costs the same to count."""

    def zeros(tensor: Tensor, *args: Any, **options: Any) -> Tensor:
        return tensor.detach().zero_()

    names = [name for name in vars(nn.init) if name.endswith("_") and not name.startswith("_")]
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(patch.object(nn.init, name, zeros))
        yield


def answer(tool: str, job: Job) -> dict[str, Any]:
    """What ``tool`` says: MACs, or what it raised; about a program, whether it is right."""
    torch.set_num_threads(1)
    if job.kind == "programs":
        return programs.verdict(job.name, tool)
    torch.manual_seed(0)
    try:
        if job.kind == "memory":
            return memory(tool, job.name)
        with blank():
            model, args = case_of(job).build()
        measure = getattr(TOOLS[tool], job.direction)
        found = measure(model.train(job.direction == "step"), args)
        return {"macs": float(found.macs), "mixed": found.mixed}
    except Exception as error:
        return {"error": type(error).__name__, "message": str(error)[:200]}


def memory(tool: str, name: str) -> dict[str, Any]:
    """Bytes by which asking about a model's forward exceeds what the model itself takes."""
    with blank():
        model, args = NETWORKS[name].build()
    model.eval()(*args)
    before = peak()
    TOOLS[tool].forward(model, args)
    return {"bytes": peak() - before}


def peak() -> int:
    """The most memory that this process has had, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def get_ready(tool: str) -> None:
    """Import once, for all processes that are asked; torchvision comes before other packages."""
    preload(["benchmarks.peers.jobs", TOOLS[tool].module])


def ask(tool: str, job: Job) -> dict[str, Any]:
    """The answer of ``tool``, from a process of its own."""
    try:
        found: dict[str, Any] = apart(answer, tool, job, seconds=SECONDS[job.kind])
    except (Died, Hung) as error:
        return {"error": type(error).__name__, "message": ""}
    return found
