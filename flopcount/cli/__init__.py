"""The command line: ``flopcount MODEL`` prints what a forward pass or a training step costs."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from flopcount import __version__
from flopcount.errors import FlopcountError, UncountedOpWarning, did_you_mean

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["main"]


class CommandError(FlopcountError):
    """Bad input: one line that says what is wrong and what would be right."""


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line in one line, without the usage above it."""

    def error(self, message: str) -> NoReturn:
        raise CommandError(message)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    parse = Parser(
        prog="flopcount",
        description="Count what a model costs, per module, phase and op: FLOPs, MACs and bytes.",
        epilog="examples: flopcount resnet50 --train · flopcount vit_b_16 --depth 1 · "
        "flopcount mypackage.models:build --input 128:int64 --batch 8 · flopcount ops --help",
    )
    parse.add_argument(
        "model",
        metavar="MODEL",
        help="a torchvision architecture (resnet50), or package.module:callable that returns a "
        "torch.nn.Module",
    )
    parse.add_argument(
        "--train",
        action="store_true",
        help="count a training step: forward, backward from the sum of the outputs, optimizer",
    )
    parse.add_argument(
        "--batch", type=positive, default=1, metavar="N", help="samples in the batch (default: 1)"
    )
    parse.add_argument(
        "--input",
        action="append",
        type=shape,
        metavar="SHAPE",
        help="shape of one sample, such as 3,224,224; a dtype may follow, 128:int64; once for "
        "each input (default for torchvision: the size its weights were measured at)",
    )
    parse.add_argument(
        "--optimizer",
        metavar="NAME",
        help="a torch.optim class such as adamw, or none (default with --train: sgd)",
    )
    parse.add_argument(
        "--depth", type=natural, metavar="N", help="levels of modules to show (default: all)"
    )
    parse.add_argument(
        "--device",
        choices=("meta", "cpu", "cuda"),
        default="meta",
        help="where to run; meta, the default, needs no memory and computes nothing",
    )
    parse.add_argument("--version", action="version", version=f"flopcount {__version__}")
    return parse


def ops_parser() -> argparse.ArgumentParser:
    """The options of ``flopcount ops``."""
    parse = Parser(
        prog="flopcount ops",
        description="List how each op that torch knows is counted, and by what formula.",
    )
    parse.add_argument(
        "name", nargs="?", metavar="NAME", help="an op, such as aten.mm, or a part of its name"
    )
    parse.add_argument(
        "--uncounted", action="store_true", help="only ops that nothing is known about"
    )
    return parse


HINTS = {
    "meta": "; --device cpu runs it on real values",
    "Meta": "; --device cpu runs it on real values",
    "more than 1 value per channel": "; --batch 2 gives it more",
}
"""What helps where a model fails for a reason that its message names."""


