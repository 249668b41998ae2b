"""``count`` leaves the model, its inputs and chance as it found them."""

from __future__ import annotations

import copy
import random
import types
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import flopcount
from flopcount.counter.as_found import as_found
from tests.counter.units import PRODUCT, batch, linear


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = linear()


# -- a real step


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(8, 8), nn.BatchNorm1d(8)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(self.norm(self.layer(x)))


def chance() -> list[Any]:
    return [torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())]


def test_gradients_are_set_aside_and_put_back() -> None:
    model, outside = Normed(), torch.ones(8, requires_grad=True)
    kept, frozen = torch.ones(8, 8), torch.ones(8)
    model.layer.weight.grad, model.layer.bias.grad = kept, frozen
    model.layer.bias.requires_grad_(False)
    given = batch().requires_grad_()
    report = flopcount.count(lambda x: model(x) * outside, given)
    assert report.phases["backward"].macs == 2 * PRODUCT
    assert model.layer.weight.grad is kept
    assert torch.equal(kept, torch.ones(8, 8))
    assert model.layer.bias.grad is frozen
    assert model.norm.weight.grad is outside.grad is given.grad is None


@pytest.mark.parametrize("raises", [False, True])
def test_buffers_and_chance_are_put_back(raises: bool) -> None:
    model = Normed()
    state, buffers, before = copy.deepcopy(model.state_dict()), dict(model.norm._buffers), chance()

    def run(x: Tensor) -> Tensor:
        y = model(x) * random.random() * float(np.random.rand())
        if raises:
            raise KeyError("the program's own")
        return y

    with pytest.raises(KeyError) if raises else nullcontext():
        flopcount.count(run, batch())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(model.norm._buffers[name] is buffer for name, buffer in buffers.items())
    assert chance() == before
    assert model.training


def test_what_puts_the_state_back_is_not_counted() -> None:
    model, x = Normed(), batch()
    with flopcount.FlopCounter() as around:
        inside = flopcount.count(model, x)
    assert around.report().total == inside.total


def test_an_optimizer_steps_by_the_gradient_of_this_step_alone() -> None:
    layer = nn.Linear(8, 2)
    before = layer.weight.clone()
    layer.weight.grad = kept = torch.full((2, 8), 100.0)
    flopcount.count(layer, batch(), optimizer=torch.optim.SGD(layer.parameters(), lr=1.0))
    assert torch.equal(layer.weight, before - 4)  # four ones in the batch
    assert layer.weight.grad is kept


def test_a_graph_from_before_can_still_run_backward() -> None:
    norm = nn.BatchNorm1d(8).eval()
    loss = norm(batch()).sum()
    norm.train()
    flopcount.count(norm, batch())
    loss.backward()


@pytest.mark.parametrize("meta", [False, True])
def test_a_sparse_buffer_is_left_alone(meta: bool) -> None:
    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = linear()
            self.register_buffer("adjacency", torch.eye(4).to_sparse())

        def forward(self, x: Tensor) -> Tensor:
            return torch.sparse.mm(self.adjacency, self.layer(x))

    assert flopcount.count(Graph(), batch(), meta=meta).model.total.macs >= 2 * PRODUCT


# -- a step on shapes


def truths() -> Tensor:
    return torch.tensor([True, False, True, True])


class Restless(Layer):
    """Changes all that it can."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(8)
        self.calls, self.log, self.cache = 0, [0], {"a": torch.ones(2)}
        self.plain, self.step = torch.ones(4, 8), torch.zeros((), dtype=torch.int64)
        self.other: Any = types.SimpleNamespace(output=None)
        self.register_buffer("state", torch.zeros(4, 8))

    def forward(self, x: Tensor, given: Any) -> Tensor:
        self.calls += 1
        self.log.append(self.calls)
        self.cache["b"] = self.plain
        self.plain.add_(1)
        self.step += 1
        given.pop("mask").logical_not_()
        given["x"].unsqueeze_(0)
        y = nn.functional.dropout(self.norm(self.layer(x)) * random.random())
        self.state.copy_(y.detach())
        self.state = y
        self.other.output = y
        del self.cache["a"]
        return y


@pytest.mark.parametrize("raises", [False, True])
def test_nothing_changes(raises: bool) -> None:
    model, given = Restless(), {"x": batch(), "mask": truths()}
    calls = 0

    def run(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        out = model(x, given)
        if raises:
            raise KeyError("the program's own")
        return out

    model.layer.weight.grad = gradient = torch.ones(8, 8)
    before = [(vars(m), dict(vars(m))) for m in model.modules()]
    state, plain = copy.deepcopy(model.state_dict()), model.plain.clone()
    chance = torch.get_rng_state(), random.getstate()
    buffer, cache = model.state, dict(model.cache)
    if raises:
        with pytest.raises(KeyError, match="the program's own"):
            flopcount.count(run, batch(), meta=True)
    else:
        assert flopcount.count(run, batch(), meta=True).total.macs == 2 * PRODUCT
    for now, then in before:
        assert list(now) == list(then)
        assert all(now[name] is then[name] for name in then)
    assert calls == model.calls == 0
    assert model.log == [0]
    assert list(model.cache) == ["a"]
    assert model.cache["a"] is cache["a"]
    assert model.state is buffer
    assert model.other.output is None
    assert torch.equal(model.plain, plain)
    assert model.step == 0
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert list(given) == ["x", "mask"]
    assert given["x"].shape == (4, 8)
    assert torch.equal(given["mask"], truths())
    assert model.layer.weight.grad is gradient
    assert torch.equal(gradient, torch.ones(8, 8))
    assert model.norm.weight.grad is None
    assert torch.equal(torch.get_rng_state(), chance[0])
    assert random.getstate() == chance[1]


class Unseen:
    weight = torch.ones(8, 8, requires_grad=True)


def test_a_weight_that_only_code_knows_gets_no_gradient() -> None:
    class Uses(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ Unseen.weight

    assert flopcount.count(Uses(), batch(), meta=True).total.macs == 2 * PRODUCT
    assert Unseen.weight.grad is None


def test_an_older_graph_can_still_run_backward() -> None:
    class Stateful(Layer):
        state: Any = 0

        def forward(self, x: Tensor) -> Tensor:
            self.state = self.layer(x + self.state).tanh()
            return self.state

    model = Stateful()
    loss = model(batch()).sum()
    flopcount.count(model, batch(), meta=True)
    loss.backward()


def test_settings_of_attention_are_put_back() -> None:
    attention = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True).eval()
    settings = (
        torch.backends.mha.get_fastpath_enabled,
        torch.backends.cuda.flash_sdp_enabled,
        torch.backends.cuda.mem_efficient_sdp_enabled,
    )
    before = [ask() for ask in settings]
    flopcount.count(attention, torch.ones(2, 4, 8), meta=True)
    assert [ask() for ask in settings] == before


@pytest.mark.parametrize("meta", [False, True])
def test_a_buffer_whose_memory_was_freed_is_left_alone(meta: bool) -> None:
    model = Layer()
    model.register_buffer("gathered", torch.ones(1 << 16))
    model.get_buffer("gathered").untyped_storage().resize_(0)  # as FSDP does between calls
    report = flopcount.count(model.layer, batch(), meta=meta)
    with as_found(model, objects=(1 << 20) * meta):
        pass
    assert report.total.macs == 2 * PRODUCT
    assert model.get_buffer("gathered").untyped_storage().nbytes() == 0
