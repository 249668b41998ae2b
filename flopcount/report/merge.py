"""Reports of several ranks as one: costs, calls and times add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from flopcount.cost import ZERO
from flopcount.report.ledger import Ledger
from flopcount.report.report import Report
from flopcount.report.run import CallTime, KernelTime, Run
from flopcount.report.tree import Module


def merged(reports: Sequence[Report]) -> Report:
    """The report of all ``reports`` together; a module has its parameters once."""
    if len(reports) == 1:
        return reports[0]
    ledger = Ledger()
    modules: dict[str, Module] = {}
    for report in reports:
        for row in report.entries:
            ledger.add(row)
        for module in report.modules:
            known = modules.get(module.path)
            calls = module.calls + (known.calls if known else 0)
            modules[module.path] = replace(known or module, calls=calls)
    first = reports[0]
    paths = {report.model_path for report in reports}
    return replace(
        first,
        modules=tuple(modules.values()),
        entries=tuple(ledger.rows.values()),
        model_path=first.model_path if len(paths) == 1 else None,
        run=_merged_runs([report.run for report in reports if report.run]),
    )


def _merged_runs(runs: Sequence[Run]) -> Run | None:
    """The time of all runs, which ran at once: the longest span, and the sum of all work."""
    if not runs:
        return None
    others: Counter[str] = Counter()
    for run in runs:
        others.update(run.others)
    return Run(
        devices=tuple(device for run in runs for device in run.devices),
        steps=tuple(sorted({step for run in runs for step in run.steps})),
        is_whole=all(run.is_whole for run in runs),
        span=max(run.span for run in runs),
        busy=sum(run.busy for run in runs),
        idle=sum(run.idle for run in runs),
        work=sum(run.work for run in runs),
        counted=sum(run.counted for run in runs),
        others=dict(others.most_common()),
        calls=_merged_calls(call for run in runs for call in run.calls),
        kernels=_merged_kernels(kernel for run in runs for kernel in run.kernels),
    )


def _merged_calls(calls: Iterable[CallTime]) -> tuple[CallTime, ...]:
    totals: dict[tuple[object, ...], CallTime] = {}
    for call in calls:
        key = call.op, call.dtype, call.arguments, call.is_counted
        known = totals.get(key, replace(call, calls=0, cost=ZERO, nanoseconds=0))
        totals[key] = replace(
            known,
            calls=known.calls + call.calls,
            cost=known.cost + call.cost,
            nanoseconds=known.nanoseconds + call.nanoseconds,
        )
    return tuple(sorted(totals.values(), key=lambda call: -call.nanoseconds))


def _merged_kernels(kernels: Iterable[KernelTime]) -> tuple[KernelTime, ...]:
    totals: dict[tuple[str, str], KernelTime] = {}
    for kernel in kernels:
        key = kernel.kernel, kernel.op
        known = totals.get(key, replace(kernel, calls=0, nanoseconds=0))
        totals[key] = replace(
            known,
            calls=known.calls + kernel.calls,
            nanoseconds=known.nanoseconds + kernel.nanoseconds,
        )
    return tuple(sorted(totals.values(), key=lambda kernel: -kernel.nanoseconds))
