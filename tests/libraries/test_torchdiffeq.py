"""torchdiffeq: solvers wrap the function, and adjoints run it again in backward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flopcount import FlopCounter
from tests.attribution.units import batch, linear, units

torchdiffeq: Any = pytest.importorskip("torchdiffeq")


class Field(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = linear()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.layer(y)


class Flow(nn.Module):
    """Two steps of Euler's method, and a head."""

    def __init__(self, solve: Any) -> None:
        super().__init__()
        self.field, self.head = Field(), linear()
        self.solve = solve

    def forward(self, x: Tensor) -> Tensor:
        times = torch.tensor([0.0, 0.5, 1.0])
        return self.head(self.solve(self.field, x, times, method="euler")[-1])


@pytest.mark.parametrize("is_given", [True, False])
@pytest.mark.parametrize(
    ("solve", "phases"),
    [
        ("odeint", {"forward": 2, "backward": 4}),
        ("odeint_adjoint", {"forward": 2, "recompute": 2, "backward": 4}),
    ],
)
def test_the_function_is_named_by_the_model(solve: str, phases: Any, is_given: bool) -> None:
    """Each step calls the field; its adjoint calls it again, for the same gradients."""
    model = Flow(getattr(torchdiffeq, solve))
    with FlopCounter(model if is_given else None) as counter:
        model(batch(grad=True)).sum().backward()
    report = counter.report()
    path = "" if is_given else "Flow."
    assert units(report[f"{path}field"]) == units(report[f"{path}field.layer"]) == phases
    assert report[f"{path}field"].calls == 2
    assert units(report[f"{path}head"]) == {"forward": 1, "backward": 2}
    assert report[f"{path}".rstrip(".")].total.macs == report.total.macs
