"""The results of a run: printed tables, and one JSON file with the date and the machine's card."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from tabulate import tabulate

import flopcount

__all__ = ["FOLDER", "Figures", "Target", "card", "load", "save", "table", "verdicts"]

FOLDER = Path(__file__).parent / "results"

Figures = dict[str, Any]

PACKAGES = ("torch", "torchvision", "timm", "transformers")
"""Packages that figures may depend on; the card names their versions."""

WIDTH = 100
"""The width of a line of JSON; a value that fits stands on one line."""


class Target(NamedTuple):
    """A bound that a benchmark is held to, and whether it holds."""

    what: str
    wanted: str
    found: str
    holds: bool


def processor() -> str:
    """The processor's name, or an empty text where the system does not tell it."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    match = re.search(r"^model name\s*:\s*(.+)$", text, flags=re.MULTILINE)
    return match[1] if match else platform.processor() or platform.machine()


def version(package: str) -> str | None:
    """The version of ``package``, if it is installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def card() -> Figures:
    """When, where and with which packages the figures are made."""
    versions = {"python": platform.python_version(), "flopcount": flopcount.__version__}
    versions |= {package: number for package in PACKAGES if (number := version(package))}
    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores of {processor()}",
        "versions": versions,
    }


def save(name: str, figures: Figures) -> Path:
    """Write ``figures`` and the card to ``results/NAME.json``."""
    path = FOLDER / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(pretty({**card(), **figures}) + "\n", encoding="utf-8")
    return path


def load(name: str) -> Figures:
    """The document in ``results/NAME.json``."""
    figures: Figures = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return figures


def pretty(value: Any, indent: str = "") -> str:
    """JSON in which a dictionary that does not fit on one line has a line for each entry."""
    line = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict) or len(line) <= WIDTH:
        return line
    entries = [
        f"{indent} {json.dumps(key, ensure_ascii=False)}: {pretty(entry, indent + ' ')}"
        for key, entry in value.items()
    ]
    return "{\n" + ",\n".join(entries) + f"\n{indent}}}"


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1) -> str:
    """A Markdown table: the first ``left`` columns are aligned to the left, others to the right."""
    align = ["left" if column < left else "right" for column in range(len(headers))]
    cells = [[str(cell) for cell in row] for row in rows]
    return tabulate(cells, headers, tablefmt="pipe", colalign=align, disable_numparse=True)


def verdicts(targets: Iterable[Target]) -> str:
    """A table of targets, and whether they hold."""
    rows = [[what, wanted, found, "yes" if ok else "**no**"] for what, wanted, found, ok in targets]
    return table(["held to", "wanted", "found", "holds"], rows, left=4)
