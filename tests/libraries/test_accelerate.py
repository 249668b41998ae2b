"""accelerate: its optimizer wraps another, and clips by the accelerator."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from flopcount import FlopCounter
from tests.attribution.units import batch, linear, paths, units

accelerate: Any = pytest.importorskip("accelerate")

pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_step_with_accumulation_and_clipping() -> None:
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = nn.Sequential(linear(), linear())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=False)
    wrapped, stepper = accelerator.prepare(model, optimizer)
    with FlopCounter(model) as counter:
        for _ in range(2):
            with accelerator.accumulate(wrapped):
                accelerator.backward(wrapped(batch()).sum())
                accelerator.clip_grad_norm_(wrapped.parameters(), 1.0)
                stepper.step()
                stepper.zero_grad()
    report = counter.report()
    assert paths(report) == ["", "0", "1"]
    assert units(report) == {"forward": 4, "backward": 6}
    assert report.phases["optimizer"].flops == 2 * (2 * 64)  # one step of two batches
    assert report.phases["other"].flops >= 2 * 64
