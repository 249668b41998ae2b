"""Markdown: the tables of the text report, for a pull request or a README."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flopcount.report.render import table

if TYPE_CHECKING:
    from flopcount.report.report import Report

ENDINGS = (".md",)


def render(report: Report) -> str:
    """All tables of ``report`` as pipe tables."""
    return table.render(report, style="github")
