"""Every error that flopcount raises derives from :class:`FlopcountError`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "FlopcountError",
    "TraceError",
    "UncountedOpError",
    "UncountedOpWarning",
    "UnknownDeviceError",
    "UnknownModuleError",
    "UnknownNameError",
    "UnwatchedProcessWarning",
    "UnwatchedThreadWarning",
    "did_you_mean",
    "in_one_line",
]


class FlopcountError(Exception):
    """Base class of flopcount's errors.

    >>> import torch, flopcount
    >>> report = flopcount.count(torch.nn.Linear(8, 2), torch.ones(4, 8))
    >>> try:
    ...     report["bias"]
    ... except flopcount.FlopcountError as error:
    ...     print(error)
    no module 'bias' ran
    """


class TraceError(FlopcountError):
    """A file is no recording of a run, or one that cannot be counted; the message says why.

    >>> import flopcount
    >>> try:
    ...     flopcount.read_trace("README.md")
    ... except flopcount.TraceError as error:
    ...     print(str(error).partition(":")[0])
    README.md
    """


class UnknownDeviceError(FlopcountError):
    """The peaks of a device are not known, so that nothing can be compared with them.

    >>> import torch, flopcount
    >>> report = flopcount.count(torch.nn.Linear(8, 2), torch.ones(4, 8))
    >>> try:
    ...     report.roofline("Abacus")
    ... except flopcount.UnknownDeviceError as error:
    ...     print(str(error).partition(":")[0])
    the peaks of 'Abacus' are not known
    """


class UncountedOpError(FlopcountError):
    """An op has no formula and ``strict=True`` asked for every op to be counted.

    Its message names the op, its arguments' shapes and dtypes, the scope and the phase.

    >>> import torch, flopcount
    >>> sparse = torch.eye(3).to_sparse()
    >>> try:
    ...     with flopcount.FlopCounter(strict=True):
    ...         sparse @ sparse
    ... except flopcount.UncountedOpError as error:
    ...     print(str(error).partition(":")[0])
    aten.mm is uncounted
    """


class UncountedOpWarning(UserWarning):
    """An op of the report was not counted; a counter warns once for each op.

    >>> import torch, flopcount, warnings
    >>> sparse = torch.eye(3).to_sparse()
    >>> with flopcount.FlopCounter() as counter:
    ...     product = sparse @ sparse
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     report = counter.report()
    >>> [warning.category.__name__ for warning in caught], report.uncounted
    (['UncountedOpWarning'], {'aten.mm': 1})
    """


class UnwatchedThreadWarning(UserWarning):
    """A thread that had not entered the counter ran something; it is warned of once.

    This is a module, a backward pass or an optimizer's step. Plain functions go unnoticed: torch
    has no hook for those of other threads.

    >>> import threading, torch, flopcount, warnings
    >>> layer = torch.nn.Linear(8, 2)
    >>> with flopcount.FlopCounter() as counter:
    ...     thread = threading.Thread(target=layer, args=(torch.ones(4, 8),), name="other")
    ...     thread.start()
    ...     thread.join()
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     report = counter.report()
    >>> [warning.category.__name__ for warning in caught], report.unwatched
    (['UnwatchedThreadWarning'], {'other': 'Linear'})
    """


class UnwatchedProcessWarning(UserWarning):
    """The block started a process, into which the counter does not see; it is warned of once.

    Workers of a data loader are no reason to warn; ``report.children`` has them, too.

    >>> import os, torch, flopcount, warnings
    >>> with flopcount.FlopCounter() as counter:
    ...     if os.fork() == 0:
    ...         os._exit(0)
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     report = counter.report()
    >>> [warning.category.__name__ for warning in caught], report.children
    (['UnwatchedProcessWarning'], {'os.fork': 1})
    """


class UnknownNameError(FlopcountError, KeyError):
    """No phase, op, dtype, gradient or module of the report has this name.

    The message names the nearest, or all if there are few.

    >>> import torch, flopcount
    >>> report = flopcount.count(torch.nn.Linear(8, 2), torch.ones(4, 8))
    >>> report.phases["fwd"]
    Traceback (most recent call last):
    flopcount.errors.UnknownNameError: no phase 'fwd'; did you mean 'forward'?
    """

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return str(self.args[0])


class UnknownModuleError(UnknownNameError):
    """No module of the report has this path; the message names the nearest.

    >>> import torch, flopcount
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 2))
    >>> flopcount.count(model, torch.ones(4, 8))["00"]
    Traceback (most recent call last):
    flopcount.errors.UnknownModuleError: no module '00' ran; did you mean '0'?
    """


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``; did you mean …?`` with the names closest to ``name``, or nothing.

    >>> did_you_mean("resnet5", ["resnet50", "vgg16"])
    "; did you mean 'resnet50'?"
    >>> did_you_mean("conv1", ["layer1.0.conv1", "conv12"])  # the end of a path
    "; did you mean 'layer1.0.conv1'?"
    """
    names = list(known)
    near = [path for path in names if path.endswith(f".{name}")][:3]
    near = near or difflib.get_close_matches(name, names, n=3)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def in_one_line(error: Exception) -> str:
    """The class of ``error`` and its message, without what explains it further.

    >>> in_one_line(ValueError("\\n sizes differ\\n expected 3")), in_one_line(AssertionError())
    ('ValueError: sizes differ', 'AssertionError')
    >>> in_one_line(RuntimeError("Error(s) in loading:\\n  missing key"))  # a heading says nothing
    'RuntimeError: Error(s) in loading: missing key'
    """
    words = [f"{type(error).__name__}:"]
    for line in filter(None, map(str.strip, str(error).splitlines())):
        words.append(line)
        if not line.endswith(":"):
            break
    return " ".join(words).removesuffix(":")
