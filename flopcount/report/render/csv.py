"""CSV: one row for each module, phase, op and dtype, as :meth:`Report.rows` has them."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flopcount.report.report import Report

ENDINGS = (".csv",)


def render(report: Report) -> str:
    """The rows of ``report`` under a header line."""
    rows = report.rows()
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0] if rows else ["module"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
