"""One call for a whole step: run it, and report what it cost."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from flopcount.counter.counter import FlopCounter
from flopcount.report.report import Report
from flopcount.torch_private.tensors import tensors_in


def count(
    model: Callable[..., Any],
    *args: Any,
    backward: bool = True,
    optimizer: torch.optim.Optimizer | None = None,
    meta: bool = False,
    **kwargs: Any,
) -> Report:
    """Run one step of ``model`` and report what it cost.

    >>> import torch, flopcount
    >>> report = flopcount.count(torch.nn.Linear(8, 2), torch.ones(4, 8), backward=True)
    >>> report.phases["forward"].macs, report.phases["backward"].macs
    (64, 64)

    The step is real: ``backward`` adds to the parameters' gradients, ``optimizer`` updates the
    parameters, and layers such as BatchNorm update their statistics. With ``meta=True`` the step
    runs on copies that have shapes but no memory, so neither the model nor the inputs change.

    Args:
        model: a module, or any callable.
        args, kwargs: what it is called with.
        backward: run backward from the sum of all outputs that need a gradient.
        optimizer: an optimizer of the model's parameters, which steps after backward.
        meta: run on the meta device.

    Raises:
        TypeError: ``model`` cannot be called; ``optimizer`` is not one but, say, its class.
        ValueError: ``backward`` without an output that needs a gradient; ``optimizer`` without
            ``backward``, or together with ``meta``.
    """
    if not callable(model):
        raise TypeError(f"model must be a module or another callable, got {model!r}")
    if optimizer is not None and (not backward or meta):
        raise ValueError("an optimizer steps after backward=True, on real tensors (meta=False)")
    if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            f"expected an optimizer of the model's parameters, such as "
            f"torch.optim.SGD(model.parameters()), got {optimizer!r}"
        )
    if meta:
        model, args, kwargs = on_meta((model, args, kwargs))
    with FlopCounter(model if isinstance(model, nn.Module) else None) as counter:
        output = model(*args, **kwargs)
        if backward:
            loss_of(output).backward()
        if optimizer is not None:
            optimizer.step()
    return counter.report()


def on_meta(value: Any) -> Any:
    """A deep copy of ``value`` in which every tensor is on the meta device."""
    memo: dict[int, Any] = {}
    for tensor in tensors_in(value, modules=True):
        meta: Tensor = torch.empty_like(tensor, device="meta", requires_grad=tensor.requires_grad)
        memo[id(tensor)] = (
            nn.Parameter(meta, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else meta
        )
    return copy.deepcopy(value, memo)


def loss_of(output: Any) -> Tensor:
    """The sum of all tensors in ``output`` that need a gradient: a loss that reaches them all.

    A sum is linear, so backward computes every gradient that a real loss would need.
    """
    sums = [
        (torch.view_as_real(tensor) if tensor.is_complex() else tensor).sum()
        for tensor in tensors_in(output)
        if tensor.requires_grad
    ]
    if not sums:
        raise ValueError(
            "no output of the model needs a gradient, so there is nothing to run backward from; "
            "pass backward=False to count the forward pass alone"
        )
    return sum(sums[1:], sums[0])
