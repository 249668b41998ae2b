"""Custom autograd functions: what torch looks up when it runs one."""

from __future__ import annotations

import sys
import traceback
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import Function
from torch.utils.checkpoint import CheckpointFunction

from flopcount.torch_private.functions import (
    LOOKS_UP,
    FunctionHook,
    function_name,
    function_of,
    is_function,
    node_class,
    runs_program,
    saved_by,
)

FRAMES: list[list[str]] = []
"""Files on the stack of each function that ran, innermost first."""


class Doubled(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, fails: bool = False) -> Tensor:
        FRAMES.append([frame.filename for frame in traceback.extract_stack()[::-1]])
        if fails:
            raise ValueError
        ctx.save_for_backward(x)
        ctx.number = 3
        return x * 2

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        FRAMES.append([frame.filename for frame in traceback.extract_stack()[::-1]])
        return g * 2, None


class Watcher:
    """Notes what a hook is told."""

    def __init__(self) -> None:
        self.begun: list[tuple[Any, int, bool]] = []
        self.finished: list[Any] = []
        self.alive: list[weakref.ref[Any]] = []

    def begin(self, function: Any, args: Any, node: Any, alive: weakref.ref[Any]) -> Any:
        assert alive() is not None
        self.begun.append((function, len(args), node is not None))
        self.alive.append(alive)
        return self.finished.append


@pytest.fixture
def watcher() -> Iterator[Watcher]:
    watcher = Watcher()
    FRAMES.clear()
    hook = FunctionHook(watcher.begin)
    yield watcher
    hook.remove()


def test_a_hook_sees_arguments_and_results(watcher: Watcher) -> None:
    x = torch.ones(3, requires_grad=True)
    y = Doubled.apply(x, False)
    y.sum().backward()
    assert watcher.begun == [(Doubled, 2, False), (node_class(Doubled), 1, True)]
    result, gradients = watcher.finished
    assert result is y
    assert torch.equal(gradients[0], x.grad)
    assert [alive() for alive in watcher.alive] == [None, None]


def test_an_error_ends_its_life(watcher: Watcher) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        Doubled.apply(torch.ones(3), True)
    assert [alive() for alive in watcher.alive] == [None]
    assert not watcher.finished


def test_no_frame_is_ours(watcher: Watcher) -> None:
    Doubled.apply(torch.ones(3, requires_grad=True)).sum().backward()
    forward, backward = FRAMES
    ours = sys.modules[FunctionHook.__module__].__file__
    assert ours not in backward
    # where Function.apply is written in C, ours stands for it
    assert forward.count(str(ours)) == (0 if LOOKS_UP else 1)


def test_a_node_that_the_program_calls_is_not_watched(watcher: Watcher) -> None:
    node = Doubled.apply(torch.ones(3, requires_grad=True)).grad_fn
    node.apply(torch.ones(3))
    assert len(watcher.begun) == 1


def test_the_hook_of_a_node_is_gone_after_its_run(watcher: Watcher) -> None:
    y = Doubled.apply(torch.ones(3, requires_grad=True))
    for _ in range(3):
        y.sum().backward(retain_graph=True)
    assert len(watcher.finished) == 4


def test_everything_is_as_before_once_all_hooks_are_removed() -> None:
    def looked_up() -> list[Any]:
        names = (Function, "apply"), (node_class(Doubled), "apply"), (Doubled, "apply")
        found = [getattr(holder, name) for holder, name in names]
        return [getattr(method, "__func__", method) for method in found]

    before = looked_up()
    first, second = (FunctionHook(Watcher().begin) for _ in range(2))
    first.remove()
    second.remove()
    assert looked_up() == before
    assert "apply" not in vars(torch.autograd.function._SingleLevelFunction)


def test_names() -> None:
    twin = type("Doubled", (Doubled,), {})
    names = {function_name(f) for f in (Doubled, twin, node_class(Doubled), node_class(twin))}
    assert len(names) == 4
    assert function_of(node_class(Doubled)) is Doubled
    assert is_function(Doubled)
    assert is_function(node_class(Doubled))
    assert not is_function(torch.relu)
    assert runs_program(CheckpointFunction)
    assert not runs_program(Doubled)


def test_what_a_node_keeps() -> None:
    x = torch.ones(3, requires_grad=True)
    y = Doubled.apply(x)  # a node that no result holds has let go of what it kept
    kept, is_all = saved_by(y.grad_fn)
    assert is_all
    assert kept[0].data_ptr() == x.data_ptr()
    assert kept[1:] == [3]
    with torch.autograd.graph.saved_tensors_hooks(lambda t: None, lambda _: x):
        y = Doubled.apply(x)
    kept, is_all = saved_by(y.grad_fn)
    assert not is_all
    assert kept == [3]
    y.sum().backward()
    assert saved_by(y.grad_fn) == ([3], True)
