"""A report as a JSON document, exact, and back."""

from __future__ import annotations

import json
from dataclasses import asdict, astuple
from typing import Any

from flopcount.attribution.phase import PHASES
from flopcount.cost import Cost
from flopcount.report.report import GRADIENTS, Module, Report, Row

__all__ = ["read", "write"]

SCHEMA = "flopcount.report/1"


def write(report: Report) -> str:
    """What :meth:`Report.to_json` returns."""
    document = {
        "schema": SCHEMA,
        "model": report.model_path,
        "modules": [asdict(module) for module in report.modules],
        "rows": [asdict(row) for row in report.entries],
        "unwatched": report.unwatched,
    }
    return json.dumps(document, indent=1)


def read(text: str) -> Report:
    """What :meth:`Report.from_json` returns."""
    document = json.loads(text)
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        found = document.get("schema") if isinstance(document, dict) else type(document)
        raise ValueError(f"expected a report of schema {SCHEMA!r}, found {found!r}")
    try:
        report = Report(
            modules=tuple(Module(**module) for module in document["modules"]),
            entries=tuple(map(_row, document["rows"])),
            model_path=document["model"],
            unwatched=dict(document["unwatched"]),
        )
        _check(report)
        return report
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"a damaged report: {type(error).__name__}: {error}") from error


def _check(report: Report) -> None:
    """Raise a TypeError where a file holds what no report does."""
    paths = {module.path for module in report.modules}
    if "" not in paths or not paths.issuperset({report.model_path or ""}):
        raise TypeError("the block or the model is not among the modules")
    counts: list[object] = [
        count for module in report.modules for count in (module.calls, module.params)
    ]
    for row in report.entries:
        if row.module not in paths or row.phase not in PHASES or set(row.gradients) - {*GRADIENTS}:
            raise TypeError(f"no such module, phase or gradient: {row}")
        costs = (row.cost, *row.gradients.values())
        counts += [row.calls, row.uncounted, *(n for cost in costs for n in astuple(cost))]
    if any(type(count) is not int for count in counts):
        raise TypeError("counts are whole numbers")


def _row(document: dict[str, Any]) -> Row:
    costs = {name: Cost(**cost) for name, cost in document["gradients"].items()}
    return Row(**{**document, "cost": Cost(**document["cost"]), "gradients": costs})
