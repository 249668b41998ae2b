"""Layers that do more than one product, and in whose rows it ends up."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

import flopcount
from flopcount import FlopCounter


def test_a_complex_product_is_four_real_ones() -> None:
    a, b = (torch.ones(shape, dtype=torch.complex64) for shape in ((3, 5), (5, 7)))
    with FlopCounter() as counter:
        a @ b
    report = counter.report()
    assert report.total.matmul_flops == 2 * 4 * (3 * 5 * 7)


def test_an_lstms_forward() -> None:
    layer = nn.LSTM(10, 20)
    with torch.backends.mkldnn.flags(enabled=False):  # oneDNN runs the layer as one op
        report = flopcount.count(layer, torch.ones(5, 3, 10), backward=False)
    # 5 steps of 3 sequences: 4 gates of 20 from 10 inputs and 20 states
    assert report.model.total.matmul_flops == 2 * (5 * 3) * (4 * 20) * (10 + 20)
    assert report.root.own.macs == 0


def test_attention_recomputes_its_scores_in_backward() -> None:
    class Attention(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return scaled_dot_product_attention(x, x, x)

    product = 2 * 12 * 64 * 64 * 64  # heads · queries · keys · width
    report = flopcount.count(Attention(), torch.ones(1, 12, 64, 64, requires_grad=True))
    phases = {name: cost.matmul_flops for name, cost in report.model.phases.items()}
    assert phases == {
        "forward": 2 * product,
        "backward": 4 * product,
        "recompute": product,
        "optimizer": 0,
        "other": 0,
    }
