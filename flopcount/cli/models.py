"""The model, the inputs and the optimizer that a command line names."""

from __future__ import annotations

import importlib
import sys
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from flopcount.cli.parser import CommandError
from flopcount.errors import did_you_mean

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer


def model_and_inputs(options: Namespace) -> tuple[nn.Module, tuple[Any, ...]]:
    """The named model and its inputs, on the named device."""
    import torch

    with torch.device(options.device):
        if ":" in options.model:
            model = _from_callable(options.model).to(options.device)  # it may be elsewhere
            if not options.input:
                raise CommandError(
                    f"{options.model}: give the shape of one sample, --input 3,224,224"
                )
        else:
            from flopcount.cli import torchvision_models

            model = _from_torchvision(options)
            if options.input is None:
                return model, torchvision_models.example_inputs(options.model, options.batch)
        return model, tuple(_sample((options.batch, *size), dtype) for size, dtype in options.input)


def _from_torchvision(options: Namespace) -> nn.Module:
    import torch

    from flopcount.cli import torchvision_models

    task = torchvision_models.task(options.model)
    if options.train and task in ("detection", "quantization"):
        raise CommandError(
            f"{options.model}: a {task} model does not train on images alone; leave --train "
            "out, or count a step of your own with flopcount.FlopCounter"
        )
    if task == "quantization" and options.device != "cpu":
        raise CommandError(f"{options.model} computes while it is built: give --device cpu")
    with torch.device("cpu"):  # some architectures read values while they are built
        model = torchvision_models.build(options.model, meta=options.device == "meta")
    return model.to(options.device)


def _from_callable(name: str) -> nn.Module:
    """The module that ``package.module:callable`` returns, or is."""
    from torch import nn

    path, _, attribute = name.partition(":")
    if not path or not attribute:
        raise CommandError(f"{name}: expected package.module:callable")
    sys.path.insert(0, "")  # the user's own files come first, as with python -m
    try:
        module = importlib.import_module(path)
    except ImportError as error:
        raise CommandError(f"{name}: cannot import {path!r}: {error}") from error
    finally:
        sys.path.remove("")
    build = getattr(module, attribute, None)
    if not callable(build):
        hint = did_you_mean(attribute, dir(module))
        raise CommandError(f"{name}: {path} has no callable {attribute!r}{hint}")
    try:
        model = build if isinstance(build, nn.Module) else build()
    except Exception as error:
        raise CommandError(
            f"{name}: calling it without arguments failed: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(model, nn.Module):
        raise CommandError(f"{name} returned {type(model).__name__}; expected a torch.nn.Module")
    return model


def _sample(size: tuple[int, ...], name: str) -> Tensor:
    """A tensor of ``size``: noise, or zeros of a whole-number dtype, which index anything."""
    import torch

    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise CommandError(f"--input: unknown dtype {name!r}; for example float32 or int64")
    make = torch.randn if dtype.is_floating_point else torch.zeros
    return make(size, dtype=dtype)


def optimizer_class(name: str) -> Any:
    """The ``torch.optim`` class of that name, in any case; None for ``none``."""
    import torch

    if name.lower() == "none":
        return None
    classes = {
        known.lower(): value
        for known, value in vars(torch.optim).items()
        if isinstance(value, type)
        and issubclass(value, torch.optim.Optimizer)
        and value is not torch.optim.Optimizer
    }
    if name.lower() not in classes:
        hint = did_you_mean(name.lower(), [*classes, "none"])
        raise CommandError(f"unknown optimizer {name!r}{hint or '; for example sgd or adamw'}")
    return classes[name.lower()]


def optimizer_for(model: nn.Module, make: Any, options: Namespace) -> Optimizer:
    """The optimizer that the class ``make`` makes for the model's parameters."""
    try:
        optimizer: Optimizer = make(model.parameters())
    except ValueError as error:
        raise CommandError(
            f"optimizer {options.optimizer or 'sgd'} does not take the parameters of "
            f"{options.model}: {error}; --optimizer none leaves it out"
        ) from error
    return optimizer
