"""The private torch names that flopcount stands on; nothing else in the package uses any.

``tests/test_private.py`` says, name by name, what each one promises.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass_type

__all__ = [
    "GRADIENT_ORDER",
    "NO_SEQUENCE_NR",
    "TorchDispatchMode",
    "backward_task",
    "bound_call",
    "is_traceable_wrapper_subclass_type",
    "next_sequence_nr",
    "running_node",
    "will_execute",
]

running_node: Callable[[], Any] = torch._C._current_autograd_node
"""The autograd node that this thread is evaluating, or None outside backward."""

next_sequence_nr: Callable[[], int] = torch.autograd._get_sequence_nr  # type: ignore[attr-defined]
"""The number that the next autograd node created by this thread will carry."""

backward_task: Callable[[], int] = torch._C._current_graph_task_id
"""A number that is new for every backward pass, and -1 outside of one."""

NO_SEQUENCE_NR = 2**64 - 1
"""What ``node._sequence_nr()`` answers for an AccumulateGrad node."""

GRADIENT_ORDER: dict[str, tuple[int, int]] = {
    "AddmmBackward0": (1, 2),
    "MmBackward0": (1, 0),
    "BmmBackward0": (1, 0),
}
"""Which of its inputs' gradients a matmul node computes first, and which second.

The numbers index ``node.next_functions``: ``mm(self, mat2)``, ``addmm(self, mat1, mat2)``.
Autograd's generated code takes the inputs in alphabetical order of their names.
"""


def bound_call(op: Any) -> Callable[..., Any]:
    """What calling ``op`` comes down to; an OpOverload's own call is a Python frame around it."""
    return op._op if type(op) is torch._ops.OpOverload else op


def will_execute(node: Any) -> bool:
    """Whether the running backward pass wants the gradient that flows into ``node``."""
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:  # raised for the very leaves that autograd.grad() asks for
        return True
