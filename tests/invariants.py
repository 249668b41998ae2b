"""What holds for every report, whatever was counted."""

from __future__ import annotations

from dataclasses import astuple, fields

from flopcount.attribution.phase import PHASES
from flopcount.cost import ZERO, Cost
from flopcount.report.report import Report

ARITHMETIC = ("macs", "dots", "void_macs", "arith", "compare", "special")


def within(part: Cost, whole: Cost) -> bool:
    """No field of ``part`` exceeds that of ``whole``."""
    return all(a <= b for a, b in zip(astuple(part), astuple(whole), strict=True))


def check(report: Report, *, plain: bool = False) -> None:
    """Assert what every report promises.

    Args:
        report: any report.
        plain: it is of a plain training step, so that every op is attributed and counted.
    """
    nodes = list(report.root.walk())
    total = report.root.total
    assert report.total == total
    assert sum((node.own for node in nodes), ZERO) == total
    for node in nodes:
        assert sum((row.cost for row in node.rows), ZERO) == node.own
        assert sum((child.total for child in node.children), node.own) == node.total
        assert all(within(child.total, node.total) for child in node.children), node.path
        assert list(node.phases) == list(PHASES)
        assert sum(node.phases.values(), ZERO) == node.total
        gradients = sum(node.gradients.values(), ZERO)
        # an op of backward may be called by hand, in any phase
        assert within(gradients, node.phases["backward"] if plain else node.total), node.path
        assert min(astuple(node.own)) >= 0
    assert sum((row.cost for row in report.entries), ZERO) == total
    rows = report.rows()
    for field in fields(Cost):
        assert sum(row[field.name] for row in rows) == getattr(total, field.name), field.name
    for sums in (report.by_operator(), report.by_dtype()):
        assert sum(sums.values(), ZERO) == total
    assert report.by_module()[report.root.path] == total
    assert report.hardware_flops >= report.model_flops
    assert Report.from_json(report.to_json()) == report
    if plain:
        assert not any(row.module == "unattributed" for row in report.entries)
        assert not report.uncounted
