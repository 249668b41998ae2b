"""Every program of the catalogue has the rows derived for it, and runs as it would alone."""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from flopcount import Cost, FlopCounter, Report, UnwatchedThreadWarning
from flopcount.report.tree import sum_rows
from tests.programs import PROGRAMS, Program, Row, U

EACH = pytest.mark.parametrize("name", PROGRAMS)


@pytest.fixture(autouse=True)
def quiet() -> Any:
    """What torch has to say about unusual programs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def counted(program: Program, device: str) -> Report:
    model, step = program.made(device, lambda: counter)
    counter = FlopCounter(model)
    with counter:
        step()
    with pytest.warns(UnwatchedThreadWarning) if program.warns else nullcontext():
        return counter.report()


def row(phases: Mapping[str, Cost], calls: int) -> Row:
    return Row(calls=calls, **{phase: cost.matmul_flops / U for phase, cost in phases.items()})


def assert_has_its_rows(program: Program, device: str) -> None:
    report = counted(program, device)
    block, *nodes = report.root.walk()
    assert {node.path: row(node.phases, node.calls) for node in nodes} == program.rows
    outside, _ = sum_rows(block.rows)
    assert row(outside, calls=1) == program.outside
    assert report.uncounted == program.uncounted


@EACH
def test_each_module_has_its_rows(name: str) -> None:
    assert_has_its_rows(PROGRAMS[name], "cpu")


@pytest.mark.parametrize("name", [name for name in PROGRAMS if "thread" in name])
def test_threads_have_their_rows_where_all_number_their_nodes_alike(name: str) -> None:
    """In a new process the first thread, too, numbers nodes from 0."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.programs"])
    with context.Pool(1) as pool:
        pool.apply_async(assert_has_its_rows, (PROGRAMS[name], "cpu")).get(timeout=60)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@EACH
def test_each_module_has_the_same_rows_where_backward_has_a_thread_of_its_own(name: str) -> None:
    assert_has_its_rows(PROGRAMS[name], "cuda")


@EACH
def test_results_and_hooks_are_those_of_the_program_alone(name: str) -> None:
    def run(program: Program, *, count: bool) -> tuple[list[Tensor], list[int]]:
        model, step = program.made("cpu", lambda: counter)
        counter = FlopCounter(model) if count else nullcontext()
        with counter:
            results = tree_leaves(step())
        if model is None:
            return results, []
        results += [parameter.grad for parameter in model.parameters()]
        hooks = [hook for module in model.modules() for hook in hooks_of(module)]
        return results, [*map(len, hooks)]

    def hooks_of(module: torch.nn.Module) -> list[Any]:
        return [value for key, value in vars(module).items() if key.endswith("_hooks")]

    (alone, hooks), (watched, hooks_watched) = (
        run(PROGRAMS[name], count=count) for count in (False, True)
    )
    assert hooks_watched == hooks
    assert len(watched) == len(alone)
    for a, b in zip(watched, alone, strict=True):
        assert a is b is None or torch.equal(a, b)
