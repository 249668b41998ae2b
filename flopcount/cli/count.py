"""``flopcount MODEL``: what a forward pass or a training step costs."""

from __future__ import annotations

import sys
import warnings
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flopcount import __version__
from flopcount.cli.models import model_and_inputs, optimizer_class, optimizer_for
from flopcount.cli.parser import CommandError, Parser, natural, positive, shape
from flopcount.errors import UncountedOpWarning

if TYPE_CHECKING:
    from torch.optim import Optimizer

EXAMPLES = (
    "examples: flopcount resnet50 --train · flopcount vit_b_16 --depth 1 · "
    "flopcount mypackage.models:build --input 128:int64 --batch 8 · flopcount ops --help"
)

OPTIONS: dict[str, dict[str, Any]] = {
    "model": {
        "metavar": "MODEL",
        "help": "a torchvision architecture (resnet50), or package.module:callable that returns a "
        "torch.nn.Module",
    },
    "--train": {
        "action": "store_true",
        "help": "count a training step: forward, backward from the sum of the outputs, optimizer",
    },
    "--batch": {
        "type": positive,
        "default": 1,
        "metavar": "N",
        "help": "samples in the batch (default: 1)",
    },
    "--input": {
        "action": "append",
        "type": shape,
        "metavar": "SHAPE",
        "help": "shape of one sample, such as 3,224,224; a dtype may follow, 128:int64; once for "
        "each input (default for torchvision: the size its weights were measured at)",
    },
    "--optimizer": {
        "metavar": "NAME",
        "help": "a torch.optim class such as adamw, or none (default with --train: sgd)",
    },
    "--depth": {
        "type": natural,
        "metavar": "N",
        "help": "levels of modules to show (default: all)",
    },
    "--device": {
        "choices": ("meta", "cpu", "cuda"),
        "default": "meta",
        "help": "where to run; meta, the default, needs no memory and computes nothing",
    },
    "--version": {"action": "version", "version": f"flopcount {__version__}"},
}

HINTS = {
    "meta": "; --device cpu runs it on real values",
    "Meta": "; --device cpu runs it on real values",
    "more than 1 value per channel": "; --batch 2 gives it more",
}
"""What helps when a model's error message has these words."""


def run(words: Sequence[str]) -> int:
    """Count the step that the command line describes, and print its report."""
    parser = Parser(
        prog="flopcount",
        description="Count what a model costs, per module, phase and op: FLOPs, MACs and bytes.",
        epilog=EXAMPLES,
    )
    for name, settings in OPTIONS.items():
        parser.add_argument(name, **settings)
    options = parser.parse_args(words)

    import torch

    from flopcount.counter.count import count

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
    reason = next(iter(str(error).splitlines()), "")
    hint = next((hint for words, hint in HINTS.items() if words in reason), "")
    failed = f"{options.model} failed on the {options.device} device"
    return f"{failed}: {type(error).__name__}: {reason}{hint}"


def headline(options: Namespace, inputs: tuple[Any, ...], optimizer: Optimizer | None) -> str:
    """What was counted, in one line."""
    from flopcount.formulas import describe

    step = "forward pass"
    if options.train:
        step = "training step, loss = sum of outputs"
        step += f", {type(optimizer).__name__}" if optimizer is not None else ", no optimizer"
    return f"{options.model}({describe(inputs)}) on {options.device}: {step}"
