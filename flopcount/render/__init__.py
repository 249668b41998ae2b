"""What people see. Each file is one format, and sees a Report and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from flopcount.report import Report

__all__ = ["FORMATS", "renderer"]

FORMATS = {
    ".speedscope.json": "speedscope",
    ".trace.json": "chrome_trace",
    ".json": "json",
    ".csv": "csv",
    ".html": "html",
    ".md": "markdown",
    ".txt": "table",
}
"""Endings of file names, the longer before those that end them, and the file that renders them."""


def renderer(path: str) -> Callable[[Report], str]:
    """The function that writes the format which the ending of ``path`` names."""
    for ending, module in FORMATS.items():
        if path.endswith(ending):
            render: Callable[[Report], str] = import_module(f"flopcount.render.{module}").render
            return render
    raise ValueError(f"no format for {path!r}; known endings: {', '.join(FORMATS)}")
