"""Dispatch modes, and tensors whose class decides how ops run on them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch._subclasses import fake_tensor
from torch.utils import _python_dispatch as dispatch

TorchDispatchMode = dispatch.TorchDispatchMode
"""Sees every op while it is open."""

is_traceable_wrapper_subclass_type = dispatch.is_traceable_wrapper_subclass_type
"""Whether tensors of this class wrap others and run ops on those: DTensor, jagged tensors."""

FakeTensorMode = fake_tensor.FakeTensorMode
"""Under it ops return tensors without data, on the devices that the program asks for."""

FakeTensor = fake_tensor.FakeTensor
"""A tensor without data, which knows the device that it would be on."""

ASKS_DEVICE = torch.ops.prim.device.default
"""The op behind ``tensor.device`` of a fake tensor."""


def device_of(tensor: torch.Tensor) -> torch.device:
    """``tensor.device``, without an op where ``tensor`` is fake."""
    return tensor.fake_device if isinstance(tensor, FakeTensor) else tensor.device


NEEDS_VALUES = (
    fake_tensor.DataDependentOutputException,
    fake_tensor.DynamicOutputShapeException,
)
"""Raised by ops whose results depend on the values of tensors without data."""

NO_KERNEL = NotImplementedError, fake_tensor.UnsupportedOperatorException
"""Raised by ops that have no kernel for tensors without data."""


@contextmanager
def quiet_fakes() -> Iterator[None]:
    """A context in which torch does not log the errors of ops on fake tensors before it raises."""
    level = fake_tensor.log.level
    fake_tensor.log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        fake_tensor.log.setLevel(level)


def may_open_itself(cls: type) -> bool:
    """Whether this class of tensors decides how ops run, which may be on other tensors."""
    own = getattr(cls, "__torch_dispatch__", None)
    has_own = own is not torch._C._disabled_torch_dispatch_impl
    return has_own and not issubclass(cls, fake_tensor.FakeTensor)


def is_fake(tensor: torch.Tensor) -> bool:
    """Whether ``tensor`` has a shape, and a device, but no numbers."""
    return isinstance(tensor, fake_tensor.FakeTensor)


def has_data(tensor: torch.Tensor) -> bool:
    """Whether ``tensor`` holds its numbers itself; a wrapper of other tensors does not."""
    try:
        tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):
        return False
    return True


no_autocast = torch._C._DisableAutocast
"""A context in which no op casts its arguments, whatever autocast the program has open."""


def is_under_autocast() -> bool:
    """Whether the program has an autocast open in this thread, be it one that is switched off.

    ``torch.is_autocast_enabled`` denies it while a mode handles an op.
    """
    torch.autocast_increment_nesting()
    return torch.autocast_decrement_nesting() > 0


DispatchKey, KeySet = torch._C.DispatchKey, torch._C.DispatchKeySet
LAZY = KeySet(DispatchKey.Conjugate) | KeySet(DispatchKey.Negative) | KeySet(DispatchKey.ZeroTensor)

_included = torch._C._dispatch_tls_local_include_set
_excluded = torch._C._dispatch_tls_local_exclude_set


def resolving_views() -> Any:
    """A context in which kernels get conjugated views resolved, as they do outside handlers.

    While a mode handles an op, torch skips the dispatch keys that come before modes. Without those
    that resolve views, kernels would read a conjugated view as a plain tensor.
    """
    included, excluded = _included(), _excluded() - LAZY
    return torch._C._ForceDispatchKeyGuard(included, excluded)


push_mode: Callable[[TorchDispatchMode], None] = torch._C._push_on_torch_dispatch_stack
"""Open a dispatch mode on top of the others. Inside its own handlers a mode is closed."""

pop_mode: Callable[[], Any] = partial(torch._C._pop_torch_dispatch_stack, None)
"""Close the mode on top."""


num_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack
"""How many modes are open in this thread."""


def modes() -> list[TorchDispatchMode]:
    """The dispatch modes that are open in this thread, the outermost first."""
    return [torch._C._get_dispatch_stack_at(i) for i in range(num_modes())]


without_functions = torch._C.DisableTorchFunction
"""A context in which function modes, and a tensor class's own functions, see nothing."""


@contextmanager
def without_modes() -> Iterator[None]:
    """A context in which the program's dispatch modes and function modes see nothing."""
    with torch._C.DisableTorchFunction(), dispatch._disable_current_modes():
        yield
