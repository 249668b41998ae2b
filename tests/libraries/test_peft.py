"""PEFT: adapters are called by modules that do not own them."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from torch import nn

from flopcount import FlopCounter, FlopcountError
from flopcount.cli import torchvision_models
from tests.attribution.units import batch

with suppress(FlopcountError):
    torchvision_models.load()  # transformers imports torchvision where it is installed
peft: Any = pytest.importorskip("peft")

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("is_given", [True, False])
def test_dora_is_all_inside_the_model(is_given: bool) -> None:
    """Rank 2, so A and B have 2 · 8 weights each.

    An adapter runs on the batch, 4 · 16 MAC for A and for B, and in the norm of the weight on the
    8 rows of an identity, 8 · 16 each, without gradients.
    """
    config = peft.LoraConfig(r=2, target_modules=["0"], use_dora=True)
    model = peft.get_peft_model(nn.Sequential(nn.Linear(8, 8, bias=False)), config)
    with FlopCounter(model if is_given else None) as counter:
        model(batch()).sum().backward()
    report = counter.report()
    assert report.model.total.macs == report.total.macs
    layer = report["base_model.model.0"]
    forward = {node.path: node.phases["forward"].macs for node in layer.walk()}
    assert forward == {
        "base_model.model.0": 4 * 64 + 2 * (4 + 8) * 16,
        "base_model.model.0.base_layer": 4 * 64,
        "base_model.model.0.lora_magnitude_vector": 0,
        "base_model.model.0.lora_magnitude_vector.default": 0,
        "base_model.model.0.lora_A": (4 + 8) * 16,
        "base_model.model.0.lora_A.default": (4 + 8) * 16,
        "base_model.model.0.lora_B": (4 + 8) * 16,
        "base_model.model.0.lora_B.default": (4 + 8) * 16,
    }
