"""Baselines: reports as documents that are committed beside the tests, and compared with later."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from flopcount import __version__
from flopcount.cost import UNITS
from flopcount.errors import FlopcountError
from flopcount.report.diff import Diff
from flopcount.report.report import Report
from flopcount.report.tree import ModuleNode


class BaselineError(FlopcountError):
    """A file of baselines cannot be read, or a baseline is used in a wrong way."""


def damaged(what: str, error: Exception) -> BaselineError:
    """The error for a document that is not what it should be, with what to do about it."""
    remedy = "delete it, and pytest --flops-update writes it anew"
    return BaselineError(f"{what} ({type(error).__name__}: {error}); {remedy}")


def torch_version() -> str:
    """The version of the installed torch, without the device that it was built for."""
    return version("torch").partition("+")[0]


def document_of(report: Report) -> dict[str, Any]:
    """The parts of ``report`` that are compared, in an order that does not depend on the run.

    Zeros, the names of classes, and gradients (which are parts of the rows) are left out.
    """
    document = json.loads(report.to_json())
    del document["unwatched"], document["children"]
    for module in document["modules"]:
        del module["type"]
    for row in document["rows"]:
        del row["gradients"], row["uncounted"]
        row["cost"] = {kind: count for kind, count in row["cost"].items() if count}
    document["rows"].sort(key=lambda row: (row["module"], row["phase"], row["op"], row["dtype"]))
    return {**document, "flopcount": __version__, "torch": torch_version()}


def report_of(document: Mapping[str, Any]) -> Report:
    """The report that ``document`` was made of, without gradients and names of classes.

    Raises:
        BaselineError: the document is damaged, or of another version of flopcount.
    """
    try:
        if not isinstance(document["torch"], str):
            raise TypeError(f"torch is not a version: {document['torch']!r}")
        modules = [{**module, "type": ""} for module in document["modules"]]
        rows = [{**row, "gradients": {}} for row in document["rows"]]
        restored = {**document, "modules": modules, "rows": rows, "unwatched": {}}
        return Report.from_json(json.dumps(restored))
    except (KeyError, TypeError, ValueError) as error:
        raise damaged("not a baseline", error) from error


def compare(document: Mapping[str, Any], diff: Diff, *, only_increase: bool) -> str:
    """What is wrong with ``diff``, the change from the baseline ``document``; empty if nothing is.

    With ``only_increase``, only more FLOPs, MACs or bytes in the total are wrong.
    """
    changes = []
    for unit, reading in UNITS.items():
        before, after = getattr(diff.before.total, reading), getattr(diff.after.total, reading)
        if after > before or (after < before and not only_increase):
            changes.append(
                f"{after:,} {unit} is {abs(after - before):,} "
                f"{'more' if after > before else 'less'} than the {before:,} {unit} that it was"
            )
    if not changes and not only_increase:
        if diff:
            changes = [f"it costs the same in all, but {len(diff.changes)} of its ops do not"]
        elif others := _changed_counts(diff.before, diff.after):
            more = f" (and {len(others) - 1} more like it)" if others[1:] else ""
            changes = [f"it costs the same, but {others[0]}{more}"]
    if changes and document["torch"] != torch_version():
        changes.append(f"it was counted with torch {document['torch']}, this is {torch_version()}")
    return ", ".join(changes)


def is_changed(old: Report, new: Report) -> bool:
    """Whether the cost, or a count of calls or parameters, is another one."""
    return bool(old.diff(new)) or bool(_changed_counts(old.root, new.root))


def _changed_counts(before: ModuleNode, after: ModuleNode) -> list[str]:
    """Calls and parameters that changed: they need not change the cost."""
    old, new = _counts(before), _counts(after)
    return [
        f"{what}: {new.get(what, 0):,} instead of {old.get(what, 0):,}"
        for what in dict.fromkeys([*new, *old])
        if new.get(what, 0) != old.get(what, 0)
    ]


def _counts(root: ModuleNode) -> dict[str, int]:
    """How often each module and op ran, and the parameters of each module."""
    nodes = [(node, node.path or "the model") for node in root.walk()]
    counts: dict[str, int] = {}
    for node, path in nodes:
        counts[f"calls of {path}"] = node.calls
        counts[f"parameters of {path}"] = node.params or 0  # known of a model that ran here
    for node, path in nodes:
        for row in node.rows:
            what = f"calls of {row.op} ({row.dtype}, {row.phase} of {path})"
            counts[what] = counts.get(what, 0) + row.calls
    return counts
