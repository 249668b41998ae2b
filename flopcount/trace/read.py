"""Read a recorded run: ``torch.profiler`` wrote it, wherever it ran."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from os import PathLike

import torch

from flopcount.errors import TraceError, UncountedOpWarning
from flopcount.report.report import Report
from flopcount.torch_private.modes import no_autocast, without_modes
from flopcount.trace.events import MODULES, Event, Recording, read
from flopcount.trace.walk import Walk, steps_in


def read_trace(path: str | PathLike[str], steps: int | Iterable[int] | None = None) -> Report:
    """Report what a recorded run cost, and how long its devices took for it.

    >>> import torch, flopcount, tempfile
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 2), torch.nn.ReLU())
    >>> with torch.profiler.profile(record_shapes=True) as profile:
    ...     output = model(torch.ones(4, 8))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     profile.export_chrome_trace(f"{folder}/trace.json")
    ...     report = flopcount.read_trace(f"{folder}/trace.json")
    >>> report.total.macs, report.run.devices, report.seconds > 0
    (64, ('CPU',), True)

    Nothing runs, and no device is needed: the calls are rebuilt from their shapes. Ops of
    composite ops, and of a compiled program's regions, count by themselves. A row has the time of
    the kernels, copies and sets that its op launched; on a CPU, that of the op.

    Args:
        path: what ``torch.profiler.profile(record_shapes=True)`` exported as a Chrome trace, plain
            or gzip.
        steps: the number of the profiler's step to read, or several: those of ``ProfilerStep#5``.
            By default the whole recording.

    Raises:
        TraceError: the file is no such recording, has no shapes, is damaged or cut off, or has no
            such step. The message says which, and how to record.
        OSError: the file cannot be read.

    Warns:
        UncountedOpWarning: once for each op whose cost is not known, with the reason.
    """
    recording = read(path)
    selected = _steps(recording, steps)
    with without_modes(), no_autocast(), torch.inference_mode(False), torch.no_grad():
        walk = Walk(recording, selected)
    for op, reason in walk.uncounted.items():
        warnings.warn(f"{op} is uncounted: {reason}", UncountedOpWarning, stacklevel=2)
    return _with_modules(walk.ledger.report(walk.places.tree, run=walk.run), recording)


def _with_modules(report: Report, recording: Recording) -> Report:
    """The report with what a recording of :func:`flopcount.record` tells of its modules."""
    if MODULES not in recording.about:
        return report
    try:
        told = Report.from_json(json.dumps(recording.about[MODULES]))
    except ValueError as error:
        raise TraceError(f"{recording.name}: its modules are damaged: {error}") from error
    known = {module.path: module for module in told.modules}
    modules = tuple(
        replace(known[module.path], calls=module.calls) if module.path in known else module
        for module in report.modules
    )
    paths = {module.path for module in modules}
    path = told.model_path if told.model_path in paths else None
    models = told.models if paths.issuperset(told.models) else ()
    return replace(report, modules=modules, model_path=path, models=models)


def _steps(recording: Recording, steps: int | Iterable[int] | None) -> Mapping[int, Event]:
    """The events of the steps that are asked for."""
    if steps is None:
        return {}
    known = steps_in(recording)
    wanted = [steps] if isinstance(steps, int) else list(steps)
    if missing := [step for step in wanted if step not in known]:
        have = f"it has {', '.join(map(str, known))}" if known else "the profiler marked none in it"
        raise TraceError(f"{recording.name}: no step {missing[0]}; {have}")
    if not wanted:
        raise TraceError(f"{recording.name}: no step was asked for")
    return {step: known[step] for step in wanted}
