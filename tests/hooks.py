"""What watches modules, optimizers and ops in this process."""

from __future__ import annotations

from torch.nn.modules import module as module_hooks
from torch.optim import optimizer as optimizer_hooks
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack


def watchers() -> tuple[int, ...]:
    return (
        len(module_hooks._global_forward_hooks),
        len(module_hooks._global_forward_pre_hooks),
        len(module_hooks._global_forward_hooks_always_called),
        len(module_hooks._global_backward_hooks),
        len(optimizer_hooks._global_optimizer_pre_hooks),
        len(optimizer_hooks._global_optimizer_post_hooks),
        len(_get_current_dispatch_mode_stack()),
    )
