"""The command line: ``flopcount MODEL`` prints what a step costs, ``flopcount ops`` lists ops, and
``flopcount trace FILE`` says what a recorded run cost and how long it took."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from flopcount.cli.console import spelling
from flopcount.cli.parser import count_parser, ops_parser, trace_parser
from flopcount.errors import FlopcountError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0, 1 if the model failed, 2 for bad input.

    A reader that closes the pipe early, as ``head`` does, is not an error.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    with spelling(sys.stdout, sys.stderr):
        try:
            code = _run(words)
            sys.stdout.flush()
            return code
        except FlopcountError as error:
            print(f"flopcount: error: {error}", file=sys.stderr)
            return 2
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # it is flushed again
            if isinstance(error, BrokenPipeError):
                return 0
            print(f"flopcount: error: {error}", file=sys.stderr)
            return 2


def _run(words: list[str]) -> int:
    if words[:1] == ["ops"]:
        options = ops_parser().parse_args(words[1:])
        from flopcount.cli.ops import run
    elif words[:1] == ["trace"]:
        options = trace_parser().parse_args(words[1:])
        from flopcount.cli.trace import run
    else:
        options = count_parser().parse_args(words)
        from flopcount.cli.count import run  # it imports torch, which --help does without
    return run(options)
