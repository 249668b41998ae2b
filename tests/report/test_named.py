"""Look-ups by name: one that fails names what is near."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import nn, ops

import flopcount
from flopcount import FlopcountError, Report, UnknownModuleError, UnknownNameError


@pytest.fixture(scope="module")
def report() -> Report:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
            self.conv = nn.Conv1d(4, 2, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(self.stem(x))

    return flopcount.count(Net(), torch.ones(2, 4, 8))


LOOK_UPS: dict[str, tuple[Callable[[Report], Any], str]] = {
    "phase": (lambda r: r.phases["fwd"], "no phase 'fwd'; did you mean 'forward'?"),
    "phase, nothing near": (
        lambda r: r.phases["bwd"],
        "no phase 'bwd'; there is 'forward', 'backward', ",
    ),
    "a module's phase": (lambda r: r["conv"].phases["Forward"], "did you mean 'forward'"),
    "gradient": (lambda r: r.model.gradients["weights"], "no gradient 'weights'; did you mean 'w"),
    "gradient, nothing near": (lambda r: r.model.gradients["dw"], "there is 'input', 'weight', 'b"),
    "module": (lambda r: r["stm.0"], "no module 'stm.0' ran; did you mean 'stem.0'"),
    "the end of a path": (lambda r: r["0"], "no module '0' ran; did you mean 'stem.0'?"),
    "by module": (lambda r: r.by_module()["convv"], "no module 'convv' ran; did you mean 'conv'"),
    "by operator": (lambda r: r.by_operator()["relu"], "no op 'relu'; did you mean 'aten.relu'?"),
    "an op itself": (lambda r: r.by_operator()[ops.aten.relu], "no op .*did you mean 'aten.relu'"),
    "by dtype": (lambda r: r.by_dtype()["fp32"], "no dtype 'fp32'; there is 'float32'"),
    "a dtype itself": (lambda r: r.by_dtype()[torch.float32], "did you mean 'float32'"),
    "by module and operator": (
        lambda r: r.by_module_and_operator()["conv"]["aten.convoluton"],
        "did you mean 'aten.convolution'",
    ),
    "uncounted": (lambda r: r.uncounted["aten.mm"], "no uncounted op 'aten.mm'$"),
}


@pytest.mark.parametrize(("look_up", "message"), LOOK_UPS.values(), ids=LOOK_UPS)
def test_a_failed_look_up_says_what_is_near(
    look_up: Callable[[Report], Any], message: str, report: Report
) -> None:
    with pytest.raises(UnknownNameError, match=message) as error:
        look_up(report)
    assert isinstance(error.value, FlopcountError)
    assert isinstance(error.value, KeyError)
    assert isinstance(error.value, UnknownModuleError) == ("module" in str(error.value))


def test_a_column_says_so_too(report: Report) -> None:
    with pytest.raises(ValueError, match=r"unknown column 'mac'; known: .*; did you mean 'macs'"):
        report.table(columns=["mac"])


def test_the_package_says_so_too() -> None:
    with pytest.raises(AttributeError, match="no attribute 'FlopCount'; did you mean 'FlopCounter"):
        flopcount.FlopCount  # noqa: B018


def test_otherwise_they_are_plain_dictionaries(report: Report) -> None:
    phases = report.phases
    assert phases == dict(phases)
    assert repr(phases) == repr(dict(phases))
    assert "fwd" not in phases
    assert phases.get("fwd") is None
    for twin in (pickle.loads(pickle.dumps(phases)), copy.copy(phases), copy.deepcopy(phases)):
        assert twin == phases
        with pytest.raises(UnknownNameError, match="no phase 'fwd'"):
            twin["fwd"]
    assert asdict(report["conv"])["phases"]["forward"] == asdict(report["conv"].phases["forward"])
    assert pickle.loads(pickle.dumps(report)) == report
