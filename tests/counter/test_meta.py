"""``count(…, meta=True)`` runs any program on shapes, and gives the rows of a real step."""

from __future__ import annotations

import functools
import threading
import types
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune, rnn

import flopcount
from flopcount import Report
from tests.counter.units import PRODUCT, batch, linear, pair

Step = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
"""A model, and what it is called with."""

STEPS: dict[str, Callable[[], Step]] = {}


def step(function: Callable[[], Any]) -> Callable[[], Any]:
    """Put a step into the table: a model alone takes the unit's batch."""

    def make() -> Step:
        made = function()
        return made if isinstance(made, tuple) else (made, (batch(),), {})

    STEPS[function.__name__.replace("_", " ")] = make
    return function


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = linear()


# -- attributes


@step
def a_plain_tensor_that_is_computed_with() -> Any:
    class Scaled(Layer):
        scale = torch.full((8,), 2.0)

        def __init__(self) -> None:
            super().__init__()
            self.shift = torch.ones(8)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) * self.scale + self.shift

    return Scaled()


@step
def a_plain_tensor_that_is_read() -> Any:
    class Strided(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.strides = torch.tensor([1.0, 2.0])

        def forward(self, x: Tensor) -> Tensor:
            for stride in self.strides.tolist():
                x = self.layer(x).repeat_interleave(int(stride), 0)
            return x

    return Strided()


@step
def a_single_number_that_is_learnt_and_read() -> Any:
    class Tempered(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.temperature = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            x = self.layer(x) * self.temperature
            return self.layer(x) if self.temperature.item() > 0.5 else x

    return Tempered()


@step
def a_list_and_a_dict_of_layers_and_weights() -> Any:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = [linear(), linear()]
            self.weights = {"last": torch.ones(8, 8, requires_grad=True)}

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = layer(x)
            return x @ self.weights["last"]

    return Hidden()


@step
def a_state_with_a_graph() -> Any:
    class Stateful(Layer):
        state: Any = 0

        def forward(self, x: Tensor) -> Tensor:
            self.state = self.layer(x + self.state).tanh()
            return self.state

    return Stateful()


@step
def a_state_that_is_written() -> Any:
    class Memory(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.memory = torch.zeros(4, 8)
            self.history: deque[Tensor] = deque(maxlen=2)

        def forward(self, x: Tensor) -> Tensor:
            self.memory.copy_(self.layer(x + self.memory).detach())
            self.history.append(self.memory)
            return self.layer(self.memory)

    return Memory()


@step
def results_written_into_new_tensors() -> Any:
    class Loop(Layer):
        def forward(self, x: Tensor) -> Tensor:
            steps, loss = torch.zeros(3, 4, 8), torch.zeros(1)
            for index in range(3):
                x = self.layer(x)
                steps[index] = x
                loss += x.mean()
            return steps.sum() + loss

    return Loop()


@step
def a_lock() -> Any:
    class Locked(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.lock = threading.Lock()

        def forward(self, x: Tensor) -> Tensor:
            with self.lock:
                return self.layer(x)

    return Locked()


@step
def a_hook_that_keeps_outputs() -> Any:
    class Hooked(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[Tensor] = []
            self.layer.register_forward_hook(lambda *call: self.seen.append(call[-1]))

        def forward(self, x: Tensor) -> Tensor:
            self.layer(x)
            return self.seen[-1]

    return Hooked()


# -- weights that are computed


@step
def weight_norm_of_old() -> Any:
    return nn.utils.weight_norm(linear())


@step
def spectral_norm_of_old() -> Any:
    return nn.utils.spectral_norm(linear())


@step
def weight_norm() -> Any:
    return parametrizations.weight_norm(linear())


@step
def spectral_norm() -> Any:
    return parametrizations.spectral_norm(linear())


@step
def an_orthogonal_weight() -> Any:
    return parametrizations.orthogonal(linear())


@step
def a_pruned_weight() -> Any:
    model = pair()
    prune.l1_unstructured(model[0], "weight", 0.5)  # type: ignore[no-untyped-call]
    return model


@step
def a_script() -> Any:
    return nn.Sequential(linear(), torch.jit.script(nn.BatchNorm1d(8)), linear())


@step
def a_traced_graph() -> Any:
    return torch.fx.symbolic_trace(pair())


# -- what a model is called with


class Masked(Layer):
    def forward(self, given: Any) -> Tensor:
        y = self.layer(given.x)
        return y if given.mask.all() else self.layer(y[given.mask])


def mask() -> Tensor:
    return torch.tensor([True, False, True, True])


@dataclass(frozen=True)
class Frozen:
    x: Tensor
    mask: Tensor


class Slotted:
    __slots__ = ("mask", "x")

    def __init__(self) -> None:
        self.x, self.mask = batch(), mask()


@step
def a_dataclass() -> Any:
    return Masked(), (Frozen(batch(), mask()),), {}


@step
def an_object_with_slots() -> Any:
    return Masked(), (Slotted(),), {}


@step
def a_namespace_by_name() -> Any:
    return Masked(), (), {"given": types.SimpleNamespace(x=batch(), mask=mask())}


@step
def packed_sequences() -> Any:
    class Unpacks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(8, 8)

        def forward(self, packed: Any) -> Tensor:
            return rnn.pad_packed_sequence(self.lstm(packed)[0])[0]

    return Unpacks(), (rnn.pack_padded_sequence(torch.ones(5, 3, 8), [5, 3, 2]),), {}


@step
def sequences_that_are_packed_inside() -> Any:
    class Packs(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(8, 8)

        def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
            packed = rnn.pack_padded_sequence(self.layer(x), lengths, enforce_sorted=False)
            return rnn.pad_packed_sequence(self.gru(packed)[0])[0]

    return Packs(), (torch.ones(5, 3, 8), torch.tensor([2, 5, 3])), {}


@step
def lengths_of_ctc() -> Any:
    class Loss(Layer):
        def forward(self, x: Tensor, *lengths: Tensor) -> Tensor:
            return F.ctc_loss(self.layer(x).log_softmax(-1), *lengths)

    targets, counts = torch.tensor([[1, 2, 3], [1, 2, 0]]), torch.tensor([3, 2])
    return Loss(), (torch.ones(10, 2, 8), targets, torch.tensor([10, 8]), counts), {}


@step
def a_mask_that_selects() -> Any:
    class Selects(Layer):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return self.layer(x).masked_select(mask[:, None])

    return Selects(), (batch(), mask()), {}


@step
def groups_of_products_in_float32() -> Any:
    weights = torch.ones(2, 8, 8, requires_grad=True)

    def grouped(x: Tensor, ends: Tensor) -> Tensor:
        return F.grouped_mm(x, weights, offs=ends) * torch.ones(16, 8)

    return grouped, (torch.ones(16, 8), torch.tensor([8, 16], dtype=torch.int32)), {}


# -- callables


class Coder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = linear(), linear()

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(z)


@step
def a_bound_method() -> Any:
    return Coder().decode


@step
def a_partial_of_a_bound_method() -> Any:
    return functools.partial(Coder().decode, z=batch()), (), {}


@step
def a_closure() -> Any:
    layer, x, weight = linear(), batch(), torch.ones(8, 8, requires_grad=True)
    return (lambda: F.mse_loss(layer(x) @ weight, x)), (), {}


GLOBAL = linear()


def of_a_global(x: Tensor) -> Tensor:
    return GLOBAL(x)


@step
def a_function_of_a_global_model() -> Any:
    return of_a_global


# -- devices and chance


@step
def asking_for_the_device() -> Any:
    class Asks(Layer):
        def forward(self, x: Tensor, ids: Tensor) -> Tensor:
            assert x.device == ids.device == self.layer.weight.device
            with torch.autocast(x.device.type, torch.bfloat16):
                return self.layer(x[ids].to("cpu"))

    return Asks(), (batch(), torch.tensor([0, 1, 2, 3])), {}


@step
def chance() -> Any:
    class Drops(Layer):
        def forward(self, x: Tensor) -> Tensor:
            if torch.rand([]) < 2:
                x = self.layer(x)
            return F.dropout(x * torch.rand(4, 1).bernoulli(), 0.5)

    return Drops()


def rows(report: Report) -> dict[str, Any]:
    """What each module cost, but for FLOPs and bytes that kernels of devices may differ in."""
    return {
        node.path: {phase: cost.macs for phase, cost in node.phases.items()}
        for node in report.root.walk()
    }


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("after", [False, True], ids=["fresh", "after a call"])
@pytest.mark.parametrize("name", STEPS)
def test_the_rows_are_those_of_a_real_step(name: str, after: bool) -> None:
    model, args, kwargs = STEPS[name]()
    if after:
        model(*args, **kwargs)
    on_shapes = flopcount.count(model, *args, meta=True, **kwargs)
    real = flopcount.count(model, *args, **kwargs)
    assert rows(on_shapes) == rows(real)
    assert real.total.macs > 0
    assert on_shapes.by_dtype().keys() == real.by_dtype().keys()


def test_a_bound_method_has_the_rows_of_its_model() -> None:
    report = flopcount.count(Coder().decode, batch(), meta=True)
    assert report["decoder"].total.macs == 2 * PRODUCT  # forward, and the weight's gradient
    assert report.model.type == "Coder"


def test_lazy_layers_stay_lazy() -> None:
    model = nn.Sequential(nn.LazyLinear(8, bias=False), nn.LazyBatchNorm1d())
    report = flopcount.count(model, batch(), meta=True)
    assert report.total.macs == 2 * PRODUCT
    assert report["0"].params == 64
    assert [type(layer) for layer in model] == [nn.LazyLinear, nn.LazyBatchNorm1d]
    assert all(map(nn.parameter.is_lazy, model.parameters()))
    assert flopcount.count(model, batch()).total.macs == 2 * PRODUCT


def test_a_model_on_meta_may_be_given_real_inputs() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Embedding(10, 8), linear())
    report = flopcount.count(model, torch.tensor([1, 2, 3, 4]), meta=True)
    assert report["1"].total.macs == 3 * PRODUCT


def test_large_tensors_take_no_memory() -> None:
    side = 1 << 20  # its square has 4 TB
    report = flopcount.count(
        lambda x: (x.T * torch.ones(side, side)).sum(),
        torch.ones(1, side),
        meta=True,
        backward=False,
    )
    assert report.total.flops == 2 * side**2 - 1
