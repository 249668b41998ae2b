"""Whole training steps of the transformer families, with every optimizer that has three forms."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import flopcount
from tests import models
from tests.models import SMALL

OPTIMIZERS: dict[str, Any] = {
    "SGD": lambda p, **form: torch.optim.SGD(p, lr=0.1, **form),
    "SGD momentum": lambda p, **form: torch.optim.SGD(p, lr=0.1, momentum=0.9, **form),
    "Adam": lambda p, **form: torch.optim.Adam(p, **form),
    "AdamW": lambda p, **form: torch.optim.AdamW(p, **form),
}
FORMS = {"for-loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", SMALL)
def test_a_training_step_has_no_uncounted_op(model: str, optimizer: str, form: str) -> None:
    net, x = SMALL[model]()
    stepper = OPTIMIZERS[optimizer](net.parameters(), **FORMS[form])
    report = flopcount.count(net, x, optimizer=stepper)
    assert report.uncounted == {}
    assert report.phases["optimizer"].flops > 0
    assert "unattributed" not in {child.name for child in report.root.children}


@pytest.mark.parametrize("model", SMALL)
def test_meta_and_cpu_tensors_give_the_same_counts_of_contractions(model: str) -> None:
    net, x = SMALL[model]()
    on_meta, on_cpu = flopcount.count(net, x, meta=True), flopcount.count(net, x)
    assert on_meta.total.matmul_flops - on_meta.phases["recompute"].matmul_flops == (
        on_cpu.total.matmul_flops - on_cpu.phases["recompute"].matmul_flops
    )
    assert on_meta.uncounted == {}


def test_equal_layers_cost_the_same() -> None:
    """All blocks but the first: the gradient of its input goes to the embedding."""
    net, x = models.GPT2(4, 32, 4, 50), torch.zeros(2, 12, dtype=torch.int64)
    report = flopcount.count(net, x)
    assert len({report[f"blocks.{index}"].total for index in range(1, 4)}) == 1


def test_llamas_macs_are_those_of_its_matrices() -> None:
    """Width 32, hidden 48, 4 heads and 2 for keys and values, so that those are 16 wide."""
    tokens, layers, vocab = 2 * 12, 2, 50
    projections = layers * (32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 48)
    attention = layers * 2 * (4 * 12 * 12 * 8 * 2)
    net, x = SMALL["Llama"]()
    report = flopcount.count(net, x)
    forward = tokens * (projections + 32 * vocab) + attention
    assert report.phases["forward"].macs == forward
    # every product comes back twice: even the first block's inputs, the embeddings, are trained
    assert report.model_flops == 2 * 3 * forward
