"""What a program does goes undisturbed, and no work in it goes uncounted.

Each program is run with a counter and without, and whatever can be seen of it is compared. The
numbers are products of a 4 × 8 and an 8 × 8 matrix, that each program says why it takes.
"""

from __future__ import annotations

import copy
import io
import multiprocessing
import os
import pickle
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functionalize, grad, hessian, jacrev, jvp, vmap
from torch.nn.modules import module as module_hooks
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from flopcount import FlopCounter
from tests.counter.observation import Notes, Programs, assert_undisturbed
from tests.counter.units import PRODUCT, batch, ended_well, linear, pair, run_afresh

PROGRAMS = Programs()
program, test_undisturbed = PROGRAMS.taking, PROGRAMS.as_test()


class TestTraining:
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


# -- hooks


@program(2 + 3)  # the input needs no gradient
def hooks_of_every_kind(notes: Notes) -> Any:
    def note(kind: str) -> Callable[..., None]:
        return lambda *values, **kwargs: notes.append((kind, type(values[0]).__name__))

    net = pair()
    handles = [
        module_hooks.register_module_forward_pre_hook(note("any forward begins")),
        module_hooks.register_module_forward_hook(note("any forward ends")),
        module_hooks.register_module_full_backward_hook(note("any backward")),
    ]
    for layer in net:
        layer.register_forward_pre_hook(note("forward begins"), with_kwargs=True)
        layer.register_forward_hook(note("forward ends"), always_call=True)
        layer.register_full_backward_pre_hook(note("backward begins"))
        layer.register_full_backward_hook(note("backward ends"))
        layer.register_state_dict_pre_hook(note("state begins"))
        layer.register_load_state_dict_post_hook(note("state loaded"))
    for parameter in net.parameters():
        parameter.register_hook(note("gradient"))
        parameter.register_post_accumulate_grad_hook(note("accumulated"))
    y = net(batch())
    y.register_hook(note("gradient of the output"))
    y.grad_fn.register_hook(note("node"))
    y.grad_fn.register_prehook(note("before the node"))
    y.sum().backward()
    net.load_state_dict(net.state_dict())
    for handle in handles:
        handle.remove()
    counts = [
        {name: len(value) for name, value in vars(m).items() if name.endswith("_hooks")}
        for m in net.modules()
    ]
    return counts, y, [p.grad for p in net.parameters()]


# -- exceptions


class Wrong(nn.Module):
    """Fails with a cause."""

    def forward(self, x: Tensor) -> Tensor:
        try:
            return x @ torch.ones(7, 8)
        except RuntimeError as error:
            raise KeyError("of the user's own") from error


@program(1)
def an_exception_with_a_cause(notes: Notes) -> Any:
    return nn.Sequential(linear(), Wrong())(batch())


@program(1)
def an_exception_of_torchs_own(notes: Notes) -> Any:
    return linear()(batch()) @ torch.ones(7, 8)


@program(2 + 1)  # two forward; backward of the last, and then the hook
def an_exception_in_a_hook_of_backward(notes: Notes) -> Any:
    def fail(gradient: Tensor) -> None:
        raise ValueError("in backward")

    y = linear()(batch())
    y.register_hook(fail)
    (y @ torch.ones(8, 8)).sum().backward()


class Faulty(torch.autograd.Function):
    """Its backward fails."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise ArithmeticError("in a backward of the user's own")


@program(1)
def an_exception_in_a_custom_backward(notes: Notes) -> Any:
    Faulty.apply(linear()(batch())).sum().backward()


class Saving(torch.autograd.Function):
    """It saves a tensor that its backward does not ask for."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return 2 * x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return 2 * gradients[0]


@program(1)
def a_custom_backward_that_runs_again(notes: Notes) -> Any:
    """What it saved was freed by the first run."""
    x = linear()(batch()).detach().requires_grad_()
    y = Saving.apply(x).sum()
    y.backward()
    y.backward()
    return x.grad


@program(1)
def an_exception_that_is_caught(notes: Notes) -> Any:
    try:
        Wrong()(batch())
    except KeyError as error:
        notes.append(str(error))
    return linear()(batch())


@program(1)
def a_nan_in_anomaly_mode(notes: Notes) -> Any:
    """The warning shows where in the user's program the failing node was made."""
    with torch.autograd.detect_anomaly():
        (linear()(batch()) * 0).sqrt().mul(0).sum().backward()


# -- state


@program(1)
def generators(notes: Notes) -> Any:
    own = torch.Generator().manual_seed(7)
    x = torch.rand(4, 8, generator=own)
    y = nn.functional.dropout(linear()(x))
    return y, torch.randperm(10, generator=own), own.get_state(), torch.rand(3)


