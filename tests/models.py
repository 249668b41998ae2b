"""The models of the benchmarks at a size that a test runs in a blink, each with its inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks import models


def tokens() -> torch.Tensor:
    return torch.arange(2 * 12).reshape(2, 12) % 50


SMALL: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "GPT-2": lambda: (models.GPT2(2, 32, 4, 50), tokens()),
    "BERT": lambda: (models.BERT(2, 32, 4, 50), tokens()),
    "Llama": lambda: (models.Llama(2, 32, 4, 2, 48, 50), tokens()),
    "ViT": lambda: (models.ViT(2, 32, 4, 4, 16), torch.randn(2, 3, 16, 16)),
    "tiny layers": lambda: (models.tiny_layers(3), torch.randn(2, 8)),
}
