"""Models of layers with 4 x 8 x 8 products, to record."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def linear() -> nn.Linear:
    return nn.Linear(8, 8, bias=False)


def batch() -> Tensor:
    return torch.ones(4, 8)


P = 4 * 8 * 8


class Own(nn.Module):
    """A module whose forward is no code of torch's, so that torch compiles it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).relu()


def nested() -> nn.Module:
    return nn.Sequential(linear(), nn.Sequential(nn.ReLU(), linear()))
