"""What these tests share."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor


@pytest.fixture
def x() -> Tensor:
    return torch.ones(3, requires_grad=True)
