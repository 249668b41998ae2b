"""What every report promises, whatever was counted.

The whole suite checks each report that a test makes: see ``conftest.py``.
"""

from __future__ import annotations

from dataclasses import astuple, fields

from flopcount.attribution.phase import PHASES
from flopcount.cost import ZERO, Cost
from flopcount.report.report import Report
from flopcount.report.tree import ModuleNode

ARITHMETIC = ("macs", "dots", "void_macs", "arith", "compare", "special")


def within(part: Cost, whole: Cost) -> bool:
    """No field of ``part`` exceeds that of ``whole``."""
    return all(a <= b for a, b in zip(astuple(part), astuple(whole), strict=True))


def check(report: Report, *, plain: bool = False) -> None:
    """Assert what every report promises; each failure names the promise that is broken.

    Args:
        report: any report.
        plain: it is of a plain training step, so that every op is attributed and counted.
    """
    nodes, total = list(report.root.walk()), report.root.total
    assert report.total == total, "the report's total is its root's"
    assert sum((node.own for node in nodes), ZERO) == total, "modules' own costs sum to the total"
    for node in nodes:
        check_node(node, plain)
    check_rows(report)
    assert report.by_module()[report.root.path] == total, "by_module() has the total at the root"
    assert report.hardware_flops >= report.model_flops, "recomputation only adds FLOPs"
    assert Report.from_json(report.to_json()) == report, "JSON gives the same report again"
    if plain:
        modules = {row.module for row in report.entries}
        assert "unattributed" not in modules, "every op of a plain step has a module"
        assert not report.uncounted, "every op of a plain step is counted"


def check_node(node: ModuleNode, plain: bool) -> None:
    """Assert what every module's node promises."""
    path = node.path or "the model"
    rows, children = (row.cost for row in node.rows), [child.total for child in node.children]
    assert sum(rows, ZERO) == node.own, f"{path}: its rows sum to its own cost"
    assert sum(children, node.own) == node.total, f"{path}: own cost and children sum to its total"
    assert all(within(child, node.total) for child in children), f"{path}: no child exceeds it"
    assert list(node.phases) == list(PHASES), f"{path}: it has every phase, in order"
    assert sum(node.phases.values(), ZERO) == node.total, f"{path}: its phases sum to its total"
    # an op of backward may be called by hand, in any phase
    whole = node.phases["backward"] if plain else node.total
    gradients = sum(node.gradients.values(), ZERO)
    assert within(gradients, whole), f"{path}: its gradients are a part of its cost"
    assert min(astuple(node.own)) >= 0, f"{path}: no cost is negative"


def check_rows(report: Report) -> None:
    """Assert that every way to list a report's rows adds up to its total."""
    total = report.root.total
    assert sum((row.cost for row in report.entries), ZERO) == total, "entries sum to the total"
    rows = report.rows()
    for field in fields(Cost):
        sums = sum(row[field.name] for row in rows)
        assert sums == getattr(total, field.name), f"rows() sum to the total's {field.name}"
    for name in ("by_operator", "by_dtype"):
        costs = getattr(report, name)()
        assert sum(costs.values(), ZERO) == total, f"{name}() sums to the total"
