"""Autograd: nodes, the passes that run them, and the hooks around them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.utils.checkpoint
from torch.nn.modules import module as modules_of_nn

from flopcount.torch_private.compiler import compiles_backward, without_compiled_autograd
from flopcount.torch_private.frames import CHECKPOINT

running_node: Callable[[], Any] = torch._C._current_autograd_node
"""The autograd node that this thread is evaluating, or None outside backward."""

next_sequence_nr: Callable[[], int] = torch.autograd._get_sequence_nr  # type: ignore[attr-defined]
"""The number that the next autograd node created by this thread will carry."""

backward_task: Callable[[], int] = torch._C._current_graph_task_id
"""A number that is new for every backward pass, and -1 outside of one."""

NO_SEQUENCE_NR = 2**64 - 1
"""What ``node._sequence_nr()`` returns for an AccumulateGrad node."""

GRADIENT_ORDER: dict[str, tuple[int, int]] = {
    "AddmmBackward0": (1, 2),
    "MmBackward0": (1, 0),
    "BmmBackward0": (1, 0),
    "LinearBackward0": (0, 1),
}
"""Which input's gradient a matmul node computes first, and which second: indices in
``node.next_functions``, as in ``mm(self, mat2)``, ``addmm(self, mat1, mat2)``. Autograd's generated
code takes inputs in alphabetical order of their names. A nested input makes a ``linear`` node."""


def will_execute(node: Any) -> bool:
    """Whether the running backward pass wants the gradient that flows into ``node``."""
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:  # raised for the leaves that autograd.grad() asks for
        return True


def notes_of(node: Any) -> dict[Any, Any]:
    """A dictionary for notes about an autograd node, which lives as long as the node."""
    notes: dict[Any, Any] = node.metadata
    return notes


ANY_BACKWARD_HOOKS: Mapping[int, Any] = modules_of_nn._global_backward_hooks
ANY_BACKWARD_PRE_HOOKS: Mapping[int, Any] = modules_of_nn._global_backward_pre_hooks
"""Hooks that see the gradients of all modules. A module's own are in ``_backward_hooks``."""


def hook_nodes(module: torch.nn.Module, results: Any) -> int:
    """How many nodes torch puts around ``results`` after the forward hooks: for backward hooks."""
    hooks = (*module._get_backward_hooks()[0], *module._get_backward_pre_hooks())
    outputs = results if isinstance(results, tuple) else (results,)
    needed = any(isinstance(output, torch.Tensor) and output.requires_grad for output in outputs)
    return int(bool(hooks) and needed and torch.is_grad_enabled())


Hooks = tuple[Callable[..., Any], Callable[..., Any]]

saved_tensor_hooks: Callable[[bool], Hooks | None]
saved_tensor_hooks = torch._C._autograd._top_saved_tensors_default_hooks
"""The innermost open hooks on saved tensors of this thread. True leaves out those of tracers."""


def of_checkpoint(hooks: Hooks) -> bool:
    """Whether a non-reentrant checkpoint opened these hooks, for a first run or a later one."""
    code = getattr(hooks[1], "__code__", None)
    return code is not None and code.co_filename == CHECKPOINT


CHECKPOINT_NODE: type = torch.utils.checkpoint.CheckpointFunction._backward_cls
"""The class of a reentrant checkpoint's node, which runs the function again."""

VARIABLE: Any = torch.autograd.Variable
"""It holds the autograd engine that ``backward()`` and ``autograd.grad()`` call."""


class EagerEngine(torch._C._ImperativeEngine):
    """Runs one pass node by node, though compiled autograd is on.

    torch holds this object while the pass runs, and no longer. So compiled autograd is on again
    when the pass is over, and no frame is added to it.
    """

    def __init__(self) -> None:
        self._without = without_compiled_autograd()
        self._without.__enter__()

    def __del__(self) -> None:
        self._without.__exit__(None, None, None)


class BackwardPreHook(torch._C._ImperativeEngine):
    """Calls ``hook`` before each backward pass, in the thread that calls it, until removed.

    torch has no such hook for all passes, as it has for all modules and optimizers. This object
    takes the place of the engine, and ``backward()`` looks up ``run_backward`` in it. That adds no
    frame, so a warning still names the same line of the program.
    """

    _lock = threading.RLock()  # garbage collection may close a counter meanwhile

    def __init__(self, hook: Callable[[], None]) -> None:
        self._hook: Callable[[], None] | None = hook
        with self._lock:
            self._engine = VARIABLE._execution_engine
            VARIABLE._execution_engine = self

    @property
    def run_backward(self) -> Any:
        """torch's own method; the hook runs when torch looks it up."""
        if self._hook:
            self._hook()
        is_last = not isinstance(self._engine, BackwardPreHook)
        engine = EagerEngine() if is_last and compiles_backward() else self._engine
        return engine.run_backward

    def remove(self) -> None:
        """Stop calling the hook; once all are removed, torch has its own engine back."""
        with self._lock:
            self._hook = None
            while isinstance(top := VARIABLE._execution_engine, BackwardPreHook) and not top._hook:
                VARIABLE._execution_engine = top._engine

    @classmethod
    def renew_lock(cls) -> None:
        """Forget who holds the lock, in a forked process where that thread is not."""
        cls._lock = threading.RLock()
