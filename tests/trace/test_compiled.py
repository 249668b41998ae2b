"""A compiled program, recorded: the products of the eager one; what is fused is listed."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import flopcount
from flopcount import Report
from tests.trace.recordings import products

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a compiler of C++"),
    pytest.mark.filterwarnings("ignore"),
]


class Block(nn.Module):
    """Attention and an MLP, 16 wide, on 2 x 8 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 64), nn.Linear(64, 16)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.out(y)
        return x + self.down(functional.silu(self.up(self.norm(x))))


TOKENS = 2 * 8
LAYERS = TOKENS * 16 * (48 + 16 + 64 + 64)
SCORES = 2 * 2 * 8 * 8 * 8


def recorded(model: nn.Module) -> Report:
    x = torch.ones(2, 8, 16, requires_grad=True)
    model(x).sum().backward()  # compiled before the block
    with flopcount.record(model) as recording:
        model(x).sum().backward()
    return recording.report()


@pytest.fixture(scope="module")
def compiled() -> Any:
    torch._dynamo.reset()
    with torch._inductor.config.patch({"cpp.enable_kernel_profile": True}):
        yield recorded(torch.compile(Block()))
    torch._dynamo.reset()


def test_products_are_those_of_the_eager_program(compiled: Report) -> None:
    expected = {
        "forward": LAYERS + 2 * SCORES,
        "backward": 2 * LAYERS + 4 * SCORES,
        "recompute": SCORES,
    }
    assert products(recorded(Block())) == expected
    assert products(compiled) == expected


def test_fused_kernels_that_are_not_recorded_are_named_together(compiled: Report) -> None:
    """Two graphs, forward and backward, have the time of their kernels and no cost."""
    torch._dynamo.reset()
    with torch._inductor.config.patch({"cpp.enable_kernel_profile": False}):
        report = recorded(torch.compile(Block()))
    assert report.uncounted == {"inductor.graph": 2}
    assert products(report) == products(compiled)
    assert report.run is not None
    assert 0 < report.run.counted < report.run.work <= report.run.busy <= report.run.span
    assert "inductor.graph" not in compiled.uncounted


def test_all_belongs_to_the_module_that_is_compiled(compiled: Report) -> None:
    assert compiled.model.type == "Block"
    assert compiled.model.own.macs == compiled.total.macs


def test_what_is_fused_is_listed(compiled: Report) -> None:
    eager = recorded(Block())
    fused = {"aten.silu", "aten.silu_backward", "aten.native_layer_norm"}
    assert fused <= set(eager.by_operator())
    assert not fused & set(compiled.by_operator())
    assert compiled.total.flops < eager.total.flops
    assert all("cpp_fused_" in name for name in compiled.uncounted)
    for word in ("silu", "native_layer_norm", "silu_backward"):
        assert any(word in name for name in compiled.uncounted)
    assert eager.uncounted == {}
