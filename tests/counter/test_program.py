"""A program runs as it would alone."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import nn

from flopcount import FlopCounter
from tests.counter.units import batch, linear


class TestTheProgramIsTheSame:
    def train(self, watch: bool) -> dict[str, Any]:
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Dropout(), nn.Flatten(),
            nn.Linear(2 * 4 * 4, 3),
        )  # fmt: skip
        optimizer = torch.optim.Adam(model.parameters())
        losses = []

        def steps() -> None:
            for _ in range(3):
                optimizer.zero_grad()
                loss = model(torch.randn(4, 1, 6, 6)).square().mean()
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())

        if watch:
            with FlopCounter(model):
                steps()
        else:
            steps()
        return {
            **model.state_dict(),
            **{f"grad of {name}": p.grad for name, p in model.named_parameters()},
            **{f"loss {step}": loss for step, loss in enumerate(losses)},
            "random state": torch.get_rng_state(),
        }

    def test_bit_by_bit(self) -> None:
        alone, watched = self.train(watch=False), self.train(watch=True)
        assert list(alone) == list(watched)
        for name, value in alone.items():
            assert torch.equal(value, watched[name]), name

    def test_nothing_is_put_on_the_users_objects(self) -> None:
        model = nn.Sequential(linear())
        optimizer = torch.optim.SGD(model.parameters())
        x = batch().requires_grad_()
        before = {key: len(value) for key, value in vars(model[0]).items() if "hooks" in key}
        names = set(vars(model[0])), set(vars(optimizer)), set(vars(x))
        with FlopCounter(model):
            y = model(x)
            y.sum().backward()
            optimizer.step()
        assert {
            key: len(value) for key, value in vars(model[0]).items() if "hooks" in key
        } == before
        assert (set(vars(model[0])), set(vars(optimizer)), set(vars(x))) == names
        assert not x._backward_hooks
        assert not y._backward_hooks

    def test_models_die_when_their_owner_lets_go(self) -> None:
        counter = FlopCounter()
        with counter:
            model = linear()
            y = model(batch())
            alive = weakref.ref(model)
            del model, y
            assert alive() is None
