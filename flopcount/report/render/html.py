"""HTML: one page with the tables of the text report, that needs nothing else."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from flopcount.cost import format_quantity
from flopcount.report.render.table import default_columns, tables

if TYPE_CHECKING:
    from flopcount.report.report import Report

ENDINGS = (".html",)

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 14px/1.5 system-ui, sans-serif; margin: 2rem; color: #222; }}
table {{ border-collapse: collapse; margin: 2rem 0; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .15rem .8rem; text-align: left; white-space: nowrap; }}
thead th {{ position: sticky; top: 0; background: white; border-bottom: 1px solid #888; }}
tbody tr:hover {{ background: #eef3fb; }}
table:first-of-type tbody tr:last-child {{ font-weight: bold; }}
</style>
</head>
<body>
<h1>{title}</h1>
{run}
{tables}
<p>{note}</p>
</body>
</html>
"""


def render(report: Report) -> str:
    """The tables, and below them what they leave out."""
    model = ", ".join(report.models) or report.model.type or "flopcount"
    title = f"{model}: {format_quantity(report.total.flops, 'FLOP')}"
    columns = ("type", *default_columns(report))
    *parts, note = tables(report, columns=columns, style="html")
    run = f"<p>{escape(str(report.run))}</p>" if report.run else ""
    return PAGE.format(title=escape(title), run=run, tables="\n".join(parts), note=escape(note))
