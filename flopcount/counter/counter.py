"""FlopCounter: what the user opens around a program, and asks for a report."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from flopcount.attribution.forward import Attribution
from flopcount.attribution.models import Given, models_by_name
from flopcount.attribution.tree import ModuleTree
from flopcount.counter.eager import FORCE_EAGER, captures
from flopcount.counter.functions import FunctionWatch
from flopcount.counter.handlers import Handlers
from flopcount.counter.lifecycle import Lifecycle
from flopcount.counter.tally import Totals
from flopcount.errors import (
    UncountedOpWarning,
    UnwatchedProcessWarning,
    UnwatchedThreadWarning,
)
from flopcount.formulas import Formula, formulas_by_name
from flopcount.report.report import LOADER, Report
from flopcount.torch_private.functions import FunctionHook


class FlopCounter(Lifecycle):
    """Count every op of the block, forward and backward, per module and phase.

    >>> import torch, flopcount
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
    >>> with flopcount.FlopCounter(model) as counter:
    ...     model(torch.ones(4, 8)).sum().backward()
    >>> report = counter.report()
    >>> report.total.macs, report["0"].phases["forward"].macs
    (1408, 512)

    The counter can be entered again, and adds up; :meth:`reset` starts afresh. In a loop, reset
    one counter: a new one at each step is slower, since it looks for the names of all modules
    again. It watches the threads that enter it, and the backward passes that they start. Callbacks
    use :meth:`start` and :meth:`stop`; :meth:`paused` leaves something out.

    Args:
        model: names the root of the report. A submodule that is called by itself is found under
            it too. Without a model, each module that no other module calls is a root. A dict gives
            several models, each with its name.
        others: more models. Each is a root, named by its class, and paths begin with that name.
        formulas: formulas for this counter alone, ``{op: function}``; see
            :func:`flopcount.formula`.
        strict: raise at the first op that has no formula, instead of listing it.

    Raises:
        UncountedOpError: under ``strict``, with the op, its arguments and the scope.
        FlopcountError: when it is left without having been entered, or twice.
        TypeError: a model is no module.
        ValueError: a model is given twice, or is a part of another; a dict is empty.
    """

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Whether torch's compiler may trace a function; it asks before it marks one as eager."""
        FORCE_EAGER.compiler_was_loaded()
        return captures()

    # torch looks it up at each op, and finds it quicker here than in a class above
    __torch_dispatch__ = Lifecycle.__torch_dispatch__

    def __new__(
        cls,
        model: Given = None,  # noqa: ARG004  (what __init__ takes)
        *others: nn.Module,  # noqa: ARG004
        formulas: Mapping[Any, Formula] | None = None,
        strict: bool = False,  # noqa: ARG004
    ) -> FlopCounter:
        """A FlopCounter, or a TailoredCounter if it has formulas of its own."""
        return super().__new__(TailoredCounter if formulas and cls is FlopCounter else cls)

    def __init__(
        self,
        model: Given = None,
        *others: nn.Module,
        formulas: Mapping[Any, Formula] | None = None,
        strict: bool = False,
    ) -> None:
        named = bool(others) or isinstance(model, Mapping)
        self._models = models_by_name(model, others)  # names are those of models that live
        tree = ModuleTree(self._models, named=named)
        own = formulas_by_name(formulas or {})
        functions = FunctionWatch(self, own)
        super().__init__(
            Handlers(own) if own else HANDLERS,
            Totals(strict=strict),
            Attribution(tree, [partial(FunctionHook, functions.begin)]),
        )
        self._children: dict[str, int] = {}  # what processes run that the program started -> number
        self._warned_ops: set[str] = set()
        self._warned_threads: set[str] = set()
        self._warned_children: set[str] = set()

    def report(self) -> Report:
        """A snapshot of what was counted so far, which does not change any more.

        >>> import torch, flopcount
        >>> with flopcount.FlopCounter() as counter:
        ...     product = torch.ones(4, 8) @ torch.ones(8, 2)
        ...     so_far = counter.report()
        ...     product = product @ torch.ones(2, 1)
        >>> so_far.total.macs, counter.report().total.macs
        (64, 72)

        Warns:
            UncountedOpWarning: once for each op whose cost is not known, with the reason.
            UnwatchedThreadWarning: once for each thread that had not entered the counter, but
                ran a module, a backward pass or an optimizer's step.
            UnwatchedProcessWarning: once for what processes ran that the block started, unless
                they are workers of a data loader.
        """
        self._take_off_left_modes()
        ledger, unwatched = self._totals.ledger(), self._attribution.threads.unwatched
        for op, reason in list(self._totals.unknown.items()):
            if op not in self._warned_ops:
                self._warned_ops.add(op)
                warnings.warn(f"{op} is uncounted: {reason}", UncountedOpWarning, stacklevel=2)
        for name, what in list(unwatched.items()):
            if name not in self._warned_threads:
                self._warned_threads.add(name)
                warnings.warn(
                    f"{what} ran in thread {name!r}, which had not entered the counter: nothing "
                    "is counted there; use `with counter:` in that thread, too",
                    UnwatchedThreadWarning,
                    stacklevel=2,
                )
        children = dict(self._children)
        for name, number in children.items():
            if name not in {*self._warned_children, LOADER}:
                self._warned_children.add(name)
                warnings.warn(
                    f"{name} ran in {number} process{'es' if number > 1 else ''} that the block "
                    "started: nothing is counted there; use a counter in the process itself",
                    UnwatchedProcessWarning,
                    stacklevel=2,
                )
        return ledger.report(self._attribution.tree, unwatched, children)

    def reset(self) -> None:
        """Forget what was counted, in all threads; the counter stays open where it is open.

        A call of a module that is going on is not counted as a call any more, but its later ops
        are.

        >>> import torch, flopcount
        >>> with flopcount.FlopCounter() as counter:
        ...     product = torch.ones(4, 8) @ torch.ones(8, 2)
        >>> counter.reset()
        >>> counter.report().total.macs
        0
        """
        self._totals.reset()
        self._captures.abandon()
        self._attribution.threads.unwatched.clear()
        self._children.clear()
        for warned in (self._warned_ops, self._warned_threads, self._warned_children):
            warned.clear()
        self._attribution.tree.forget_calls()


class TailoredCounter(FlopCounter):
    """A counter with formulas of its own: torch has one handler for each op and class of modes."""


HANDLERS = Handlers({}, FlopCounter)
"""The handlers of counters without formulas of their own."""
