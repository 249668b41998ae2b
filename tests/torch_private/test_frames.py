"""Frames: which modules, steps and backward passes are open on a thread's stack."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from flopcount.torch_private.autograd import (
    backward_task,
    running_node,
)
from flopcount.torch_private.frames import (
    backward_calls,
    called_by_functional,
    checkpoint_recomputes,
    open_calls,
)
from tests.torch_private.ops import Ops


class TestFrames:
    def test_open_calls_lists_modules_innermost_first(self) -> None:
        seen: list[list[object]] = []

        class Look(nn.Module):
            def forward(self, value: int) -> int:
                seen.append([*open_calls()])
                return value

        model = nn.Sequential(nn.Sequential(Look()))
        model(1)
        assert [id(call) for call in seen[0]] == [id(model[0][0]), id(model[0]), id(model)]
        assert [*open_calls()] == []

    def test_open_calls_lists_a_step(self, x: Tensor) -> None:
        seen: list[list[object]] = []
        optimizer = torch.optim.SGD([x])
        optimizer.register_step_pre_hook(lambda *args: seen.append([*open_calls()]))
        optimizer.step()
        assert seen == [[optimizer]]

    def test_a_method_of_a_module_is_no_call_of_it(self) -> None:
        class Model(nn.Module):
            def method(self) -> list[object]:
                return [*open_calls()]

        assert Model().method() == []

    def test_called_by_functional(self, x: Tensor) -> None:
        class Look(TorchDispatchMode):
            @classmethod
            def _should_skip_dynamo(cls) -> bool:
                return False  # else a frame of torch's stands between

            def __torch_dispatch__(
                self, func: Any, types: Any, args: Any = (), kwargs: Any = None
            ) -> Any:
                seen.append((func.overloadpacket, called_by_functional()))
                return func(*args, **(kwargs or {}))

        seen: list[tuple[Any, bool]] = []
        with Look():
            nn.Dropout()(x)
            torch.empty_like(x)
        calls = [is_functional for op, is_functional in seen if op is torch.ops.aten.empty_like]
        assert calls == [True, False]

    def test_backward_calls_say_whether_they_are_recorded_the_innermost_first(
        self, x: Tensor
    ) -> None:
        seen: list[list[bool]] = []
        x.register_hook(lambda grad: seen.append(backward_calls()))
        x.exp().sum().backward()
        torch.autograd.grad(x.exp().sum(), x, create_graph=True)
        torch.autograd.backward(x.exp().sum(), create_graph=True)

        def again(grad: Tensor) -> None:
            with torch.enable_grad():
                torch.autograd.grad(x.exp().sum(), x)

        y = x.sin()
        y.register_hook(again)
        torch.autograd.grad(y.sum(), x, create_graph=True)
        assert seen == [[False], [True], [True], [False, True], [True]]
        assert backward_calls() == []

    def test_a_checkpoint_recomputes_in_backward_only(self, x: Tensor, reentrant: bool) -> None:
        seen: list[tuple[bool, bool]] = []

        def run(value: Tensor) -> Tensor:
            seen.append((backward_task() != -1, checkpoint_recomputes()))
            return value.exp().sin()

        y = checkpoint(run, x, use_reentrant=reentrant)
        with Ops(
            lambda func, args: (func._schema.name, running_node() and checkpoint_recomputes())
        ) as ops:
            y.sum().backward()
        assert seen[1] == (True, True)
        assert ("aten::exp", True) in ops.seen
        # what the reentrant kind runs backward through is a pass of its own
        assert ("aten::cos", False) in ops.seen
