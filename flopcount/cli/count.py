"""``flopcount MODEL``: what a forward pass or a training step costs."""

from __future__ import annotations

import importlib
import sys
import warnings
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from flopcount.cli import torchvision_models
from flopcount.cli.parser import CommandError
from flopcount.counter.count import count
from flopcount.errors import UncountedOpWarning, did_you_mean, in_one_line
from flopcount.formulas import describe

HINTS = {
    "meta": "; --device cpu runs it on real values",
    "Meta": "; --device cpu runs it on real values",
    "needs a gradient": "; without --train the forward pass is counted",
    "more than 1 value per channel": "; --batch 2 gives it more",
}
"""What helps when a model's error message has these words."""


def run(options: Namespace) -> int:
    """Count the step that the command line describes, and print its report."""
    if options.device == "cuda" and not torch.cuda.is_available():
        raise CommandError("--device cuda: this torch sees no CUDA device; use meta or cpu")
    if options.optimizer and not options.train:
        raise CommandError("--optimizer takes a step after backward: give --train too")
    make_optimizer = optimizer_class(options.optimizer or "sgd") if options.train else None
    model, inputs = model_and_inputs(options)
    model.train(options.train)
    optimizer = optimizer_for(model, make_optimizer, options) if make_optimizer else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UncountedOpWarning)  # the table lists them
            report = count(model, *inputs, backward=options.train, optimizer=optimizer)
    except Exception as error:
        print(f"flopcount: {failure(options, error)}", file=sys.stderr)
        return 1
    print(headline(options, inputs, optimizer), end="\n\n")
    print(report.table(depth=options.depth))
    return 0


def failure(options: Namespace, error: Exception) -> str:
    """How the model failed, in one line, with a hint where one is known."""
    reason = in_one_line(error)
    hint = next((hint for words, hint in HINTS.items() if words in reason), "")
    return f"{options.model} failed on the {options.device} device: {reason}{hint}"


def headline(options: Namespace, inputs: tuple[Any, ...], optimizer: Optimizer | None) -> str:
    """What was counted, in one line."""
    step = "forward pass"
    if options.train:
        step = "training step, loss = sum of outputs"
        step += f", {type(optimizer).__name__}" if optimizer is not None else ", no optimizer"
    return f"{options.model}({describe(inputs)}) on {options.device}: {step}"


# -- the model, the inputs and the optimizer that a command line names


def model_and_inputs(options: Namespace) -> tuple[nn.Module, tuple[Any, ...]]:
    """The named model and its inputs, on the named device."""
    with torch.device(options.device):
        if ":" in options.model:
            model = _from_callable(options.model).to(options.device)  # it may be elsewhere
            if not options.input:
                raise CommandError(
                    f"{options.model}: give the shape of one sample, --input 3,224,224"
                )
        else:
            model = _from_torchvision(options)
            if options.input is None:
                return model, torchvision_models.example_inputs(options.model, options.batch)
        return model, tuple(_sample((options.batch, *size), dtype) for size, dtype in options.input)


def _from_torchvision(options: Namespace) -> nn.Module:
    if options.model.endswith((".json", ".json.gz")):
        raise CommandError(f"{options.model} is no model; flopcount trace FILE reads a recording")
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
    path, _, attribute = name.partition(":")
    if not path or not attribute:
        raise CommandError(f"{name}: expected package.module:callable")
    sys.path.insert(0, "")  # the user's own files come first, as with python -m
    try:
        module = importlib.import_module(path)
    except Exception as error:  # what the file does when it is imported may fail in any way
        reason = in_one_line(error)
        raise CommandError(f"{name}: cannot import {path!r}: {reason}") from error
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
            f"{name}: calling it without arguments failed: {in_one_line(error)}"
        ) from error
    if not isinstance(model, nn.Module):
        raise CommandError(f"{name} returned {type(model).__name__}; expected a torch.nn.Module")
    return model


def _sample(size: tuple[int, ...], name: str) -> Tensor:
    """A tensor of ``size``: noise, or zeros of a whole-number dtype, which index anything."""
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise CommandError(f"--input: unknown dtype {name!r}; for example float32 or int64")
    make = torch.randn if dtype.is_floating_point else torch.zeros
    return make(size, dtype=dtype)


def optimizer_class(name: str) -> Callable[..., Optimizer] | None:
    """The ``torch.optim`` class of that name, in any case; None for ``none``."""
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


def optimizer_for(
    model: nn.Module, make: Callable[..., Optimizer], options: Namespace
) -> Optimizer:
    """The optimizer that the class ``make`` makes for the model's parameters."""
    try:
        return make(model.parameters())
    except ValueError as error:
        raise CommandError(
            f"optimizer {options.optimizer or 'sgd'} does not take the parameters of "
            f"{options.model}: {in_one_line(error)}; --optimizer none leaves it out"
        ) from error
