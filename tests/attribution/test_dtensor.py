"""DTensor: each rank counts its own, local work, and planning how to cut a tensor is none."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch.distributed

PROGRAM = """
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.testing._internal.distributed.fake_pg import FakeStore
from flopcount import FlopCounter

dist.init_process_group("fake", rank=0, world_size=4, store=FakeStore())
mesh = init_device_mesh("cpu", (4,))
model = nn.Sequential(nn.Linear(8, 32, bias=False), nn.ReLU(), nn.Linear(32, 8, bias=False))
parallelize_module(model, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
def step():
    model.zero_grad()
    y = model(torch.ones(4, 8))
    y.sum().backward()
    return [y, *(p.grad.to_local() for p in model.parameters())]
for _ in range(2):
    with FlopCounter(model) as counter:
        counted = step()
    assert all(map(torch.equal, counted, step()))
    report = counter.report()
    print(report["0"].phases["forward"].matmul_flops, report["2"].phases["forward"].matmul_flops,
          report.phases["backward"].matmul_flops, *report.uncounted)
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no distributed")
def test_column_and_row_parallel_layers_over_four_ranks() -> None:
    """4 × 8 → 32 → 8: a rank has a quarter of 2·4·8·32 FLOPs of each layer, in every step.

    Backward is the weight's product of the first layer, whose input needs no gradient, and both
    of the second.
    """
    output = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM], check=True, capture_output=True, text=True
    ).stdout
    quarter = 2 * 4 * 8 * 32 // 4
    assert output.splitlines() == [f"{quarter} {quarter} {3 * quarter}"] * 2
