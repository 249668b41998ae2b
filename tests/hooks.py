"""What watches modules, optimizers, ops and methods in this process."""

from __future__ import annotations

import sys
from multiprocessing.process import BaseProcess

from torch.nn.modules import module as module_hooks
from torch.optim import optimizer as optimizer_hooks
from torch.utils._python_dispatch import (
    _get_current_dispatch_mode_stack,
    is_in_torch_dispatch_mode,
)

from flopcount.torch_private.method_hook import MethodHook, MethodHooks


def notes() -> tuple[bool, bool]:
    """Whether torch has noted that a mode is open, of any kind and of a user's."""
    return is_in_torch_dispatch_mode(), is_in_torch_dispatch_mode(include_infra_modes=False)


def watchers() -> tuple[int, ...]:
    return (
        len(module_hooks._global_forward_hooks),
        len(module_hooks._global_forward_pre_hooks),
        len(module_hooks._global_forward_hooks_always_called),
        len(module_hooks._global_backward_hooks),
        len(optimizer_hooks._global_optimizer_pre_hooks),
        len(optimizer_hooks._global_optimizer_post_hooks),
        len(_get_current_dispatch_mode_stack()),
        *notes(),
        sum(isinstance(finder, MethodHooks) for finder in sys.meta_path),
        int(isinstance(BaseProcess.__dict__["start"], MethodHook)),
    )
