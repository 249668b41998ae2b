"""Proof that anyone can reproduce.

    python -m benchmarks [NAME ...] [--quick]

Each benchmark says what it found, and what it is held to; with ``--quick`` of a part, in a few
minutes. Whole runs leave their figures in ``benchmarks/results``, and from all figures there are
``benchmarks/README.md`` and its plots made; ``--page`` only makes these again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from benchmarks import page
from benchmarks.figures import write

EXTRA = ("matplotlib", "timm", "torchvision", "tqdm", "transformers")
"""What the extra ``bench`` brings, and a benchmark may miss."""


def main() -> None:
    options = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Prove flopcount's accuracy, speed and place among its peers.",
        epilog="\n".join(f"{name:<16} {about}" for name, about in page.about().items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("name", nargs="*", help="what to run: by default everything, in turn")
    options.add_argument("--quick", action="store_true", help="a part; nothing is written")
    options.add_argument("--page", action="store_true", help="only make the page again")
    chosen = options.parse_args()
    if unknown := set(chosen.name) - set(page.BENCHMARKS):
        options.error(f"no benchmark {', '.join(sorted(unknown))}: {', '.join(page.BENCHMARKS)}")
    try:
        missed = run([] if chosen.page else chosen.name or page.BENCHMARKS, quick=chosen.quick)
    except ModuleNotFoundError as error:
        if error.name not in EXTRA:
            raise
        options.error(f'{error.name} is missing: pip install -c constraints.txt -e ".[bench]"')
    sys.exit(missed > 0)


def run(names: Sequence[str], *, quick: bool) -> int:
    """Run benchmarks, and make the page; how many targets were missed."""
    missed = 0
    for name in names:
        benchmark, start = page.benchmark(name), time.perf_counter()
        figures = benchmark.run(quick)
        figures["seconds"] = round(time.perf_counter() - start)
        if not quick:
            write(name, figures)
        targets = benchmark.targets(figures)
        missed += sum(not target.holds for target in targets)
        print(f"{benchmark.section(figures)}\n\n{page.held_to(targets)}\n", flush=True)
        print(f"{name}: {figures['seconds']} s", file=sys.stderr, flush=True)
    if not quick:
        page.write()
    return missed


if __name__ == "__main__":
    main()
