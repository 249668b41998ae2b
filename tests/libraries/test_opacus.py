"""Opacus: its wrapper leaves no row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from flopcount import FlopCounter
from tests.attribution.units import batch, linear, paths

opacus: Any = pytest.importorskip("opacus")

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("given", ["wrapper", "module", "nothing"])
def test_the_module_that_keeps_gradients_of_samples(given: str) -> None:
    model = nn.Sequential(linear(), linear())
    wrapped = opacus.GradSampleModule(model)
    with FlopCounter({"wrapper": wrapped, "module": model, "nothing": None}[given]) as counter:
        wrapped(batch()).sum().backward()
    report = counter.report()
    assert paths(report) == ["", "0", "1"]
    assert report.model.type == "Sequential"
    assert report.model.total.macs == report.total.macs


def test_the_step_of_a_private_optimizer() -> None:
    """It does not call ``Optimizer.__init__``, and clips and adds noise with gradients on.

    For 4 samples of 64 weights: norms, clipping by a sum over the samples, noise and its scale.
    """
    layer = linear()
    sgd = torch.optim.SGD(layer.parameters(), lr=0.1, foreach=False)
    private = opacus.optimizers.DPOptimizer(
        sgd, noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=4
    )
    sampled = opacus.GradSampleModule(layer)
    with FlopCounter(layer) as counter:
        for _ in range(2):
            private.zero_grad()
            sampled(batch()).square().sum().backward()
            private.step()
    report = counter.report()
    per_sample = 4 * 64
    assert report.phases["optimizer"].macs == 2 * per_sample  # gradients times what clips them
    assert report.phases["optimizer"].flops > 2 * (2 * per_sample + 2 * 64 + 2 * 64)
    assert report.phases["other"].flops == 0
    outside = report.root.phases["forward"].flops - report.model.phases["forward"].flops
    assert outside == 2 * (32 + 31)  # the loss, no part of a step
