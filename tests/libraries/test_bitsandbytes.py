"""Layers of bitsandbytes, and a QLoRA step, whose products are derived by hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flopcount import FlopCounter, Report

bnb: Any = pytest.importorskip("bitsandbytes")

pytestmark = pytest.mark.filterwarnings("ignore")

TOKENS, WIDTH, HIDDEN, RANK = 32, 64, 128, 4


class Net(nn.Module):
    """WIDTH → HIDDEN → ReLU → WIDTH, the second layer with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.down = nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(x)))


def packed(**options: Any) -> nn.Module:
    """The net with weights of 4 bits, two in a byte."""
    net = Net()
    for name, layer in list(net.named_children()):
        narrow = bnb.nn.Linear4bit(
            *(layer.in_features, layer.out_features, layer.bias is not None),
            compute_dtype=torch.float32,
            **options,
        )
        narrow.load_state_dict(layer.state_dict())
        setattr(net, name, narrow)
    return net.to("cpu")


BASE = TOKENS * WIDTH * HIDDEN
"""MACs of one of both layers."""

BASE_PARAMS = {"up": WIDTH * HIDDEN, "down": WIDTH * HIDDEN + WIDTH}


def step(model: nn.Module, x: Tensor, optimizer: Any = None) -> Report:
    with FlopCounter(model, strict=True) as counter:
        model(x).square().sum().backward()
        if optimizer is not None:
            optimizer.step()
    return counter.report()


@pytest.mark.parametrize("options", [{"quant_type": "nf4"}, {"compress_statistics": False}])
@pytest.mark.parametrize("trained", [True, False], ids=["its input is trained", "inference"])
def test_products_with_packed_weights(options: Any, trained: bool) -> None:
    """A frozen weight has one product forward and one back, for its input."""
    net = packed(**options)
    x = torch.rand(TOKENS, WIDTH, requires_grad=trained)
    if trained:
        report = step(net, x)
    else:
        with FlopCounter(net, strict=True) as counter, torch.no_grad():
            net.eval()(x)
        report = counter.report()
    macs = {phase: cost.macs for phase, cost in report.phases.items() if cost.macs}
    assert macs == {"forward": 2 * BASE, **({"backward": 2 * BASE} if trained else {})}
    assert report["up"].phases["forward"].macs == BASE
    assert {name: report[name].params for name in BASE_PARAMS} == BASE_PARAMS
    assert (report["up"].trainable, report["down"].trainable) == (0, WIDTH)
    assert report.model_flops == 2 * report.total.macs  # products of floats


def test_a_step_of_qlora() -> None:
    """Each base layer has an adapter WIDTH → RANK → HIDDEN beside it, or HIDDEN → RANK → WIDTH.

    Back, a base layer has the product for its input alone, but for the first, whose input is data.
    An adapter has both for B and the weight's for A; only the second A's input needs a gradient.
    """
    from contextlib import suppress

    from flopcount import FlopcountError
    from flopcount.cli import torchvision_models

    with suppress(FlopcountError):
        torchvision_models.load()  # peft imports transformers, and that torchvision
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=RANK, target_modules=["up", "down"])
    model = peft.get_peft_model(packed(quant_type="nf4"), config)
    optimizer = bnb.optim.AdamW8bit(model.parameters(), lr=1e-3, min_8bit_size=0)
    report = step(model, torch.rand(TOKENS, WIDTH), optimizer)

    narrow, wide = TOKENS * RANK * WIDTH, TOKENS * RANK * HIDDEN
    adapters = 2 * (narrow + wide)
    assert report.phases["forward"].macs == 2 * BASE + adapters == 573_440
    back = BASE + (narrow + 2 * wide) + (2 * wide + 2 * narrow)
    assert report.phases["backward"].macs == back
    trainable = 2 * RANK * (WIDTH + HIDDEN)
    assert report.model.params == sum(BASE_PARAMS.values()) + trainable
    assert report.model.trainable == trainable
    costs = report.by_operator()
    assert costs["bitsandbytes.gemm_4bit"].macs == 2 * BASE
    update = costs["bitsandbytes.optimizer_update_8bit_blockwise"]
    # 13 for AdamW and 1 for its decay; for each of two states a product back and one forth, and
    # a division for each block of 256: 4 adapters of 256 or 512 parameters
    assert update.arith == (13 + 1 + 2 * 2) * trainable + 2 * trainable // 256


def test_integer_products_are_no_flops() -> None:
    net = Net().half()
    for name, layer in list(net.named_children()):
        narrow = bnb.nn.Linear8bitLt(
            *(layer.in_features, layer.out_features, layer.bias is not None),
            has_fp16_weights=False,
        )
        narrow.load_state_dict(layer.state_dict())
        setattr(net, name, narrow)
    net = net.to("cpu").eval()
    with FlopCounter(net, strict=True) as counter, torch.no_grad():
        net(torch.rand(TOKENS, WIDTH, dtype=torch.half))
    report = counter.report()
    assert report.by_dtype()["int8"].macs == report.total.macs == 2 * BASE
    assert report.model_flops == 0
    assert {name: report[name].params for name in BASE_PARAMS} == BASE_PARAMS


@pytest.mark.parametrize("name", ["Adam8bit", "Lion8bit", "SGD8bit", "AdEMAMix8bit", "LAMB"])
def test_a_program_is_what_it_was(name: str) -> None:
    """Results, gradients and states, counted and not."""
    torch.manual_seed(0)
    first = nn.Linear(WIDTH, HIDDEN)
    second = copy.deepcopy(first)
    cls = getattr(bnb.optim, name)
    settings: dict[str, Any] = {"min_8bit_size": 0, **({"momentum": 0.9} if "SGD" in name else {})}
    optimizers = [cls(m.parameters(), lr=0.1, **settings) for m in (first, second)]
    x = torch.rand(TOKENS, WIDTH)
    for _ in range(2):
        report = step(first, x, optimizers[0])
        second(x).square().sum().backward()
        optimizers[1].step()
        assert report.phases["optimizer"].flops > 0
        assert not report.uncounted
    for ours, theirs in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert torch.equal(ours.grad, theirs.grad)
