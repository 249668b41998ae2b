"""A snapshot of the running totals: a report."""

from __future__ import annotations

from collections.abc import Mapping

from flopcount.attribution.tree import ModuleTree
from flopcount.report.ledger import Ledger
from flopcount.report.report import Report
from flopcount.report.tree import Module


def take(ledger: Ledger, tree: ModuleTree, unwatched: Mapping[str, str] | None = None) -> Report:
    """A report of the rows in ``ledger`` and the modules in ``tree`` that ran.

    Args:
        ledger: the running totals.
        tree: the modules.
        unwatched: threads that had not entered the counter, with what ran first in each.
    """
    rows = tuple(ledger.rows.values())
    paths = {row.module for row in rows}
    scopes = [*tree.scopes(), tree.unattributed]
    shown = {tree.root, tree.model}
    for scope in scopes:
        if scope.calls or scope.path in paths:
            shown.update(scope.lineage())
    modules = []
    for scope in filter(shown.__contains__, scopes):
        scope.measure()
        modules.append(Module(scope.path, scope.name, scope.type, scope.calls, scope.params))
    roots = [scope for scope in tree.root.children.values() if scope in shown]
    model = tree.model or (roots[0] if len(roots) == 1 else None)
    return Report(tuple(modules), rows, model.path if model else None, dict(unwatched or {}))
