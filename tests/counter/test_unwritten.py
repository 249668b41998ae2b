"""Memory that nothing seen has written, and that an op reads: a kernel was there."""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from flopcount import FlopCounter, UncountedOpError
from flopcount.counter.unwritten import PATIENCE, Unwritten

X = torch.arange(12.0).view(3, 4)


def kernel(out: Tensor) -> Tensor:
    ctypes.memmove(out.data_ptr(), X.data_ptr(), 48)
    return out


def kernel_of_twos() -> Tensor:
    """Large memory comes from the system as zeros, and 2.0 differs in one byte of its four."""
    twos, out = torch.full((1 << 20,), 2.0), torch.empty(1 << 20)
    ctypes.memmove(out.data_ptr(), twos.data_ptr(), twos.nbytes)
    return out


def read_unwritten_first() -> Tensor:
    """Memory that holds what it held is read, and then a kernel's."""
    untouched, written = torch.empty(3, 4), torch.empty(3, 4)
    untouched.relu()
    return kernel(written).relu()


KERNELS: dict[str, Callable[[], Any]] = {
    "empty": lambda: kernel(torch.empty(3, 4)).relu(),
    "empty_like": lambda: kernel(torch.empty_like(X)) @ X.mT,
    "new_empty": lambda: torch.cat([X, kernel(X.new_empty(3, 4))]),
    "empty_strided": lambda: kernel(torch.empty_strided((3, 4), (4, 1))).sum(),
    "a view of it": lambda: kernel(torch.empty(120)).view(30, 4)[0].exp(),
    "several": lambda: [kernel(torch.empty(3, 4)).relu(), kernel(torch.empty(3, 4)).relu()][1],
    "a copy": lambda: kernel(torch.empty(3, 4)).clone(),
    "equal numbers in large memory": lambda: kernel_of_twos().relu(),
    "after memory that nobody wrote": read_unwritten_first,
}


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_is_noticed(name: str) -> None:
    with FlopCounter() as counter:
        KERNELS[name]()
    assert counter.report().uncounted == {"unseen kernel": 2 if name == "several" else 1}


def test_strict_raises() -> None:
    with pytest.raises(UncountedOpError, match=r"^unseen kernel"), FlopCounter(strict=True):
        KERNELS["empty"]()


def out_of(op: Callable[..., Any], *args: Any) -> Tensor:
    out = torch.empty(3, 4)
    op(*args, out=out)
    return out


def assigned() -> Tensor:
    out = torch.empty(3, 4)
    out[0], out[1:] = X[0], 2.0
    return out


def resized() -> Tensor:
    """Memory of another size is other memory."""
    out = torch.empty(8, 8)
    out.untyped_storage().resize_(48)
    return out.as_strided((3, 4), (4, 1))


def traced() -> Tensor:
    """What torch does to flex attention's functions: an op on a fake tensor and a real one."""
    empty = torch.empty(3, 4)
    with FakeTensorMode(allow_non_fake_inputs=True):
        torch.ones(3, 4) * empty
    return X


WRITTEN: dict[str, Callable[[], Tensor]] = {
    "filled": lambda: torch.empty(3, 4).fill_(2),
    "zeroed": lambda: torch.empty_like(X).zero_(),
    "copied": lambda: torch.empty_like(X).copy_(X),
    "drawn": lambda: torch.empty(3, 4).normal_(),
    "assigned": assigned,
    "the result of an op": lambda: out_of(torch.add, X, X),
    "the result of a product": lambda: out_of(torch.mm, X, X.mT @ X),
    "a list": lambda: torch.stack([X, X], out=torch.empty(2, 3, 4))[0],
    "of no size": lambda: torch.cat([torch.empty(0, 4), X]),
    "asked for its shape": lambda: torch.zeros_like(torch.empty(3, 4)) + torch.empty(3, 4).numel(),
    "resized": resized,
    "a tracer's": traced,
    "on meta": lambda: torch.empty(3, 4, device="meta").relu(),
    "a parameter": lambda: nn.init.uniform_(nn.Parameter(torch.empty(3, 4))).relu(),
    "a layer": lambda: nn.LSTM(4, 4)(X)[0],
}


@pytest.mark.parametrize("name", WRITTEN)
def test_written_memory_is_none(name: str) -> None:
    with FlopCounter(strict=True) as counter:
        WRITTEN[name]().relu()
        counter._local.tally.unwritten.see_named()
    assert not counter.report().uncounted


def test_waiting_ends() -> None:
    with FlopCounter() as counter:
        out = torch.empty(3, 4)
        tally = counter._local.tally
        for _ in range(PATIENCE + 2):
            X.exp()
        assert tally.calls is tally.counted
        out.relu()
    assert not counter.report().uncounted
    calls = [row.calls for row in counter.report().entries if row.op == "aten.exp"]
    assert calls == [PATIENCE + 2]


def test_memory_of_dropout_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited_for: list[Any] = []
    monkeypatch.setattr(Unwritten, "expect", lambda _, allocated: waited_for.append(allocated))
    counter = FlopCounter()
    for _ in range(2):  # torch finds the op's handler the first time
        waited_for.clear()
        with counter:
            nn.Dropout()(torch.ones(3, 4))
    assert not waited_for


class Fills(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.empty_like(x).fill_(2.0)


class Forks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fills = Fills()

    def forward(self, x: Tensor) -> Tensor:
        return torch.jit.wait(torch.jit.fork(self.fills, x))


def test_a_thread_of_torchs_own_has_no_frame_to_ask() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        model = torch.jit.script(Forks())
    counter = FlopCounter(strict=True)
    for _ in range(2):  # torch finds the op's handler the first time
        with counter:
            assert model(X).eq(2).all()
    calls = [row.calls for row in counter.report().entries if row.op == "aten.fill_"]
    assert calls == [2]


def test_waiting_keeps_no_memory() -> None:
    with FlopCounter() as counter:
        storage = torch.UntypedStorage._weak_ref(torch.empty(3, 4).untyped_storage())
        assert torch.UntypedStorage._expired(storage)
    assert not counter.report().uncounted
