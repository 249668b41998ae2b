"""Measure flopcount.

    python -m benchmarks NAME [--quick | --last]

A run prints what it found and what it is held to, and writes its figures to
``benchmarks/results/NAME.json``. With ``--quick`` it measures a part, in minutes, and writes
nothing; ``--last`` prints the figures of the last whole run again.
"""

from __future__ import annotations

import argparse
import sys
import time
from importlib import import_module
from typing import Protocol, cast

from benchmarks.results import Figures, Target, load, save, verdicts

BENCHMARKS = {
    "accuracy": "MACs beside published figures, papers, torch's counter, and a count by hand",
    "overhead": "what counting costs in time: a step under each tool, and pytest with the plugin",
    "regression": "what the last changes cost in time: steps now beside those of another commit",
    "scaling": "how counting grows with depth, steps and modules, to a trillion parameters",
    "traces": "recordings of accelerators beside another tool; how long reading and recording take",
    "peers": "which of ten tools counts what right, and at what cost",
}

EXTRA = ("timm", "torchvision", "tqdm", "transformers")
"""Packages of the extra ``bench``. A benchmark that needs one says so if it is missing."""


class Benchmark(Protocol):
    """What each benchmark's module defines."""

    def run(self, quick: bool) -> Figures:
        """Measure everything, or a part of it if ``quick``."""

    def show(self, figures: Figures) -> str:
        """The figures as tables."""

    def targets(self, figures: Figures) -> list[Target]:
        """What the figures are held to."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure flopcount.",
        epilog="\n".join(f"{name:<10} {about}" for name, about in BENCHMARKS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=BENCHMARKS, help="what to measure")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--quick", action="store_true", help="measure a part; nothing is written")
    mode.add_argument("--last", action="store_true", help="print the last run's figures again")
    options = parser.parse_args()
    try:
        missed = run(options.name, quick=options.quick, last=options.last)
    except ModuleNotFoundError as error:
        if error.name not in EXTRA:
            raise
        parser.error(f'{error.name} is missing: pip install -c constraints.txt -e ".[bench]"')
    sys.exit(missed > 0)


def run(name: str, *, quick: bool, last: bool) -> int:
    """Run a benchmark, or read its last figures; print them, and return the missed targets."""
    benchmark = cast(Benchmark, import_module(f"benchmarks.{name}"))
    start = time.perf_counter()
    figures = load(name) if last else benchmark.run(quick)
    if not last:
        figures["seconds"] = round(time.perf_counter() - start)
    if not (quick or last):
        save(name, figures)
    targets = benchmark.targets(figures)
    print(f"{benchmark.show(figures)}\n\n{verdicts(targets)}\n\n{figures['seconds']} s")
    return sum(not target.holds for target in targets)


if __name__ == "__main__":
    main()
