"""What the last changes cost in time: a step under flopcount now, and as it was in another commit.

Both are in one process and take turns, and each round gives one ratio. So a machine that is now
quick and now slow falls out of it, as it does not out of two runs of ``overhead``.
"""

from __future__ import annotations

import importlib
import io
import math
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.overhead import QUICK, Empty, steps
from benchmarks.processes import in_a_new_process
from benchmarks.progress import progress
from benchmarks.results import Figures, Target, table
from benchmarks.timing import Timed, rounds_of
from flopcount import FlopCounter

BASE = "4df7a4d"
"""The commit to compare with. Put another one here, and run again."""

SLOWER = 1.02
"""The target: a step now ÷ before, at most."""

ROOT = Path(__file__).parents[1]
NAME = "flopcount_before"


def flopcount_of(commit: str, folder: str) -> Any:
    """The package of ``commit``, written into ``folder`` and imported as ``NAME``."""
    command = ["git", "archive", commit, "flopcount"]
    archive = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    package = Path(folder, "flopcount").rename(Path(folder, NAME))
    for path in package.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        path.write_text(re.sub(r"\bflopcount\b", NAME, text), encoding="utf-8")
    sys.path.insert(0, folder)
    return importlib.import_module(NAME)


def ratios(step: str, rounds: int, seconds: float) -> dict[str, list[float]]:
    """A step now ÷ before, and before ÷ under an empty mode, in each round of one process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    call = steps()[step]()
    with tempfile.TemporaryDirectory() as folder:
        before, now, empty = flopcount_of(BASE, folder).FlopCounter(), FlopCounter(), Empty()
        calls = {
            "before": Timed(call, lambda: before),
            "now": Timed(call, lambda: now),
            "empty": Timed(call, lambda: empty),
        }
        taken = rounds_of(calls, rounds=rounds, seconds=seconds)
    return {
        "now ÷ before": [a / b for a, b in zip(taken["now"], taken["before"], strict=True)],
        "before ÷ empty": [a / b for a, b in zip(taken["before"], taken["empty"], strict=True)],
    }


def middle(values: list[float]) -> Figures:
    """The median, the 95 % interval that it lies in by the order of ``values``, and how many."""
    ordered, count = sorted(values), len(values)
    reach = 0.98 * math.sqrt(count)  # 1.96 deviations of the number of values below the median
    low, high = math.floor((count - 1) / 2 - reach), math.ceil((count - 1) / 2 + reach)
    picked = ordered[max(low, 0)], ordered[count // 2], ordered[min(high, count - 1)]
    names = ("low", "median", "high")
    return {**dict(zip(names, (round(x, 4) for x in picked), strict=True)), "rounds": count}


def measured(step: str, *, quick: bool) -> Figures:
    """The ratios of ``step`` from several processes, since each lies in memory in its own way."""
    processes, rounds, seconds = (1, 5, 5) if quick else (3, 15, 30)
    found = [in_a_new_process(ratios, step, rounds, seconds) for _ in range(processes)]
    return {name: middle([x for one in found for x in one[name]]) for name in found[0]}


def run(quick: bool) -> Figures:
    """Measure all steps; if ``quick``, three of them, in one process each."""
    names = QUICK if quick else list(steps())
    return {
        "base": BASE,
        "steps": {name: measured(name, quick=quick) for name in progress(names, "steps")},
    }


def targets(figures: Figures) -> list[Target]:
    worst = max(found["now ÷ before"]["median"] for found in figures["steps"].values())
    what = f"a step now ÷ in {figures['base']}, worst"
    return [Target(what, f"≤ {SLOWER}", f"{worst:.3f}", worst <= SLOWER)]


def show(figures: Figures) -> str:
    """A table of the ratios, with their intervals."""
    rows = []
    for name, found in figures["steps"].items():
        now, before = found["now ÷ before"], found["before ÷ empty"]
        interval = f"{now['low']:.3f} to {now['high']:.3f}"
        rows.append(
            [name, now["rounds"], f"{before['median']:.3f}", f"{now['median']:.3f}", interval]
        )
    base = figures["base"]
    headers = ["step", "rounds", f"{base} ÷ empty mode", f"now ÷ {base}", "95 % of medians"]
    return table(headers, rows)
