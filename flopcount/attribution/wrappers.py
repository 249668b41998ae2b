"""Wrappers: what stands between the user and the user's module, and leaves no row."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from torch import nn

from flopcount.torch_private.sharding import FSDP_WRAPPED_MODULE

WRAPPERS = frozenset(
    {"_orig_mod", FSDP_WRAPPED_MODULE, "_fpw_module", "_checkpoint_wrapped_module"}
)
"""Attributes behind which torch.compile, FSDP and checkpoint wrappers keep the user's module."""

WRAPPER_CLASSES = {
    "AbstractGradSampleModule": "_module",  # Opacus
    "AveragedModel": "module",
    "DataParallel": "module",
    "DeepSpeedEngine": "module",
    "DifferentiallyPrivateDistributedDataParallel": "module",  # Opacus
    "DistributedDataParallel": "module",  # torch, Apex and Megatron
    "Float16Module": "module",  # Megatron
    "InferenceEngine": "module",  # DeepSpeed
    "ORTModule": "_original_module",
    "ShardedDataParallel": "module",  # FairScale
    "_FabricModule": "_forward_module",  # Lightning
}
"""Classes of wrappers, and where each keeps the user's module. These attributes are other things
in other classes, so they are looked at in these classes and their subclasses alone."""


def innermost(module: nn.Module) -> nn.Module:
    """``module`` without its wrappers, such as those of torch.compile, FSDP and DDP."""
    while (inner := wrapped(module)) is not None:
        module = inner
    return module


def wrapped(module: nn.Module) -> nn.Module | None:
    """What ``module`` is a wrapper of; None if it is the user's own."""
    cls: Any = type(module)
    attribute = _wrapping_attribute(cls)
    if attribute:
        return module._modules.get(attribute)
    return next((inner for name, inner in module._modules.items() if name in WRAPPERS), None)


@lru_cache(maxsize=1 << 10)
def _wrapping_attribute(cls: type) -> str | None:
    """Where instances of ``cls`` keep the user's module, if it is known as a wrapper."""
    names = (base.__name__ for base in cls.__mro__)
    return next((WRAPPER_CLASSES[name] for name in names if name in WRAPPER_CLASSES), None)


def type_name(module: nn.Module) -> str:
    """The name of the class that the user wrote, without the ``FSDP`` class of fully_shard()."""
    cls = type(module)
    sharded = any(base.__name__ == "FSDPModule" for base in cls.__bases__)
    return (cls.__bases__[-1] if sharded else cls).__name__
