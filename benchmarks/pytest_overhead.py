"""What the pytest plugin costs tests that have no budget: 2,000 empty tests, plugin on ÷ off.

Twice: where no test has a budget, and where one more has. Processor time of whole runs, each in a
process of its own, in turns; the figures are medians, and the ratio is the median over the turns.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import entry_points
from pathlib import Path

from benchmarks.figures import Figures, Target
from benchmarks.markdown import table
from benchmarks.progress import each

FILES, TESTS_A_FILE = 20, 100

EMPTY = "\n".join(f"def test_{number}(): pass" for number in range(TESTS_A_FILE))

MARKED = "import pytest\n@pytest.mark.flop_budget('0 FLOP')\ndef test_marked(): pass\n"

CONFTEST = "import torch, flopcount.counter.counter, flopcount.pytest_plugin.guard\n"
"""Where one test has a budget, both runs import what it needs: the rest is the plugin's."""

IS_INSTALLED = "flopcount" in entry_points(group="pytest11").names

ARGUMENTS = {
    "on": [] if IS_INSTALLED else ["-p", "flopcount.pytest_plugin"],
    "off": ["-p", "no:flopcount"] if IS_INSTALLED else [],
}


def suite(folder: Path, *, marked: bool) -> None:
    """Write the tests."""
    for number in range(FILES):
        (folder / f"test_{number}.py").write_text(EMPTY, encoding="utf-8")
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    flop_budget\n", encoding="utf-8")
    if marked:
        (folder / "conftest.py").write_text(CONFTEST, encoding="utf-8")
        (folder / "test_marked.py").write_text(MARKED, encoding="utf-8")


def seconds(folder: Path, plugin: str) -> float:
    """Processor time of a run of pytest."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *ARGUMENTS[plugin]]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def measure(repetitions: int, *, marked: bool) -> dict[str, float]:
    """Medians of runs with the plugin and without, and of the ratio of each pair."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        suite(folder, marked=marked)
        times: dict[str, list[float]] = {"on": [], "off": []}
        for plugin in times:  # the first run compiles the tests
            seconds(folder, plugin)
        for turn in each(range(repetitions), "one marked" if marked else "none marked"):
            for plugin in ("on", "off") if turn % 2 else ("off", "on"):
                times[plugin].append(seconds(folder, plugin))
    ratios = [on / off for on, off in zip(times["on"], times["off"], strict=True)]
    medians = {plugin: statistics.median(values) for plugin, values in times.items()}
    return {**medians, "ratio": statistics.median(ratios)}


RATIO = 1.05
"""Wanted: plugin on ÷ off, at most."""


def run(quick: bool) -> Figures:
    """Fifteen turns, or three."""
    repetitions = 3 if quick else 15
    suites = {"no test has a budget": False, "one more test has one": True}
    runs = {name: measure(repetitions, marked=marked) for name, marked in suites.items()}
    return {"tests": FILES * TESTS_A_FILE, "repetitions": repetitions, "runs": runs}


def targets(figures: Figures) -> list[Target]:
    worst = max(run["ratio"] for run in figures["runs"].values())
    return [Target("empty tests, plugin on ÷ off", f"≤ {RATIO}", f"{worst:.3f}", worst <= RATIO)]


def section(figures: Figures) -> str:
    lines = [
        [name, f"{run['off']:.2f}", f"{run['on']:.2f}", f"{run['ratio']:.3f}"]
        for name, run in figures["runs"].items()
    ]
    return (
        f"Processor time of {figures['tests']:,} empty tests, medians of "
        f"{figures['repetitions']} turns.\n\n"
        + table(["", "plugin off, s", "on, s", "on ÷ off"], lines, "lrrr")
    )
