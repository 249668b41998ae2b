"""What people see. Each file is one format: it names its endings, and renders a Report as text."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from operator import methodcaller
from pkgutil import iter_modules
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flopcount.report.report import Report

__all__ = ["renderer", "renderers"]


def renderers() -> dict[str, Callable[[Report], str]]:
    """What renders each ending of a file name, long endings before those that they end in."""
    functions = {".json": methodcaller("to_json")}  # the report itself, to be read again
    for info in iter_modules(__path__):
        module = import_module(f"{__name__}.{info.name}")
        functions |= dict.fromkeys(module.ENDINGS, module.render)
    return dict(sorted(functions.items(), key=lambda item: -len(item[0])))


def renderer(path: str) -> Callable[[Report], str]:
    """What renders the format that the ending of ``path`` names.

    Raises:
        ValueError: no format has this ending; names the endings that there are.
    """
    functions = renderers()
    for ending, render in functions.items():
        if path.endswith(ending):
            return render
    raise ValueError(f"no format for {path!r}; known endings: {', '.join(functions)}")
