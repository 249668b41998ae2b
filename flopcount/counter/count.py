"""One call for a whole step: run it, and report what it cost."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from flopcount.counter.as_found import as_found
from flopcount.counter.counter import FlopCounter
from flopcount.counter.meta import KNOWN_SIZE, shapes_only
from flopcount.counter.same_dtypes import require_same_dtypes
from flopcount.formulas import describe
from flopcount.report.report import Report
from flopcount.torch_private.tensors import tensors_in


class SupportsStep(Protocol):
    """An optimizer, be it torch's, a library's or the user's."""

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """Update the parameters."""


def count(
    model: Callable[..., Any],
    *args: Any,
    backward: bool = True,
    optimizer: SupportsStep | None = None,
    meta: bool = False,
    loss: Callable[[Any], Tensor] | None = None,
    **kwargs: Any,
) -> Report:
    """Run one step of ``model`` and report what it cost.

    >>> import torch, flopcount
    >>> report = flopcount.count(torch.nn.Linear(8, 2), torch.ones(4, 8), backward=True)
    >>> report.phases["forward"].macs, report.phases["backward"].macs
    (64, 64)

    After the step, gradients, buffers (such as the statistics of BatchNorm) and random number
    generators are as they were, even if the model raises. What stays is the optimizer's step, by
    the gradient of this step alone, and what the model keeps elsewhere: caches and other
    attributes, buffers that it replaces by others, the parameters of lazy layers.

    With ``meta=True`` the step runs on shapes: parameters and large tensors take no memory and no
    work. Tensors of up to a million numbers that need no gradient keep their values, since models
    read masks and lengths. Attention counts as on the meta device. Nothing stays, attributes and
    inputs included. Meanwhile no other thread may use the model.

    Args:
        model: a module, or any callable; a method of a module counts under the module's name.
        args, kwargs: what it is called with.
        backward: run backward from the sum of all outputs that need a gradient, or from ``loss``.
        optimizer: what updates the model's parameters after backward: any object with a method
            ``step``. If that needs a closure, as LBFGS does, it runs the whole step in it.
        meta: run on shapes.
        loss: a function of the output that returns what to run backward from, a tensor of one
            element; its ops count, too.

    Raises:
        TypeError: ``model`` or ``loss`` cannot be called; ``optimizer`` is not one but, say, its
            class; ``loss`` returns no such tensor.
        ValueError: ``backward`` without an output that needs a gradient; ``optimizer`` or ``loss``
            without ``backward``; ``optimizer`` together with ``meta``.
        FlopcountError: with ``meta``, the model reads values that are not computed, or multiplies
            different dtypes.
    """
    if not callable(model):
        raise TypeError(f"model must be a module or another callable, got {model!r}")
    check_optimizer(optimizer, backward=backward, meta=meta)
    if loss is not None and not callable(loss):
        raise TypeError(f"loss must be a function of the model's output, got {loss!r}")
    if loss is not None and not backward:
        raise ValueError("loss is what backward runs from: it needs backward=True")
    root = root_of(model)
    counter = FlopCounter(root)
    if meta:
        counter._totals.check = require_same_dtypes

    def step() -> Any:
        output = model(*args, **kwargs)
        if not backward:
            return None
        value = loss_of(output, loss)
        value.backward(retain_graph=meta)  # part of the graph may be of an earlier call
        return value

    with as_found(model, loss, args, kwargs, optimizer, objects=KNOWN_SIZE * meta):
        with shapes_only(root) if meta else nullcontext(), counter:
            if optimizer is None:
                step()
            else:
                counter._attribution.expect_steps_of(optimizer)
                step_with(optimizer, step)
        return counter.report()


def check_optimizer(optimizer: Any, *, backward: bool, meta: bool) -> None:
    """Raise unless ``optimizer`` is None, or one that can step after backward."""
    if optimizer is not None and (not backward or meta):
        raise ValueError(
            "an optimizer steps after backward=True, without meta=True: to count its step without "
            'memory, build the model under torch.device("meta")'
        )
    is_class = isinstance(optimizer, type)
    if optimizer is not None and (is_class or not callable(getattr(optimizer, "step", None))):
        raise TypeError(
            f"expected an optimizer of the model's parameters, such as "
            f"torch.optim.SGD(model.parameters()), got {optimizer!r}"
        )


def step_with(optimizer: Any, run: Callable[[], Any]) -> None:
    """Let ``optimizer`` step after what ``run`` does, or around it, if it needs a closure."""

    def closure() -> Any:
        if hasattr(optimizer, "zero_grad"):
            optimizer.zero_grad()
        return run()

    if needs_closure(optimizer):
        optimizer.step(closure)
    else:
        run()
        optimizer.step()


def needs_closure(optimizer: SupportsStep) -> bool:
    """Whether ``optimizer.step()`` takes a function that it must be given."""
    parameters = inspect.signature(optimizer.step).parameters.values()
    positional = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    return any(p.kind in positional and p.default is p.empty for p in parameters)


def root_of(model: Callable[..., Any]) -> nn.Module | None:
    """The module that a callable runs, if it is one, a method of one, or either with arguments."""
    while not isinstance(model, nn.Module):
        if isinstance(model, functools.partial):
            model = model.func
        elif isinstance(model, types.MethodType):
            model = model.__self__  # type: ignore[assignment]  # of a class that cannot be called
        else:
            return None
    return model


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
