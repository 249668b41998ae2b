"""Training steps of architectures of torchvision, timm and Hugging Face, under three counters.

Vision models are built on meta in train mode. They take a batch of two at their default size, since
a batch norm needs more than one value, and their loss is the sum of their outputs. Hugging Face's
models are small and on the CPU, since some look at values; they have their own loss.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.accuracy.steps import compare
from benchmarks.accuracy.verdicts import Row
from benchmarks.progress import progress
from benchmarks.training import loss_of
from flopcount.cli import torchvision_models

__all__ = ["huggingface_rows", "timm_rows", "torchvision_rows"]

BATCH = 2

EVERY = 6
"""One in so many models of each module of timm is counted."""


def torchvision_rows(quick: bool) -> Iterator[Row]:
    """All models but detectors, which need targets, and quantised ones, which cannot train."""
    from tests.test_torchvision import QUICK, STEPS

    for name in progress([name for name in STEPS if name in QUICK or not quick], "torchvision"):
        model = torchvision_models.build(name, meta=True).train()
        with torch.device("meta"):
            inputs = torchvision_models.example_inputs(name, BATCH)
        yield compare(name, partial(summed, model, *inputs))


def timm_names(quick: bool) -> list[str]:
    """Every sixth model of each module of timm, from the alphabet's end: the small ones.

    Each module has at least one. If ``quick``, only that one, of every other module.
    """
    import timm

    if quick:
        return [timm.list_models(module=module)[-1] for module in timm.list_modules()[::2]]
    models = [timm.list_models(module=module)[::-1] for module in timm.list_modules()]
    return [name for of_module in models for name in of_module[::EVERY]]


def timm_rows(quick: bool) -> Iterator[Row]:
    """Rows of the models that ``timm_names`` chooses."""
    torchvision_models.load()  # timm imports torchvision
    import timm

    for name in progress(timm_names(quick), "timm"):
        with torch.device("meta"):
            model: Any = timm.create_model(name).train()
            images = torch.empty(BATCH, *model.default_cfg["input_size"])
        yield compare(name, partial(summed, model, images))


def huggingface_rows(quick: bool) -> Iterator[Row]:
    """Rows of the architectures that tests/libraries holds; if ``quick``, of every third."""
    from tests.libraries.test_transformers import ARCHITECTURES, hub

    hub.logging.set_verbosity_error()
    for name in progress([*ARCHITECTURES][:: 3 if quick else 1], "Hugging Face"):
        configure, inputs = ARCHITECTURES[name]
        torch.manual_seed(0)
        random.seed(0)  # some drop whole layers, by chance
        model = getattr(hub, name)(configure()).train()
        yield compare(name, partial(own_loss, model, inputs))


def summed(model: nn.Module, *inputs: Any) -> Tensor:
    return loss_of(model(*inputs))


def own_loss(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    output = model(**inputs)
    loss: Tensor | None = output.get("loss")
    if loss is None:
        loss = next(value for value in output.values() if isinstance(value, Tensor)).sum()
    return loss
