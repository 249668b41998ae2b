from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import flopcount

X = torch.full((3, 4), 0.5)  # 48 bytes
TARGET = torch.empty(3, 4)


@pytest.mark.parametrize(
    ("draw", "read", "written"),
    [
        pytest.param(lambda: torch.rand(3, 4), 0, 48, id="uniform numbers are written"),
        pytest.param(lambda: torch.randn(3, 4), 0, 48, id="normal ones"),
        pytest.param(lambda: torch.randint(5, (3, 4)), 0, 96, id="integers"),
        pytest.param(lambda: torch.randperm(6), 0, 48, id="a permutation"),
        pytest.param(lambda: torch.rand_like(X), 0, 48, id="like another tensor, unread"),
        pytest.param(lambda: TARGET.normal_(), 0, 48, id="in place, without reading it"),
        pytest.param(lambda: TARGET.uniform_(), 0, 48, id="uniform in place"),
        pytest.param(lambda: TARGET.exponential_(), 0, 48, id="exponential in place"),
        pytest.param(lambda: TARGET.random_(), 0, 48, id="integers in place"),
        pytest.param(lambda: TARGET.bernoulli_(0.5), 0, 48, id="a mask of one probability"),
        pytest.param(lambda: TARGET.bernoulli_(X), 48, 48, id="a mask of many probabilities"),
        pytest.param(lambda: torch.bernoulli(X), 48, 48, id="a mask of the tensor's own"),
        pytest.param(lambda: torch.bernoulli(X, 0.5), 0, 48, id="a mask of the tensor's shape"),
        pytest.param(lambda: torch.normal(X, 1.0), 48, 48, id="normal numbers of many means"),
        pytest.param(lambda: torch.poisson(X), 48, 48, id="Poisson numbers of many rates"),
        pytest.param(
            lambda: torch.multinomial(X, 2, replacement=True), 48, 48, id="indices by weights"
        ),
    ],
)
def test_drawing_is_no_arithmetic(draw: Callable[[], Any], read: int, written: int) -> None:
    with flopcount.FlopCounter() as counter:
        draw()
    report = counter.report()
    assert not report.uncounted
    assert report.total.flops == 0
    assert (report.total.read, report.total.written) == (read, written)


def test_dropout_divides_its_mask_and_multiplies_by_it() -> None:
    with flopcount.FlopCounter() as counter:
        F.dropout(X, 0.3)
    report = counter.report()
    assert not report.uncounted
    assert report.total.arith == report.total.flops == 2 * 12
