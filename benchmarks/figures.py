"""Where benchmarks leave their figures: one JSON file each, with machine, versions and date."""

from __future__ import annotations

import datetime
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

import flopcount

FOLDER = Path(__file__).parent / "results"


def write(name: str, figures: dict[str, Any]) -> Path:
    """Write ``figures`` to ``results/name.json``."""
    document = {
        "date": datetime.date.today().isoformat(),
        "machine": {"processor": platform.machine(), "cores": os.cpu_count()},
        "versions": {
            "flopcount": flopcount.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        **figures,
    }
    path = FOLDER / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return path
