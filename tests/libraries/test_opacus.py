"""Opacus: its wrapper leaves no row."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from flopcount import FlopCounter
from tests.attribution.units import batch, linear, paths

opacus: Any = pytest.importorskip("opacus")

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("given", ["wrapper", "module", "nothing"])
def test_the_module_that_keeps_gradients_of_samples(given: str) -> None:
    model = nn.Sequential(linear(), linear())
    wrapped = opacus.GradSampleModule(model)
    with FlopCounter({"wrapper": wrapped, "module": model, "nothing": None}[given]) as counter:
        wrapped(batch()).sum().backward()
    report = counter.report()
    assert paths(report) == ["", "0", "1"]
    assert report.model.type == "Sequential"
    assert report.model.total.macs == report.total.macs
