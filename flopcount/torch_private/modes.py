"""Dispatch modes, and tensors that answer for themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch._subclasses import fake_tensor
from torch.utils import _python_dispatch as dispatch

TorchDispatchMode = dispatch.TorchDispatchMode
"""What sees every op while it is open."""

is_traceable_wrapper_subclass_type = dispatch.is_traceable_wrapper_subclass_type
"""Whether tensors of this class hold others, and run ops on these: DTensor, jagged tensors."""

FakeTensorMode = fake_tensor.FakeTensorMode
"""Under it ops give tensors without data, of the devices that the program asks for."""


def may_open_itself(cls: type) -> bool:
    """Whether tensors of this class have ops run as the class says, which may be on others."""
    own = getattr(cls, "__torch_dispatch__", None)
    has_own = own is not torch._C._disabled_torch_dispatch_impl
    return has_own and not issubclass(cls, fake_tensor.FakeTensor)


def has_data(tensor: torch.Tensor) -> bool:
    """Whether ``tensor`` holds its numbers itself; a wrapper of others has none to point to."""
    try:
        tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):
        return False
    return True


no_autocast = torch._C._DisableAutocast
"""A context in which no op casts its arguments, whatever the program asked for."""


DispatchKey, KeySet = torch._C.DispatchKey, torch._C.DispatchKeySet
LAZY = KeySet(DispatchKey.Conjugate) | KeySet(DispatchKey.Negative) | KeySet(DispatchKey.ZeroTensor)


_included = torch._C._dispatch_tls_local_include_set
_excluded = torch._C._dispatch_tls_local_exclude_set


def resolving_views() -> Any:
    """A context in which kernels get conjugated views resolved, as they do outside of handlers.

    While a mode handles an op, torch leaves out what comes before modes, and that is part of it:
    kernels would take the conjugate of a tensor for the tensor.
    """
    included, excluded = _included(), _excluded() - LAZY
    return torch._C._ForceDispatchKeyGuard(included, excluded)


push_mode: Callable[[TorchDispatchMode], None] = torch._C._push_on_torch_dispatch_stack
"""Open a dispatch mode, on top of the others: inside its own handlers it is closed."""

pop_mode: Callable[[], Any] = partial(torch._C._pop_torch_dispatch_stack, None)
"""Close the mode on top."""


def modes() -> list[TorchDispatchMode]:
    """The dispatch modes that are open in this thread, the outermost first."""
    return [torch._C._get_dispatch_stack_at(i) for i in range(torch._C._len_torch_dispatch_stack())]


without_functions = torch._C.DisableTorchFunction
"""Nothing of what runs here is seen by function modes, nor by functions of a tensor's class."""


@contextmanager
def without_modes() -> Iterator[None]:
    """Nothing of what runs here is seen by the dispatch and function modes of the program."""
    with torch._C.DisableTorchFunction(), dispatch._disable_current_modes():
        yield
