"""What people see. Each file is one format, and sees a Report and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pkgutil import resolve_name

from flopcount.report.report import Report

__all__ = ["FORMATS", "renderer"]

FORMATS = {
    ".speedscope.json": "render.speedscope:render",
    ".trace.json": "render.chrome_trace:render",
    ".json": "report:Report.to_json",
    ".csv": "render.csv:render",
    ".html": "render.html:render",
    ".md": "render.markdown:render",
    ".txt": "render.table:render",
}
"""Endings of file names, the longer before those that end them, and what renders them."""


def renderer(path: str) -> Callable[[Report], str]:
    """The function that writes the format which the ending of ``path`` names."""
    for ending, function in FORMATS.items():
        if path.endswith(ending):
            render: Callable[[Report], str] = resolve_name(f"flopcount.report.{function}")
            return render
    raise ValueError(f"no format for {path!r}; known endings: {', '.join(FORMATS)}")
