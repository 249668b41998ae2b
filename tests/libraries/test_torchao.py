"""Quantised tensors of torchao open themselves: their products are torch's, of their own dtype."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from flopcount import FlopCounter, Report

quantization: Any = pytest.importorskip("torchao.quantization")
optim: Any = pytest.importorskip("torchao.optim")

pytestmark = pytest.mark.filterwarnings("ignore")

ROWS, WIDTH, HIDDEN, OUT = 16, 256, 128, 64
MACS = ROWS * (WIDTH * HIDDEN + HIDDEN * OUT)
PARAMS = {"": WIDTH * HIDDEN + HIDDEN * OUT + OUT, "0": WIDTH * HIDDEN, "2": HIDDEN * OUT + OUT}


def quantized(config: Any) -> nn.Module:
    model = nn.Sequential(nn.Linear(WIDTH, HIDDEN, bias=False), nn.ReLU(), nn.Linear(HIDDEN, OUT))
    model = model.to(torch.bfloat16).eval()
    quantization.quantize_(model, config)
    return model


def inference(model: nn.Module) -> Report:
    with FlopCounter(model, strict=True) as counter, torch.no_grad():
        model(torch.rand(ROWS, WIDTH, dtype=torch.bfloat16))
    return counter.report()


@pytest.mark.parametrize(
    ("config", "dtype"),
    [
        ("Int8WeightOnlyConfig", "bfloat16"),
        ("IntxWeightOnlyConfig", "bfloat16"),
        ("Float8WeightOnlyConfig", "bfloat16"),
        ("Int8DynamicActivationInt8WeightConfig", "int8"),
        ("Int8DynamicActivationIntxWeightConfig", "bfloat16"),
    ],
)
def test_products_and_parameters(config: str, dtype: str) -> None:
    report = inference(quantized(getattr(quantization, config)()))
    macs = {name: cost.macs for name, cost in report.by_dtype().items() if cost.macs}
    if dtype == "int8" and "uint8" in macs:  # some CPUs multiply bytes without a sign
        macs = {dtype: macs.pop("uint8"), **macs}
    assert macs == {dtype: MACS}
    assert report["0"].total.macs == ROWS * WIDTH * HIDDEN
    assert {path: report[path].params for path in PARAMS} == PARAMS
    assert report.model_flops == (0 if dtype == "int8" else 2 * MACS)


@pytest.mark.parametrize("name", ["AdamW8bit", "AdamW4bit", "AdamWFp8"])
def test_optimizers_with_narrow_states(name: str) -> None:
    """At least the 13 operations of Adam for a parameter, and what packs its states."""
    layer = nn.Linear(WIDTH, HIDDEN)
    optimizer = getattr(optim, name)(layer.parameters())
    with FlopCounter(layer, strict=True) as counter:
        layer(torch.rand(ROWS, WIDTH)).sum().backward()
        optimizer.step()
    report = counter.report()
    assert report.model.params == report.model.trainable == WIDTH * HIDDEN + HIDDEN
    assert report.phases["optimizer"].flops >= 13 * report.model.params
