"""One step, recorded by each version of torch, costs what it costs by hand, whoever reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import flopcount
from flopcount import FlopCounter
from tests.trace.data.step import Net, train
from tests.trace.recordings import products

FILES = sorted(Path(__file__).with_name("data").glob("*.json.gz"))

CONV = 2 * 8 * 8 * 8 * 3 * 3 * 3
QKV = 2 * 16 * 8 * 24
SCORES = 2 * 2 * 16 * 16 * 4
"""MACs of one of the two products of attention, with two heads of four."""
HEAD = 2 * 8 * 10

PARAMETERS = 8 * 3 * 9 + 8 + 8 + 24 * 8 + 24 + 10 * 8 + 10


@pytest.fixture(params=FILES, ids=lambda file: file.name.removesuffix(".json.gz"))
def file(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_there_is_one_of_each_version_that_is_tested() -> None:
    assert [file.name.split(".json")[0] for file in FILES] == [
        "torch-2.11.0",
        "torch-2.13.0",
        "torch-2.14.1",
    ]


@pytest.mark.parametrize(("steps", "times"), [(1, 1), ([1, 2], 2)])
def test_products_by_phase(file: Path, steps: int | list[int], times: int) -> None:
    """The pixels need no gradient; attention's backward computes its scores again."""
    report = flopcount.read_trace(file, steps=steps)
    assert report.uncounted == {}
    assert products(report) == {
        "forward": times * (CONV + QKV + 2 * SCORES + HEAD),
        "backward": times * (CONV + 2 * QKV + 4 * SCORES + 2 * HEAD),
        "recompute": times * SCORES,
    }


def test_products_by_module(file: Path) -> None:
    report = flopcount.read_trace(file, steps=1)
    assert {path: report[path].total.macs for path in report if report[path].calls} == {
        "": CONV + QKV + 2 * SCORES + HEAD + CONV + 2 * QKV + 5 * SCORES + 2 * HEAD,
        "Conv2d_0": 2 * CONV,
        "BatchNorm2d_0": 0,
        "Linear_0": 3 * QKV,
        "Linear_1": 3 * HEAD,
    }
    assert report.model.type == "Net"


def test_the_optimizer(file: Path) -> None:
    """AdamW: 14 a parameter with its decay, and a few for each of the seven steps."""
    cost = flopcount.read_trace(file, steps=1).phases["optimizer"]
    assert 14 * PARAMETERS <= cost.flops <= 14 * PARAMETERS + 10 * 7


def test_it_is_what_a_counter_counts(file: Path) -> None:
    """FLOPs of every phase; the list of gradients that is given twice is read once there."""
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
    train(model, optimizer)
    with FlopCounter(model) as counter:
        train(model, optimizer)
    expected, found = counter.report(), flopcount.read_trace(file, steps=1)
    for phase, cost in expected.phases.items():
        assert found.phases[phase].flops == cost.flops
        assert found.phases[phase].written == cost.written
    assert found.total.read - expected.total.read == 4 * PARAMETERS
