"""What torch tells about methods of C++ classes that TorchScript calls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flopcount import FlopCounter
from flopcount.torch_private import custom_classes
from flopcount.torch_private.custom_classes import CLASSES, SCRIPTS, methods_of_classes

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

CLASS = "torch.classes.quantized.LinearPackedParamsBase"
NAME = f"{CLASS}.unpack"


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An object of a C++ class of torch, taken for one of another library."""
    engines = {"fbgemm", "x86", "onednn", "qnnpack"}.intersection(
        torch.backends.quantized.supported_engines
    )
    if not engines:
        pytest.skip("this build has no such class that works")
    monkeypatch.setattr(torch.backends.quantized, "engine", sorted(engines)[0])
    monkeypatch.setattr(custom_classes, "OF_TORCH", custom_classes.OF_TORCH - {"quantized"})
    custom_classes._known.cache_clear()
    weight = torch.quantize_per_tensor(torch.ones(8, 8), 1.0, 0, torch.qint8)
    yield torch.ops.quantized.linear_prepack(weight, None)
    custom_classes._known.cache_clear()


class Holder(nn.Module):
    def __init__(self, packed: Any) -> None:
        super().__init__()
        self.packed = packed

    def forward(self, x: Tensor, n: int) -> Tensor:
        for _ in range(n):
            x = x + self.packed.unpack()[0].size(0)
        return x


class Outer(nn.Module):
    def __init__(self, packed: Any) -> None:
        super().__init__()
        self.inner = Holder(packed)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, 2)


def test_the_classes_are_there() -> None:
    for methods in SCRIPTS:
        owner = methods.owner()
        assert owner is not None
        assert "__call__" in owner.__dict__


def test_torchs_own_are_not_known_as_others() -> None:
    names = {cls.removeprefix(CLASSES) for cls, _ in custom_classes._known(0)}
    custom_classes._known.cache_clear()
    assert not any(name.startswith(("quantized.", "c10d.", "rnn.")) for name in names)


def test_a_module_of_torchscript(packed: Any) -> None:
    """The method is named once for each call of the module, wherever it is in it."""
    model = torch.jit.script(Outer(packed))
    with FlopCounter() as counter:
        assert float(model(torch.zeros(8, 8))[0, 0]) == 2 * 8
        model(torch.zeros(8, 8))
    report = counter.report()
    assert report.uncounted == {NAME: 2}
    assert {row.module for row in report.entries if row.uncounted} == {"RecursiveScriptModule"}


def test_a_function_of_torchscript(packed: Any) -> None:
    model = torch.jit.script(Outer(packed))

    @torch.jit.script
    def double(x: Tensor) -> Tensor:
        return x + x

    with FlopCounter() as counter:
        double(torch.ones(3))
    assert counter.report().uncounted == {}
    assert methods_of_classes(model.forward) == [NAME]


def test_a_method_that_python_calls(packed: Any) -> None:
    with FlopCounter() as counter:
        packed.unpack()
    assert counter.report().uncounted == {NAME: 1}


def test_those_of_torch_itself_are_not_named() -> None:
    custom_classes._known.cache_clear()
    model = torch.jit.script(nn.Linear(8, 8))
    with FlopCounter() as counter:
        model(torch.ones(4, 8))
    assert counter.report().uncounted == {}
    assert methods_of_classes(model.forward) == []
