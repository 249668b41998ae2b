"""Figures: what a benchmark found, in one JSON file each, with machine, versions and date."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import flopcount

__all__ = ["FOLDER", "Figures", "Target", "names", "read", "write"]

FOLDER = Path(__file__).parent / "results"

Figures = dict[str, Any]

PACKAGES = ("torch", "torchvision", "timm", "transformers")
"""What figures may depend on, besides flopcount and Python."""


class Target(NamedTuple):
    """Something that a benchmark is held to, and whether it holds."""

    what: str
    wanted: str
    found: str
    holds: bool


def processor() -> str:
    """The processor's name, where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, flags=re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def version(package: str) -> str | None:
    """The version of ``package``, if it is installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def write(name: str, figures: Figures) -> Path:
    """Write ``figures`` to ``results/name.json``."""
    versions = {package: found for package in PACKAGES if (found := version(package))}
    document = {
        "date": datetime.date.today().isoformat(),
        "machine": {"processor": processor(), "cores": os.cpu_count()},
        "versions": {
            "flopcount": flopcount.__version__,
            "python": platform.python_version(),
            **versions,
        },
        **figures,
    }
    path = FOLDER / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def read(name: str) -> Figures:
    """The figures of ``results/name.json``."""
    figures: Figures = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return figures


def names() -> set[str]:
    """The benchmarks of which there are figures."""
    return {path.stem for path in FOLDER.glob("*.json")}
