"""The models of the README and the guide cost what they did: ``__flops__`` has their baselines."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from flopcount.cli import torchvision_models
from flopcount.pytest_plugin import FlopBaseline, FlopBudget


@pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is not installed")
def test_a_training_step_of_resnet50(flop_baseline: FlopBaseline) -> None:
    """The step of ``flopcount resnet50 --train``."""
    model = torchvision_models.build("resnet50", meta=True)
    optimizer = torch.optim.SGD(model.parameters())
    (images,) = torchvision_models.example_inputs("resnet50")
    with flop_baseline("step", model=model) as counter:
        model(images.to("meta")).sum().backward()
        optimizer.step()
    phases = counter.report().phases
    assert (phases["forward"].macs, phases["backward"].macs) == (4_089_184_256, 8_060_354_560)


@pytest.fixture
def step() -> Callable[[], None]:
    """The first step of ``docs/models.md``."""
    model = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 10))
    optimizer = torch.optim.AdamW(model.parameters())
    x, y = torch.randn(32, 64), torch.zeros(32, dtype=torch.int64)

    def step() -> None:
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


@pytest.mark.flop_budget(equal="3_008_392 FLOP", backward="688_128 MAC")
def test_a_training_step_of_the_perceptron(
    step: Callable[[], None], flop_baseline: FlopBaseline, flop_budget: FlopBudget
) -> None:
    """All figures that the page prints, held by a marker, a block and a baseline."""
    with flop_baseline("step"), flop_budget(forward="606_208 MAC", modules={"2": "245_760 MAC"}):
        step()
