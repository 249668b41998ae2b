"""The unit of these tests: one product of a 4 × 8 and an 8 × 8 matrix."""

from __future__ import annotations

import torch
from torch import Tensor, nn

PRODUCT = 4 * 8 * 8
"""MACs of a Linear(8, 8) on a 4 × 8 input."""


def linear() -> nn.Linear:
    return nn.Linear(8, 8, bias=False)


def batch() -> Tensor:
    return torch.ones(4, 8)


def mm() -> Tensor:
    return torch.mm(batch(), torch.ones(8, 8))


def pair() -> nn.Sequential:
    return nn.Sequential(linear(), nn.Tanh(), linear())
