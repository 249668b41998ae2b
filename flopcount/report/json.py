"""Reports as JSON documents, and back without loss."""

from __future__ import annotations

import json
from dataclasses import asdict, astuple
from typing import Any

from flopcount.attribution.phase import PHASES
from flopcount.cost import Cost
from flopcount.report.run import Run, read_run
from flopcount.report.tree import GRADIENTS, Module, Row

SCHEMA = "flopcount.report/1"

Fields = tuple[
    tuple[Module, ...],
    tuple[Row, ...],
    "str | None",
    dict[str, str],
    dict[str, int],
    tuple[str, ...],
    "Run | None",
]
"""The fields of a report: modules, rows, the model's path, unwatched threads and processes, the
names of several models, and the time of a recorded run."""


def write(fields: Fields) -> str:
    """The JSON of a report."""
    modules, rows, model_path, unwatched, children, models, run = fields
    document = {
        "schema": SCHEMA,
        "model": model_path,
        "models": models,
        "modules": [asdict(module) for module in modules],
        "rows": [asdict(row) for row in rows],
        "unwatched": unwatched,
        "children": children,
        "run": run and asdict(run),
    }
    return json.dumps(document, indent=1)


def read(text: str) -> Fields:
    """The fields of the report in ``text``; a ValueError if it is not one of this schema."""
    document = json.loads(text)
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        schema = document.get("schema") if isinstance(document, dict) else type(document)
        raise ValueError(f"expected a report of schema {SCHEMA!r}, found {schema!r}")
    try:
        modules = tuple(map(_module, document["modules"]))
        rows = tuple(map(_row, document["rows"]))
        model_path, unwatched = document["model"], dict(document["unwatched"])
        children = dict(document.get("children", {}))  # version 0.1.0 did not write it
        models = tuple(document.get("models", ()))  # nor this
        run = read_run(document.get("run"))  # nor this
        _check(modules, rows, (model_path or "", *models))
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"a damaged report: {type(error).__name__}: {error}") from error
    return modules, rows, model_path, unwatched, children, models, run


def _check(modules: tuple[Module, ...], rows: tuple[Row, ...], models: tuple[str, ...]) -> None:
    """Raise a TypeError if no report has these fields."""
    paths = {module.path for module in modules}
    if "" not in paths or not paths.issuperset(models):
        raise TypeError("the block or the model is not among the modules")
    counts: list[object] = [module.calls for module in modules]
    optional = [number for module in modules for number in (module.params, module.trainable)]
    optional += [row.nanoseconds for row in rows]
    counts += [number for number in optional if number is not None]
    for row in rows:
        if row.module not in paths or row.phase not in PHASES or set(row.gradients) - {*GRADIENTS}:
            raise TypeError(f"no such module, phase or gradient: {row}")
        costs = (row.cost, *row.gradients.values())
        counts += [row.calls, row.uncounted, *(n for cost in costs for n in astuple(cost))]
    if any(type(count) is not int for count in counts):
        raise TypeError("counts are whole numbers")


def _module(document: dict[str, Any]) -> Module:
    return Module(**{**document, "other_paths": tuple(document.get("other_paths", ()))})


def _row(document: dict[str, Any]) -> Row:
    costs = {name: Cost(**cost) for name, cost in document["gradients"].items()}
    return Row(**{**document, "cost": Cost(**document["cost"]), "gradients": costs})
