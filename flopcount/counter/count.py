"""One call for a whole step: run it, and report what it cost."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from flopcount.counter.counter import FlopCounter
from flopcount.counter.same_dtypes import require_same_dtypes
from flopcount.formulas import describe
from flopcount.report.report import Report
from flopcount.torch_private.tensors import tensors_in


def count(
    model: Callable[..., Any],
    *args: Any,
    backward: bool = True,
    optimizer: torch.optim.Optimizer | None = None,
    meta: bool = False,
    loss: Callable[[Any], Tensor] | None = None,
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
        backward: run backward from the sum of all outputs that need a gradient, or from ``loss``.
        optimizer: an optimizer of the model's parameters, which steps after backward.
        meta: run on the meta device.
        loss: a function of the output that returns what to run backward from, a tensor of one
            element; its ops count, too.

    Raises:
        TypeError: ``model`` or ``loss`` cannot be called; ``optimizer`` is not one but, say, its
            class; ``loss`` returns no such tensor.
        ValueError: ``backward`` without an output that needs a gradient; ``optimizer`` or ``loss``
            without ``backward``; ``optimizer`` together with ``meta``.
        FlopcountError: with ``meta``, a product of different dtypes, which real tensors refuse.
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
    if loss is not None and not callable(loss):
        raise TypeError(f"loss must be a function of the model's output, got {loss!r}")
    if loss is not None and not backward:
        raise ValueError("loss is what backward runs from: it needs backward=True")
    if meta:
        model, loss, args, kwargs = on_meta((model, loss, args, kwargs))
    counter = FlopCounter(model if isinstance(model, nn.Module) else None)
    if meta:
        counter._totals.check = require_same_dtypes
    with counter:
        output = model(*args, **kwargs)
        if backward:
            loss_of(output, loss).backward()
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


def loss_of(output: Any, loss: Callable[[Any], Tensor] | None = None) -> Tensor:
    """``loss`` of ``output``, or the sum of all its tensors that need a gradient.

    A sum is linear, so backward computes every gradient that a real loss would need.
    """
    if loss is not None:
        value = loss(output)
        if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
            raise TypeError(
                "loss must return a tensor of one element that needs a gradient, got "
                f"{described(value)}"
            )
        return value
    sums = [
        (torch.view_as_real(tensor) if tensor.is_complex() else tensor).sum()
        for tensor in tensors_in(output)
        if tensor.requires_grad
    ]
    if not sums:
        raise ValueError(
            "no output of the model needs a gradient, so there is nothing to run backward from: "
            f"it returned {described(output)}; pass backward=False to count the forward pass "
            "alone, or loss=, a function of the output that returns the tensor to run it from"
        )
    return sum(sums[1:], sums[0])


def described(output: Any) -> str:
    """What a model returned, for a message: the tensors in it, or that none were looked for."""
    name = type(output).__name__
    if isinstance(output, Tensor):
        needs = "a" if output.requires_grad else "no"
        return f"{describe([output])} that needs {needs} gradient"
    if tensors := list(tensors_in(output)):
        return f"{name} of {describe(tensors)}, none of which needs a gradient"
    return "None" if output is None else f"{name}, in which no tensor was found"