def natural(text: str) -> int:
    """A whole number from 0 up."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number such as 2, got {text!r}")
    return int(text)


def positive(text: str) -> int:
    """A whole number from 1 up."""
    if (number := natural(text)) == 0:
        raise argparse.ArgumentTypeError("expected a whole number from 1 up, got '0'")
    return number


def shape(text: str) -> tuple[tuple[int, ...], str]:
    """``3,224,224`` or ``128:int64``: the shape of one sample, and its dtype."""
    numbers, _, dtype = text.partition(":")
    parts = [part.strip() for part in numbers.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(
            f"expected positive numbers joined by commas, such as 3,224,224, got {text!r}"
        )
    return tuple(map(int, parts)), dtype or "float32"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0, 1 if the model failed, 2 for bad input.

    Who reads the output may have had enough, as ``head`` has: that is no error.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words[:1] == ["ops"]:
            code = list_ops(ops_parser().parse_args(words[1:]))
        else:
            code = run(parser().parse_args(words))
        sys.stdout.flush()
        return code
    except FlopcountError as error:
        print(f"flopcount: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it again
        return 0


def list_ops(options: argparse.Namespace) -> int:
    """Print how ops are decided: all, those whose name contains a word, those that are not."""
    from flopcount.formulas.op_table import op_rows, render

    rows = op_rows()
    if options.name:
        wanted = options.name.replace("::", ".").lower().removesuffix(".default")
        # gelu: gelu_backward, too; but addmm is no mm, if there is an mm
        words = re.compile(rf"(^|[._]){re.escape(wanted)}(\d+d)?(_|$)")
        names = {row.op for row in rows}
        found = {name for name in names if words.search(name.lower())}
        found = found or {name for name in names if wanted in name.lower()}
        if not found:
            bare = {name.partition(".")[2] for name in names}
            raise CommandError(f"no op is named {wanted!r}{did_you_mean(wanted, names | bare)}")
        exact = {wanted, f"aten.{wanted}"}
        rows = sorted((row for row in rows if row.op in found), key=lambda row: row.op not in exact)
    if options.uncounted:
        rows = [row for row in rows if row.decision == "uncounted"]
    which = f" with {options.name} in its name" if options.name else ""
    print(render(rows) if rows else f"every op{which} is decided")
    return 0


def run(options: argparse.Namespace) -> int:
    """Count the step that ``options`` describe, and print its report."""
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        raise CommandError("--device cuda: this torch sees no CUDA device; use meta or cpu")
    if options.optimizer and not options.train:
        raise CommandError("--optimizer takes a step after backward: give --train too")
    optimizer_class = find_optimizer(options.optimizer or "sgd") if options.train else None

    with torch.device(options.device):
        model, args = load(options)
    model.train(options.train)
    optimizer = None
    if optimizer_class:
        try:
            optimizer = optimizer_class(model.parameters())
        except ValueError as error:
            name = options.optimizer or "sgd"
            raise CommandError(
                f"optimizer {name} does not take the parameters of {options.model}: {error}; "
                "--optimizer none leaves it out"
            ) from error
    try:
        from flopcount.counter.count import loss_of
        from flopcount.counter.counter import FlopCounter

        with FlopCounter(model) as counter:
            output = model(*args)
            if options.train:
                loss_of(output).backward()
            if optimizer is not None:
                optimizer.step()
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "")
        hint = next((hint for part, hint in HINTS.items() if part in reason), "")
        print(
            f"flopcount: {options.model} failed on the {options.device} device: "
            f"{type(error).__name__}: {reason}{hint}",
            file=sys.stderr,
        )
        return 1
    print(headline(options, args, optimizer), end="\n\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UncountedOpWarning)  # the table lists them
        report = counter.report()
    print(report.table(depth=options.depth))
    return 0


def load(options: argparse.Namespace) -> tuple[nn.Module, tuple[Any, ...]]:
    """The model that was named, and the arguments to call it with."""
    import torch

    if ":" in options.model:
        model = call(options.model).to(options.device)  # it may be there from elsewhere
        if not options.input:
            raise CommandError(f"{options.model}: give the shape of one sample, --input 3,224,224")
    else:
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
        model = model.to(options.device)
        if options.input is None:
            return model, torchvision_models.example_inputs(options.model, options.batch)
    samples = (sample((options.batch, *numbers), dtype) for numbers, dtype in options.input)
    return model, tuple(samples)


def sample(size: tuple[int, ...], dtype: str) -> torch.Tensor:
    """A tensor of ``size``: noise, or zeros of a whole-number type, which index anything."""
    import torch

    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype):
        raise CommandError(f"--input: unknown dtype {dtype!r}; for example float32 or int64")
    return (
        torch.randn(size, dtype=kind) if kind.is_floating_point else torch.zeros(size, dtype=kind)
    )


def call(spec: str) -> nn.Module:
    """The module that ``package.module:callable`` returns, or is."""
    from torch import nn

    path, _, name = spec.partition(":")
    if not path or not name:
        raise CommandError(f"{spec}: expected package.module:callable")
    sys.path.insert(0, "")  # as python -m does: the user's own files come first
    try:
        home = importlib.import_module(path)
    except ImportError as error:
        raise CommandError(f"{spec}: cannot import {path!r}: {error}") from error
    finally:
        sys.path.remove("")
    build = getattr(home, name, None)
    if not callable(build):
        raise CommandError(
            f"{spec}: {path} has no callable {name!r}{did_you_mean(name, dir(home))}"
        )
    try:
        model = build if isinstance(build, nn.Module) else build()
    except Exception as error:
        raise CommandError(
            f"{spec}: calling it without arguments failed: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(model, nn.Module):
        raise CommandError(f"{spec} returned {type(model).__name__}; expected a torch.nn.Module")
    return model


def find_optimizer(name: str) -> Any:
    """The ``torch.optim`` class of that name, in any case; None for ``none``."""
    import torch

    if name.lower() == "none":
        return None
    classes = {
        known.lower(): cls
        for known, cls in vars(torch.optim).items()
        if isinstance(cls, type)
        and issubclass(cls, torch.optim.Optimizer)
        and cls is not torch.optim.Optimizer
    }
    if name.lower() not in classes:
        hint = did_you_mean(name.lower(), [*classes, "none"])
        raise CommandError(f"unknown optimizer {name!r}{hint or '; for example sgd or adamw'}")
    return classes[name.lower()]


def headline(options: argparse.Namespace, args: tuple[Any, ...], optimizer: Any) -> str:
    """What was counted, in one line."""
    from flopcount.formulas import describe

    step = "forward pass"
    if options.train:
        step = "training step, loss = sum of outputs"
        step += f", {type(optimizer).__name__}" if optimizer is not None else ", no optimizer"
    return f"{options.model}({describe(args)}) on {options.device}: {step}"
