"""Lightning's Fabric: its wrapper leaves no row."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flopcount import FlopCounter, FlopcountError
from flopcount.cli import torchvision_models
from tests.attribution.units import batch, linear, paths, units

with suppress(FlopcountError):
    torchvision_models.load()  # lightning imports torchvision where it is installed
lightning: Any = pytest.importorskip("lightning")

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def fabric() -> Any:
    return lightning.Fabric(accelerator="cpu", devices=1)


@pytest.mark.parametrize("given", ["wrapper", "module", "nothing"])
def test_fabric_sets_a_model_up(fabric: Any, given: str) -> None:
    model = nn.Sequential(linear(), linear())
    wrapped, optimizer = fabric.setup(model, torch.optim.SGD(model.parameters()))
    with FlopCounter({"wrapper": wrapped, "module": model, "nothing": None}[given]) as counter:
        fabric.backward(wrapped(batch()).sum())
        optimizer.step()
    report = counter.report()
    assert paths(report) == ["", "0", "1"]
    assert report.model.type == "Sequential"
    assert units(report.model) == {"forward": 2, "backward": 3}


def test_fabric_calls_a_method_of_the_module(fabric: Any) -> None:
    class Task(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.layer = linear()

        def training_step(self, x: Tensor) -> Tensor:
            return self.layer(x).sum()

    task = fabric.setup(Task())
    with FlopCounter(task) as counter:
        fabric.backward(task.training_step(batch()))
    report = counter.report()
    assert paths(report) == ["", "layer"]
    assert units(report.model) == {"forward": 1, "backward": 1}


def test_fabric_sets_two_models_up(fabric: Any) -> None:
    generator, critic = (fabric.setup(nn.Sequential(linear())) for _ in range(2))
    with FlopCounter({"G": generator, "D": critic}) as counter:
        fabric.backward(critic(generator(batch())).sum())
    report = counter.report()
    assert paths(report) == ["G", "G.0", "D", "D.0"]
    assert units(report["D"]) == {"forward": 1, "backward": 2}
