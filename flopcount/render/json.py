"""JSON: exact, and read again by ``Report.from_json``."""

from __future__ import annotations

from flopcount.report import Report

__all__ = ["render"]


def render(report: Report) -> str:
    """The report's own JSON."""
    return report.to_json()
