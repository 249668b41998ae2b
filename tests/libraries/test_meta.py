"""``count(…, meta=True)`` on models of other libraries gives the rows of a real step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import flopcount
from flopcount import FlopcountError
from flopcount.cli import torchvision_models
from tests.libraries.test_transformers import ARCHITECTURES, TEXT, built

with suppress(FlopcountError):
    torchvision_models.load()  # timm, torchao and peft import torchvision where it is installed

pytestmark = pytest.mark.filterwarnings("ignore")

Step = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


def perceptron() -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))


def torchao(config: str) -> Step:
    quantization: Any = pytest.importorskip("torchao.quantization")
    model = perceptron()
    quantization.quantize_(model, getattr(quantization, config)())
    return model, (torch.ones(4, 64),), {}


def bitsandbytes(name: str) -> Step:
    layers: Any = pytest.importorskip("bitsandbytes").nn
    extra = {"has_fp16_weights": False} if name == "Linear8bitLt" else {}
    model = nn.Sequential(nn.Linear(64, 64), getattr(layers, name)(64, 64, **extra)).to("cpu")
    return model, (torch.ones(4, 64),), {}


def peft() -> Step:
    library: Any = pytest.importorskip("peft")
    config = library.LoraConfig(target_modules=["0", "2"], use_dora=True)
    return library.get_peft_model(perceptron(), config), (torch.ones(4, 64),), {}


def torchdiffeq() -> Step:
    library: Any = pytest.importorskip("torchdiffeq")

    class Field(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return self.layer(y).tanh()

    field, times = Field(), torch.linspace(0, 1, 5)
    return (
        lambda y: library.odeint_adjoint(field, y, times, method="rk4")[-1],
        (torch.ones(4, 8),),
        {},
    )


def timm(name: str) -> Step:
    library: Any = pytest.importorskip("timm")
    return library.create_model(name), (torch.ones(2, 3, 64, 64),), {}


def transformers(name: str, **more: Any) -> Step:
    model: Any = built(name, "sdpa")
    model.config.layerdrop = 0  # chance goes other ways where dropout draws no numbers
    return model, (), {**ARCHITECTURES[name][1], **more}


MASK = torch.ones_like(TEXT["input_ids"])
MASK[1, 8:] = 0

STEPS: dict[str, Callable[[], Step]] = {
    "torchao, int8 weights": lambda: torchao("Int8WeightOnlyConfig"),
    "torchao, int8": lambda: torchao("Int8DynamicActivationInt8WeightConfig"),
    "bitsandbytes, 4 bits": lambda: bitsandbytes("Linear4bit"),
    "bitsandbytes, 8 bits": lambda: bitsandbytes("Linear8bitLt"),
    "peft": peft,
    "torchdiffeq": torchdiffeq,
    "timm": lambda: timm("resnet10t"),
    "Llama": lambda: transformers("LlamaForCausalLM", attention_mask=MASK),
    "Mixtral": lambda: transformers("MixtralForCausalLM", attention_mask=MASK),
    "BERT": lambda: transformers("BertForMaskedLM", attention_mask=MASK),
    "CTC": lambda: transformers("Wav2Vec2ForCTC"),
}


@pytest.mark.parametrize("after", [False, True], ids=["fresh", "after a call"])
@pytest.mark.parametrize("name", STEPS)
def test_the_products_are_those_of_a_real_step(name: str, after: bool) -> None:
    model, args, kwargs = STEPS[name]()
    if after:
        model(*args, **kwargs)
    reports = [flopcount.count(model, *args, meta=meta, **kwargs) for meta in (True, False)]
    on_shapes, real = (
        {
            node.path: (node.phases["forward"].macs, node.phases["backward"].macs)
            for node in report.root.walk()
        }
        for report in reports
    )
    assert on_shapes == real
    assert reports[1].total.macs > 0
