"""What FullyShardedDataParallel, torch's first, makes of the parameters of a module."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor, nn

FSDP_WRAPPED_MODULE = "_fsdp_wrapped_module"
"""The attribute by which the wrapper owns the user's module."""

FLAT_PARAMETER = "_flat_param"
"""The name under which the user's module may own a flat parameter, in place of its own."""


class Original(NamedTuple):
    """A parameter as it was before it became a part of a flat one.

    A parameter that has several owners or names comes once for each, with the same ``key``.
    ``tensor`` is what an optimizer gets for it: its own part, or all of the flat parameter.
    """

    owner: nn.Module
    name: str
    key: tuple[int, str]
    size: int
    tensor: Tensor


def flat_parameter(wrapper: nn.Module) -> Any:
    """The flat parameter of which a rank holds a part; None if ``wrapper`` has none of its own."""
    handle = wrapper.__dict__.get("_handle")
    return handle.flat_param if FSDP_WRAPPED_MODULE in wrapper._modules and handle else None


def originals(flat: Any) -> Iterator[Original]:
    """The parameters that ``flat`` was made of."""
    tensors: list[Tensor] = flat._params or [flat] * len(flat._numels)
    known: dict[tuple[int, str], Original] = {}
    for info, size, tensor in zip(flat._param_infos, flat._numels, tensors, strict=True):
        key = id(info.module), info.param_name
        known[key] = Original(info.module, info.param_name, key, size, tensor)
    yield from known.values()
    for info in flat._shared_param_infos:
        first = known[id(info.prim_module), info.prim_param_name]
        yield first._replace(owner=info.module, name=info.param_name)
