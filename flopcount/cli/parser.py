"""What the verbs share: a parser whose errors are one line, and types of arguments."""

from __future__ import annotations

import argparse
from typing import NoReturn

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
