"""Ranges that a program marks in the recording of torch.profiler."""

from __future__ import annotations

import torch

Range = torch._C._profiler._RecordFunctionFast
"""A context that the recording shows under its name: a tenth of the time of ``record_function``."""


def is_recording() -> bool:
    """Whether torch.profiler records in this process; it cannot twice at once."""
    return bool(torch.autograd.profiler._is_profiler_enabled)
