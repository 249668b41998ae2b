"""Every error that flopcount raises derives from :class:`FlopcountError`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "FlopcountError",
    "UncountedOpError",
    "UncountedOpWarning",
    "UnknownModuleError",
    "UnwatchedThreadWarning",
    "did_you_mean",
]


class FlopcountError(Exception):
    """Base class of flopcount's errors."""


class UncountedOpError(FlopcountError):
    """An op has no formula and ``strict=True`` asked for every op to be counted."""


class UncountedOpWarning(UserWarning):
    """An op of the report was not counted; said once for each op of a counter."""


class UnwatchedThreadWarning(UserWarning):
    """A module ran in a thread that had not entered the counter; said once for each thread."""


class UnknownModuleError(FlopcountError, KeyError):
    """No module of the report has this path."""

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return str(self.args[0])


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``; did you mean …?`` with the names closest to ``name``, or nothing.

    >>> did_you_mean("resnet5", ["resnet50", "vgg16"])
    "; did you mean 'resnet50'?"
    """
    near = difflib.get_close_matches(name, known, n=3)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
