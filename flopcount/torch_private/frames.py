"""What the frames of this thread tell about its callers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType

import torch
import torch.utils.checkpoint

RUN_BACKWARD = torch.autograd.graph._engine_run_backward.__code__
STEP_CALL = torch.optim.Optimizer.profile_hook_step(print).__code__
"""What wraps the step() of every class whose instances call ``Optimizer.__init__``."""

CALLS = (torch.nn.Module._call_impl.__code__, STEP_CALL)

UPKEEP_FILES = frozenset({torch.nn.utils.clip_grad.__file__, torch.amp.grad_scaler.__file__})
"""Where the functions stand that look after gradients before an optimizer steps."""

FUNCTIONAL = torch.nn.functional.__file__


def frames() -> Iterator[FrameType]:
    """The frames of this thread, innermost first: that of the caller, and so on."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        yield frame
        frame = frame.f_back


def open_calls() -> Iterator[object]:
    """The modules that are being called and the optimizers that step, innermost first."""
    return (frame.f_locals.get("self") for frame in frames() if frame.f_code in CALLS)


def backward_calls() -> list[bool]:
    """Whether each open call of backward is recorded (``create_graph=True``), innermost first."""
    calls = (frame for frame in frames() if frame.f_code is RUN_BACKWARD)
    return [any(frame.f_locals["args"][2:3]) for frame in calls]  # after gradients, retain_graph


def called_by_functional() -> bool:
    """Whether the op that the caller handles is run by a function of ``torch.nn.functional``."""
    caller = sys._getframe(1).f_back  # None in a thread that runs no Python else
    return caller is not None and caller.f_code.co_filename == FUNCTIONAL


def sharding_is_planned() -> bool:
    """Whether DTensor runs an op on fake tensors of global size, to find its result's sharding."""
    return "torch.distributed.tensor" in sys.modules and any(
        frame.f_code.co_filename.endswith("_sharding_prop.py") for frame in frames()
    )


CHECKPOINT = torch.utils.checkpoint.__file__


def checkpoint_recomputes() -> bool:
    """Whether torch.utils.checkpoint is running inside the innermost backward pass."""
    for frame in frames():
        if frame.f_code is RUN_BACKWARD:
            return False
        if frame.f_code.co_filename == CHECKPOINT:
            return True
    return False
