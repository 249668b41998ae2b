"""Counters in callbacks of Lightning, which ends its callbacks in the order of the list."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from flopcount import FlopCounter, FlopcountError
from flopcount.cli import torchvision_models
from flopcount.torch_private.modes import modes

with suppress(FlopcountError):
    torchvision_models.load()  # lightning imports torchvision where it is installed
lightning: Any = pytest.importorskip("lightning")

pytestmark = pytest.mark.filterwarnings("ignore")

STEPS = 3
PRODUCT = 4 * 8 * 8
"""MACs of a Linear(8, 8) on a 4 × 8 batch."""


class Model(lightning.LightningModule):
    """Two layers: a step takes 2 products forward and 1 + 2 backward. A validation step takes 2."""

    def __init__(self, failing: int = -1) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
        self.failing = failing

    def training_step(self, x: Tensor, index: int) -> Tensor:
        loss: Tensor = self.layers(x).mean()
        if index == self.failing:
            raise ValueError("of the user's own")
        return loss

    def validation_step(self, x: Tensor, index: int) -> None:
        self.layers(x)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class EachStep(lightning.Callback):
    """Counts each training step."""

    def __init__(self) -> None:
        self.counter = FlopCounter()

    def on_train_batch_start(self, *args: Any) -> None:
        self.counter.start()

    def on_train_batch_end(self, *args: Any) -> None:
        self.counter.stop()


class WholeFit(lightning.Callback):
    """Counts all that fit() does, but for validation."""

    def __init__(self) -> None:
        self.counter = FlopCounter()

    def on_fit_start(self, *args: Any) -> None:
        self.counter.start()

    def on_fit_end(self, *args: Any) -> None:
        self.counter.stop()

    def on_exception(self, *args: Any) -> None:
        self.counter.stop()

    def on_validation_start(self, *args: Any) -> None:
        self.counter.stop()

    def on_validation_end(self, *args: Any) -> None:
        self.counter.start()


class Nested(lightning.Callback):
    """Enters and exits, as a block does."""

    def __init__(self) -> None:
        self.counter = FlopCounter()

    def on_train_batch_start(self, *args: Any) -> None:
        self.counter.__enter__()

    def on_train_batch_end(self, *args: Any) -> None:
        self.counter.__exit__()


def fit(model: Model, *callbacks: Any, **options: Any) -> None:
    trainer = lightning.Trainer(
        max_epochs=1,
        callbacks=list(callbacks),
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )
    batches = DataLoader(torch.ones(4 * STEPS, 8), batch_size=4)
    trainer.fit(model, batches, batches)


def products(callback: Any) -> dict[str, float]:
    phases = callback.counter.report().phases
    return {phase: cost.macs / PRODUCT for phase, cost in phases.items() if cost.macs}


WHOLE = {"forward": 2 * STEPS, "backward": 3 * STEPS}


@pytest.mark.parametrize("kinds", [(EachStep, EachStep), (Nested, Nested), (Nested, EachStep)])
def test_two_callbacks_count_the_same_and_leave_nothing(kinds: Any) -> None:
    first, second = (kind() for kind in kinds)
    fit(Model(), first, second)
    assert modes() == []
    assert products(first) == products(second) == WHOLE
    assert first.counter.report().total == second.counter.report().total


def test_validation_is_left_out_of_a_whole_fit() -> None:
    each, whole = EachStep(), WholeFit()
    fit(Model(), whole, each)
    assert modes() == []
    assert products(whole) == products(each) == WHOLE


def test_a_step_that_raises() -> None:
    """The second step ran forward, and its end did not come. A later fit() adds its steps."""
    each, whole = EachStep(), WholeFit()
    with pytest.raises(ValueError, match="of the user's own"):
        fit(Model(failing=1), each, whole)
    assert products(whole) == {"forward": 2 * 2, "backward": 3}
    assert modes() == [each.counter]
    fit(Model(), each, whole)
    assert modes() == []
    assert products(each) == {"forward": 2 * (2 + STEPS), "backward": 3 * (1 + STEPS)}
    assert products(whole) == products(each)


@pytest.mark.parametrize("clip", [None, 1.0])
def test_phases_of_a_fit(clip: float | None) -> None:
    """The step of the whole batch is the closure of the optimizer's step."""
    model, callback = Model(), EachStep()
    fit(model, callback, gradient_clip_val=clip)
    phases = callback.counter.report().phases
    weights = 2 * 64
    assert phases["forward"].macs == STEPS * 2 * PRODUCT
    assert phases["backward"].macs == STEPS * 3 * PRODUCT
    assert phases["optimizer"].flops == STEPS * 2 * weights
    assert (phases["other"].flops >= STEPS * 2 * weights) == (clip is not None)
