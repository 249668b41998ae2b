"""The command lines of the verbs, and the types of their arguments. Nothing here needs torch."""

from __future__ import annotations

import argparse
from typing import NoReturn

from flopcount import __version__
from flopcount.errors import FlopcountError


class CommandError(FlopcountError):
    """Bad input: one line that says what is wrong and what would be right."""


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line in one line, without the usage above it."""

    def error(self, message: str) -> NoReturn:
        """Raise ``message`` instead of printing it."""
        raise CommandError(message)


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


def steps(text: str) -> range:
    """``5`` or ``5:8``: numbers of steps, the last left out."""
    first, colon, last = text.partition(":")
    if not first.isdecimal() or not (last.isdecimal() if colon else not last):
        raise argparse.ArgumentTypeError(f"expected a step, 5, or several, 5:8, got {text!r}")
    numbers = range(int(first), int(last) if colon else int(first) + 1)
    if not numbers:
        raise argparse.ArgumentTypeError(f"there is no step from {first} up to {last}")
    return numbers


def count_parser() -> Parser:
    """The options of ``flopcount MODEL``."""
    parser = Parser(
        prog="flopcount",
        description="Count what a model costs, per module, phase and op: FLOPs, MACs and bytes.",
        epilog="examples: flopcount resnet50 --train · flopcount vit_b_16 --depth 1 · "
        "flopcount mypackage.models:build --input 128:int64 --batch 8 · flopcount ops --help · "
        "flopcount trace --help",
    )
    add = parser.add_argument
    add(
        "model",
        metavar="MODEL",
        help="a torchvision architecture (resnet50), or package.module:callable that returns a "
        "torch.nn.Module",
    )
    step = "count a training step: forward, backward from the sum of the outputs, optimizer"
    add("--train", action="store_true", help=step)
    add("--batch", type=positive, default=1, metavar="N", help="samples in the batch (default: 1)")
    add(
        "--input",
        action="append",
        type=shape,
        metavar="SHAPE",
        help="shape of one sample, such as 3,224,224; a dtype may follow, 128:int64; once for "
        "each input (default for torchvision: the size its weights were measured at)",
    )
    optimizer = "a torch.optim class such as adamw, or none (default with --train: sgd)"
    add("--optimizer", metavar="NAME", help=optimizer)
    add("--depth", type=natural, metavar="N", help="levels of modules to show (default: all)")
    where = "where to run; meta, the default, needs no memory and computes nothing"
    add("--device", choices=("meta", "cpu", "cuda"), default="meta", help=where)
    add("--version", action="version", version=f"flopcount {__version__}")
    return parser


def ops_parser() -> Parser:
    """The options of ``flopcount ops``."""
    parser = Parser(
        prog="flopcount ops",
        description="List how each op that torch knows is counted, and by what formula.",
    )
    add = parser.add_argument
    add("name", nargs="?", metavar="NAME", help="an op, such as aten.mm, or a part of its name")
    add("--uncounted", action="store_true", help="only ops that nothing is known about")
    return parser


def trace_parser() -> Parser:
    """The options of ``flopcount trace``."""
    parser = Parser(
        prog="flopcount trace",
        description="Say what a recorded run cost, how long its device took for it, and how near "
        "that came to what the device can do.",
        epilog="record with torch.profiler.profile(record_shapes=True) and export_chrome_trace()",
    )
    add = parser.add_argument
    add("file", metavar="FILE", help="what torch.profiler exported, or a folder of all ranks")
    add(
        "--steps",
        type=steps,
        metavar="A:B",
        help="the profiler's steps to read: 5, or 5:8 for 5, 6 and 7 (default: the whole file)",
    )
    kinds = ("op", "module", "kernel", "shape")
    add("--by", choices=kinds, default="op", help="what has a row (default: op)")
    named = "whose peaks to compare with, such as 'H100 SXM' (default: the one in the file)"
    add("--device", metavar="NAME", help=named)
    add("--tf32", action="store_true", help="products of float32 may run as TF32")
    add("-o", dest="output", metavar="OUT", help="write the report, too; its ending is the format")
    return parser