@program(3)
def copies_of_modules(notes: Notes) -> Any:
    layer = linear()
    twins = [layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
    return [twin(batch()) for twin in twins], [sorted(vars(twin)) for twin in twins]


@program(1)
def a_checkpoint_that_is_saved_and_loaded(notes: Notes) -> Any:
    layer, file = linear(), io.BytesIO()
    torch.save({"model": layer.state_dict(), "rng": torch.get_rng_state()}, file)
    file.seek(0)
    loaded = torch.load(file)
    layer.load_state_dict(loaded["model"])
    return layer(batch()), loaded, file.getbuffer().nbytes


# -- processes


@program(3)  # 12 samples in batches of 4
def data_that_is_loaded_here(notes: Notes) -> Any:
    layer, data = linear(), TensorDataset(torch.rand(12, 8))
    return [layer(x) for (x,) in DataLoader(data, batch_size=4, shuffle=True)]


@program(3)
def data_that_is_loaded_in_processes_of_their_own(notes: Notes) -> Any:
    layer, data = linear(), TensorDataset(torch.rand(12, 8))
    return [layer(x) for (x,) in DataLoader(data, 4, shuffle=True, num_workers=2)]


def child(connection: Any) -> None:
    layer = linear()
    layer(batch()).sum().backward()
    connection.send(layer.weight.grad.shape)


def run_a_child(notes: Notes) -> Any:
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=child, args=(there,))
    process.start()
    there.close()  # so that a child that ends without an answer is noticed
    shape = here.recv() if here.poll(30) else None
    return shape, ended_well(process)


def observe_a_child() -> None:
    assert run_a_child([]) == ((8, 8), True)
    assert assert_undisturbed(run_a_child).total.macs == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_process_that_is_forked() -> None:
    """It counts what it does, and nobody asks it."""
    run_afresh(observe_a_child)


# -- transforms of functions: W is 8 × 8, and an eighth of a unit is a product W·x of two of those


WEIGHT = torch.arange(64.0).reshape(8, 8) / 64
VECTOR = 8 * 8 / PRODUCT
"""A product of W and a vector, in units."""


@program(1)  # four vectors
def vmapped(notes: Notes) -> Any:
    return vmap(lambda row: WEIGHT @ row)(batch())


@program(2)
def a_gradient(notes: Notes) -> Any:
    return grad(lambda weight: (batch() @ weight).sin().sum())(WEIGHT)


@program(3)
def a_tangent(notes: Notes) -> Any:
    """W times the primal and the tangent, and the primal times zeros, for W has no tangent."""
    return jvp(lambda x: (x @ WEIGHT).sin(), (batch(),), (batch(),))


@program((1 + 8) * VECTOR)  # forward, and backward from each of the 8 outputs
def a_jacobian(notes: Notes) -> Any:
    return jacrev(lambda x: (WEIGHT @ x).sin())(torch.ones(8))


@program((2 * (1 + 8) + 2) * VECTOR)
def a_hessian(notes: Notes) -> Any:
    """Forward and backward, and the tangents of both for each x.

    For the tangent that W has not, torch takes a matrix of zeros, and multiplies by it twice.
    """
    return hessian(lambda x: (WEIGHT @ x).sin().sum())(torch.ones(8))


@program(1)
def functionalized(notes: Notes) -> Any:
    return functionalize(lambda x: (x @ WEIGHT).add_(1).relu_())(batch())


@program(3)  # one for each model
def an_ensemble(notes: Notes) -> Any:
    models = [linear() for _ in range(3)]
    states = torch.func.stack_module_state(models)
    call = torch.func.functional_call
    return vmap(lambda *state: call(models[0], state, (batch(),)))(*states)


# -- other watchers of ops


@program(2 + 4)  # products are kept; only the tanh is computed again
def a_checkpoint_that_keeps_products(notes: Notes) -> Any:
    def policy(context: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        kept = op is torch.ops.aten.mm.default
        return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE

    contexts = partial(create_selective_checkpoint_contexts, policy)
    x = batch().requires_grad_()
    y = checkpoint(pair(), x, use_reentrant=False, context_fn=contexts)
    y.sum().backward()
    return y, x.grad


@program(2)  # forward, and backward of the weight
def torchs_own_counter(notes: Notes) -> Any:
    with FlopCounterMode(display=False) as counter:
        linear()(batch()).sum().backward()
    return counter.get_total_flops()


# -- conjugated views: under any dispatch mode torch takes them for what they are views of


COMPLEX = torch.tensor([[1, 2j, 3], [2, 1 + 1j, 1j]], dtype=torch.complex64)


def residuals(x: Tensor) -> Tensor:
    return torch.linalg.lstsq(x.mT, torch.ones(3, 1).to(x), driver="gels").residuals


def pinv_out(x: Tensor) -> Tensor:
    return torch.linalg.pinv(x, rtol=torch.tensor(0.1), out=torch.empty(3, 2, dtype=x.dtype))


@pytest.mark.parametrize("surrounding", [torch.enable_grad, torch.inference_mode])
@pytest.mark.parametrize(
    "function",
    [torch.linalg.pinv, pinv_out, torch.pinverse, residuals, torch.fft.hfft, torch.fft.hfftn],
)
def test_conjugates(function: Callable[[Tensor], Tensor], surrounding: Any) -> None:
    def run(notes: Notes) -> Any:
        with surrounding():
            return function(COMPLEX)

    assert_undisturbed(run)
