"""Tensors that answer for themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from flopcount.torch_private.modes import (
    ASKS_DEVICE,
    NEEDS_VALUES,
    NO_KERNEL,
    FakeTensorMode,
    TorchDispatchMode,
    device_of,
    has_data,
    is_fake,
    is_under_autocast,
    may_open_itself,
    quiet_fakes,
)
from tests.torch_private.ops import Ops


class Wrapping(Tensor):
    """Holds another tensor."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> Any:
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise NotImplementedError(f"{func}")


class Holding(Wrapping):
    """Is a tensor itself."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> Any:
        return torch.Tensor._make_subclass(cls, inner)


class Named(Tensor):
    """Has functions of its own, and ops as any other."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return super().__torch_function__(func, types, args, kwargs or {})


@pytest.mark.parametrize(
    ("cls", "may"),
    [
        (Wrapping, True),
        (Holding, True),
        (Named, False),
        (Tensor, False),
        (nn.Parameter, False),
        (FakeTensor, False),
    ],
)
def test_classes_that_run_ops_as_they_say(cls: type, may: bool) -> None:
    assert may_open_itself(cls) is may


def test_only_a_wrapper_has_no_data_of_its_own() -> None:
    x = torch.ones(3)
    assert not has_data(Wrapping(x))
    assert has_data(Holding(x))
    for tensor in (x, nn.Parameter(x), torch.empty(0), x.to("meta"), x[:0]):
        assert has_data(tensor)


def test_a_fake_tensor_is_as_good_as_one_with_data() -> None:
    with FakeTensorMode():
        assert not may_open_itself(type(torch.ones(3)))


def test_an_autocast_is_seen_where_a_mode_handles_an_op() -> None:
    mode = Ops(lambda op, args: is_under_autocast())
    with mode, torch.autocast("cpu", torch.bfloat16):
        torch.ones(2).sin()
        with torch.autocast("cpu", enabled=False):
            torch.ones(2).sin()
    assert mode.seen
    assert all(mode.seen)
    assert not is_under_autocast()


def test_a_fake_tensor_is_known_and_a_real_one_is_not_taken_for_it() -> None:
    with FakeTensorMode():
        fake = torch.ones(3)
    assert is_fake(fake)
    assert not any(map(is_fake, (torch.ones(3), torch.ones(3, device="meta"))))


def test_a_fake_tensor_knows_its_device_without_an_op() -> None:
    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, *call: Any) -> Any:
            seen.append(func)
            return func(*call[1], **(call[2] if len(call) > 2 else {}))

    seen: list[Any] = []
    with FakeTensorMode():
        fake = torch.ones(3, device="cuda")
        leaf = torch.ones(3, requires_grad=True)
    with Watch():
        assert device_of(fake) == torch.device("cuda:0")
        assert ASKS_DEVICE not in seen
        leaf.sum().backward()
        assert ASKS_DEVICE in seen
    assert device_of(torch.ones(3)) == torch.device("cpu")


@pytest.mark.parametrize(
    "ask", [lambda x: x.sum().item(), torch.nonzero, torch.unique, lambda x: x[x > 0]]
)
def test_ops_that_depend_on_values_say_so(ask: Any) -> None:
    with FakeTensorMode() as mode:
        x = mode.from_tensor(torch.ones(3))
        with pytest.raises(NEEDS_VALUES):
            ask(x)


def test_an_op_without_a_kernel_for_shapes_says_so() -> None:
    with torch.library._scoped_library("flopcount_test", "FRAGMENT") as library:
        library.define("bare(Tensor x) -> Tensor")
        with FakeTensorMode() as mode, pytest.raises(NO_KERNEL):
            torch.ops.flopcount_test.bare(mode.from_tensor(torch.ones(3)))


def test_errors_on_fake_tensors_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        with FakeTensorMode() as mode, pytest.raises(RuntimeError):
            torch.mm(mode.from_tensor(torch.ones(3, 4)), mode.from_tensor(torch.ones(3, 4)))

    fail()
    assert caplog.records
    caplog.clear()
    with quiet_fakes():
        fail()
    assert not caplog.records
