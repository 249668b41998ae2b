"""Read a recorded run: ``torch.profiler`` wrote it, wherever it ran."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

import torch
from torch import nn

from flopcount.errors import TraceError, UncountedOpWarning
from flopcount.report.merge import merged
from flopcount.report.report import Report
from flopcount.torch_private.modes import no_autocast, without_modes
from flopcount.trace.events import MODULES, Event, Recording, read
from flopcount.trace.naming import named_after, paths_of
from flopcount.trace.walk import Walk, steps_in


def read_trace(
    path: str | PathLike[str],
    steps: int | Iterable[int] | None = None,
    ranks: int | Iterable[int] | None = None,
    *,
    model: nn.Module | None = None,
) -> Report:
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
            or gzip; or a folder of such files, one of each rank, whose costs add up.
        steps: the number of the profiler's step to read, or several: those of ``ProfilerStep#5``.
            By default the whole recording.
        ranks: the rank to read, or several; by default all that there are.
        model: the model that ran, or one like it on the meta device. Modules have the names that
            they have in it, and their parameters, where the order of calls and the shapes agree.
            A recording of :func:`flopcount.record` has them already.

    Raises:
        TraceError: the file is no such recording, has no shapes, is damaged or cut off, or has no
            such step, rank or model. The message says which, and how to record.
        TypeError: ``steps`` or ``ranks`` are not whole numbers.
        OSError: the file cannot be read.

    Warns:
        UncountedOpWarning: once for each op whose cost is not known, with the reason.
    """
    if model is not None and not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {model!r}")
    reports, uncounted, found = [], dict[str, str](), dict[Any, Path]()
    wanted, wanted_steps = _numbers(ranks, "ranks"), _numbers(steps, "steps")
    for file in _files(path):
        recording = read(file)
        rank = _rank(recording)
        first = found.setdefault(_process(recording) if rank is None else rank, file)
        if first != file:
            raise TraceError(
                f"{fspath(path)}: {first.name} and {file.name} are of one "
                f"{'process' if rank is None else 'rank'}: read each by itself"
            )
        if wanted is None or rank in wanted:
            report, reasons = _count(recording, wanted_steps, model)
            reports.append(report)
            uncounted = {**reasons, **uncounted}
    missing = next((rank for rank in wanted or () if rank not in found), None)
    if missing is not None:
        known = ", ".join(str(rank) for rank in found if isinstance(rank, int))
        have = f"it has {known}" if known else "none is written in it"
        raise TraceError(f"{fspath(path)}: no rank {missing}; {have}")
    for op, reason in uncounted.items():
        warnings.warn(f"{op} is uncounted: {reason}", UncountedOpWarning, stacklevel=2)
    return merged(reports)


def _files(path: str | PathLike[str]) -> list[Path]:
    """The file at ``path``, or the recordings in that folder."""
    folder = Path(path)
    if not folder.is_dir():
        return [folder]
    endings = (".json", ".json.gz")
    files = sorted(f for f in folder.iterdir() if f.name.endswith(endings) and f.is_file())
    if not files:
        raise TraceError(f"{folder}: no file in it ends in .json or .json.gz")
    return files


def _rank(recording: Recording) -> int | None:
    """The rank whose recording it is; None if it does not tell."""
    about = recording.about.get("distributedInfo")
    rank = about.get("rank") if isinstance(about, dict) else None
    return rank if isinstance(rank, int) else None


def _process(recording: Recording) -> tuple[Any, ...]:
    """The process whose recording it is."""
    return ("process", recording.host[0].thread[0] if recording.host else None)


def _numbers(asked: int | Iterable[int] | None, what: str) -> Sequence[int] | None:
    """The numbers that are asked for; None for all that there are."""
    if asked is None or (isinstance(asked, range) and asked):
        return asked
    numbers = list(asked) if isinstance(asked, Iterable) else [asked]
    if not all(isinstance(number, int) for number in numbers):
        raise TypeError(f"{what} are whole numbers, as in {what}=range(5, 8); got {asked!r}")
    if not numbers:
        raise TraceError(f"no {what} were asked for: {asked!r} is empty")
    return numbers


def _count(
    recording: Recording, steps: Sequence[int] | None, model: nn.Module | None
) -> tuple[Report, dict[str, str]]:
    """The report of one recording, and why ops are uncounted."""
    selected = _steps(recording, steps)
    is_named = model is None or MODULES in recording.about
    paths = {} if is_named else paths_of(recording, cast(nn.Module, model))
    with without_modes(), no_autocast(), torch.inference_mode(False), torch.no_grad():
        walk = Walk(recording, selected, paths)
    report = walk.ledger.report(walk.places.tree, run=walk.run)
    if paths:
        report = named_after(cast(nn.Module, model), report)
    return _with_modules(report, recording), walk.uncounted


def _with_modules(report: Report, recording: Recording) -> Report:
    """The report with what a recording of :func:`flopcount.record` tells of its modules."""
    if MODULES not in recording.about:
        return report
    try:
        told = Report.from_json(unquote(recording.about[MODULES]))
    except (TypeError, ValueError, RecursionError) as error:
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


def _steps(recording: Recording, steps: Sequence[int] | None) -> Mapping[int, Event]:
    """The events of the steps that are asked for."""
    if steps is None:
        return {}
    known = steps_in(recording)
    missing = next((step for step in steps if step not in known), None)
    if missing is not None:
        have = f"it has {', '.join(map(str, known))}" if known else "the profiler marked none in it"
        raise TraceError(f"{recording.name}: no step {missing}; {have}")
    return {step: known[step] for step in steps}
