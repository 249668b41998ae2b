"""Recording a block: no function is compiled anew, and one that is compiled here has no break."""

from __future__ import annotations

import warnings
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn.modules.module import register_module_forward_pre_hook

import flopcount
from flopcount.torch_private.compiler import unseen_by_compiler
from tests.trace.models import Own, P, batch, linear, nested
from tests.trace.recordings import products, products_of


@pytest.fixture(autouse=True)
def clean_compiler() -> Any:
    torch._dynamo.reset()
    counters.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch._dynamo.reset()


def graphs() -> tuple[int, int]:
    """Graphs that were compiled, and breaks between them."""
    return counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())


def test_one_that_was_compiled_before() -> None:
    model = nested()
    compiled = torch.compile(model, backend="aot_eager")
    compiled(batch()).sum().backward()
    assert graphs() == (1, 0)
    with flopcount.record(compiled) as recording:
        compiled(batch()).sum().backward()
    compiled(batch())
    assert graphs() == (1, 0)
    report = recording.report()
    assert products(report) == {"forward": 2 * P, "backward": 3 * P}
    assert report.model.total.macs == 5 * P  # inside, there are no calls of modules


def test_one_that_is_compiled_inside() -> None:
    compiled = torch.compile(nested(), backend="aot_eager", fullgraph=True)
    with flopcount.record(compiled) as recording:
        compiled(batch()).sum().backward()
        compiled(batch()).sum().backward()
        assert graphs() == (1, 0)
    # what torch runs on tensors without data while it compiles is none of the program
    assert products(recording.report()) == {"forward": 4 * P, "backward": 6 * P}
    assert list(recording.report()) == ["<block>", ""]
    compiled(batch()).sum().backward()
    with flopcount.record(compiled):
        compiled(batch()).sum().backward()
    assert graphs() == (1, 0)


def test_parts_that_are_compiled_inside_the_calls_of_modules() -> None:
    """A break divides the model's own forward: its second part is compiled in its call."""

    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = linear(), linear()

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            torch._dynamo.graph_break()
            return self.second(x)

    model = nn.Sequential(nn.ReLU(), Broken(), nn.ReLU())
    model[1].compile(backend="aot_eager")
    with flopcount.record(model) as recording:
        model(batch())
        assert graphs() == (2, 1)
        model(batch())
    model(batch())
    assert graphs() == (2, 1)
    report = recording.report()
    assert products_of(report, "1") == {"forward": 4 * P}
    assert [report[name].calls for name in "012"] == [2, 2, 2]


def test_one_that_is_compiled_beside_hooks_of_others() -> None:
    """Ours change nothing."""
    calls: list[nn.Module] = []
    hook = unseen_by_compiler(lambda module, inputs: calls.append(module))
    handle = register_module_forward_pre_hook(hook)
    try:
        compiled = torch.compile(nested(), backend="aot_eager")
        with flopcount.record(compiled) as recording:
            for _ in range(3):
                compiled(batch()).sum().backward()
        compiled(batch()).sum().backward()
        assert graphs() == (1, 0)
    finally:
        handle.remove()
    assert calls
    assert products(recording.report()) == {"forward": 6 * P, "backward": 9 * P}


@pytest.mark.parametrize("has_hook", [True, False])
def test_a_reset_of_the_compiler_inside(has_hook: bool) -> None:
    model = nested()
    if has_hook:
        model[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with flopcount.record(compiled) as recording:
        compiled(batch())
        torch._dynamo.reset()
        compiled(batch())
    assert products(recording.report()) == {"forward": 4 * P}
    assert not torch.nn.modules.module._has_any_global_hook()


def test_a_function_outside_of_modules() -> None:
    """torch's graph of it runs in the block itself, and is no module."""
    weight = torch.ones(8, 8, requires_grad=True)
    compiled = torch.compile(lambda: (batch() @ weight).sin().sum(), backend="aot_eager")
    compiled()
    with flopcount.record() as recording:
        compiled().backward()
    report = recording.report()
    assert products(report) == {"forward": P, "backward": P}
    assert not report.root.children
    assert "total" in str(report)


class CallsItsBase(nn.Linear):
    def __call__(self, x: Tensor) -> Tensor:
        return 2 * super().__call__(x)


def own_hook(model: nn.Module) -> Any:
    model[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    return torch.compile(model, backend="aot_eager", fullgraph=True)


def hook_and_backward_hook(model: nn.Module) -> Any:
    model[0].register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))
    model[1].register_full_backward_hook(lambda module, inputs, outputs: None)
    return torch.compile(model, backend="aot_eager")


def own_call(model: nn.Module) -> Any:
    layer = CallsItsBase(8, 8, bias=False)
    layer.load_state_dict(model[0].state_dict())
    model[0] = layer
    return torch.compile(model, backend="aot_eager")


def in_a_function(model: nn.Module) -> Any:
    model[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    return torch.compile(lambda x: model(x), backend="aot_eager")


def compiled_call(model: nn.Module) -> Any:
    model.compile(backend="aot_eager")
    return model


COMPILED = [
    own_hook,
    hook_and_backward_hook,
    own_call,
    in_a_function,
    compiled_call,
]


@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize("is_before", [True, False])
def test_code_that_depends_on_hooks_or_on_how_modules_are_called(
    compiled: Any, is_before: bool
) -> None:
    layers = nested()
    reference = compiled(deepcopy(layers))
    expected = reference(batch())
    reference(batch())
    number = graphs()
    torch._dynamo.reset()
    counters.clear()
    model = compiled(layers)
    if is_before:
        model(batch())
    for _ in range(3):
        with flopcount.record(model if isinstance(model, nn.Module) else None) as recording:
            for _ in range(2):
                assert torch.equal(model(batch()), expected)
        model(batch())
        assert products(recording.report()) == {"forward": 4 * P}
    assert graphs() == number


def test_a_compiled_layer_with_a_hook_inside_of_a_compiled_model() -> None:
    """It is compiled once more, in all blocks together."""
    model = nested()
    model[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    model[0].compile(backend="aot_eager")
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    expected = compiled(batch())
    for _ in range(3):
        with flopcount.record(compiled) as recording:
            for _ in range(2):
                assert torch.equal(compiled(batch()), expected)
        compiled(batch())
        assert products(recording.report()) == {"forward": 4 * P}
    # torch 2.11 does not look at the function by which a compiled layer is called
    assert graphs() in [(1, 0), (2, 0)]


def test_a_compiled_layer_inside_of_a_model() -> None:
    """Whether it was compiled before the block or not."""
    model = nn.Sequential(linear(), Own())
    model[1].compile(backend="aot_eager")
    model(batch()).sum().backward()
    with flopcount.record(model) as recording:
        model(batch()).sum().backward()
    report = recording.report()
    assert products_of(report, "0") == {"forward": P, "backward": P}
    assert products_of(report, "1") == {"forward": P, "backward": 2 * P}
    assert graphs() == (1, 0)
