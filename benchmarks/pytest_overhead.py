"""What the pytest plugin costs tests that have no budget: 2,000 empty tests, plugin on ÷ off.

    python -m benchmarks.pytest_overhead [--repetitions N]

Twice: where no test has a budget, and where one more has. Processor time of whole runs, each in a
process of its own, in turns; the figures are medians, and the ratio is the median over the turns.
Results go to ``benchmarks/results/pytest_overhead.json``.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import entry_points
from pathlib import Path

from benchmarks.figures import write

FILES, TESTS_A_FILE = 20, 100

EMPTY = "\n".join(f"def test_{number}(): pass" for number in range(TESTS_A_FILE))

MARKED = "import pytest\n@pytest.mark.flop_budget('0 FLOP')\ndef test_marked(): pass\n"

CONFTEST = "import torch, flopcount.counter, flopcount.guard\n"
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
        for turn in range(repetitions):
            for plugin in ("on", "off") if turn % 2 else ("off", "on"):
                times[plugin].append(seconds(folder, plugin))
    ratios = [on / off for on, off in zip(times["on"], times["off"], strict=True)]
    medians = {plugin: statistics.median(values) for plugin, values in times.items()}
    return {**medians, "ratio": statistics.median(ratios)}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--repetitions", type=int, default=15)
    repetitions = options.parse_args().repetitions
    results = {}
    for name, marked in {"no test has a budget": False, "one more test has one": True}.items():
        results[name] = result = measure(repetitions, marked=marked)
        print(f"{name}: {result['on']:.2f} s on, {result['off']:.2f} s off: {result['ratio']:.3f}")
    figures = {"tests": FILES * TESTS_A_FILE, "repetitions": repetitions, "runs": results}
    write("pytest_overhead", figures)


if __name__ == "__main__":
    main()
