"""flopcount's figures beside those of five oracles that know nothing of its formulas.

    python -m benchmarks.oracles [--quick | --readme]

The oracles: naive loops on numbers that count, torch's own decompositions, XLA's cost analysis,
instructions executed by torch's CPU kernels, and published closed forms. Each row agrees, or
differs by reasons of a stated size, or cannot be compared; else the run fails. Results go to
``benchmarks/results/oracles.json``, and from there into ``benchmarks/README.md``. ``--quick``
compares every fourth of the recorded rows and writes nothing; ``--readme`` only writes the page.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import oracle_loops as loops
from benchmarks.figures import FOLDER, write
from benchmarks.oracle_cases import CASES, OTHER_NAMES, cost_of
from benchmarks.oracle_reasons import (
    OPAQUE,
    OPAQUE_TO_XLA,
    UNKNOWN,
    XLA,
    arithmetic,
    reasons_of_kernel,
)
from flopcount import Cost

HOME = Path(__file__).parent
Row = dict[str, Any]

ORACLES = {
    "loop": "a naive loop on numbers that count what is done with them: arithmetic + comparisons "
    "+ transcendental functions, a dot product of length K being 2·K - 1",
    "decomposition": "torch's decomposition of the op, its steps counted by definition: "
    "arithmetic + comparisons + transcendental functions",
    "closed form": "what a paper or a report prints, the sizes put in",
    "XLA": "HloCostAnalysis of the same function: flops + transcendental evaluations. Only MACs "
    "that meet no padding count",
    "CPU": "floating-point lanes that torch's kernel executed, a fused multiply-add being two: "
    "arithmetic, or where the op has none, comparisons. MACs on padding count, but for `mkldnn`",
}
"""What the numbers in the tables are, by the name of who says them."""

PHASES = {"fwd": "forward", "dgrad": "input", "wgrad": "weight"}
"""The phases of the records; a gradient is named after what it belongs to."""

TOLERANCE, SET_UP = 0.025, 16
"""Executed instructions agree within this part, or within so many scalar ones to set up."""


def row(
    family: str, op: str, phase: str, oracle: str, ours: Sequence[int], figure: Sequence[int]
) -> Row:
    return {
        "family": family,
        "op": op,
        "phase": PHASES.get(phase, phase),
        "flopcount": list(ours),
        "oracle": oracle,
        "figure": [int(part) for part in figure],
        "verdict": "agrees" if list(ours) == list(figure) else "unexplained",
        "reasons": [],
    }


def explained(made: Row, reasons: Sequence[tuple[str, Any, Any]], reached: bool) -> Row:
    """The row with its reasons, if it needs any and they are of the right size."""
    if made["verdict"] == "unexplained" and reasons and reached:
        made |= {"verdict": "differs", "reasons": [why for why, *_ in reasons]}
    return made


def counts(cost: Cost) -> list[int]:
    return [arithmetic(cost), cost.compare, cost.special]


def computed() -> Iterator[Row]:
    """Of the three oracles that need no record."""
    for family, op, phase, ours, theirs in loops.by_loops():
        yield row(family, op, phase, "loop", counts(ours), counts(theirs))
    for family, op, phase, ours, theirs, why in loops.by_decomposition():
        made = row(family, op, phase, "decomposition", counts(ours), counts(theirs))
        more = sum((cost for _, cost in why), Cost())
        yield explained(made, [(name, 0, 0) for name, _ in why], ours + more == theirs)
    for family, op, phase, ours, theirs in loops.by_closed_form():
        yield row(family, op, phase, "closed form", counts(ours), counts(theirs))


def records(name: str, every: int) -> list[Row]:
    found: list[Row] = json.loads((HOME / "data" / f"{name}.json").read_text("utf-8"))["rows"]
    return found[::every]


def by_xla(every: int) -> Iterator[Row]:
    for record in records("xla_costs", every):
        name, phase = record["op"], record["phase"]
        case = CASES[OTHER_NAMES.get(name, name)]
        cost = cost_of(case, phase)
        ours = [2 * cost.valid_macs + cost.arith + cost.compare, cost.special]
        theirs = [int(record["flops"]), int(record["transcendentals"])]
        made = row(case.family, name, phase, "XLA", ours, theirs)
        if name in OPAQUE_TO_XLA:
            yield not_compared(made, OPAQUE)
            continue
        reasons = XLA.get(name, [])
        more = [sum(sizes) for sizes in zip(*((f, t) for _, f, t in reasons), strict=True)]
        reached = [a + b for a, b in zip(ours, more, strict=False)] == theirs
        yield explained(made, reasons, reached)


def not_compared(made: Row, why: str) -> Row:
    return made | {"verdict": "not compared", "reasons": [why]}


def lanes(record: Row, *kinds: str) -> int:
    return sum(int(record.get(kind + width, 0)) for kind in kinds for width in ("32", "64"))


def by_kernels(every: int) -> Iterator[Row]:
    for record in records("cpu_instructions", every):
        name, phase, n = record["name"], record["phase"], record["n"]
        case = CASES[name.partition("/")[0]]
        executed = lanes(record, "ADD", "MUL", "DIV", "SQRT") + 2 * lanes(record, "FMA")
        if case.call is None:
            yield not_compared(row(case.family, name, phase, "CPU", [], [executed]), UNKNOWN)
            continue
        cost = cost_of(case, phase)
        ours = arithmetic(cost) - 2 * cost.void_macs * name.endswith("/mkldnn")
        if not arithmetic(cost) and not cost.special:
            ours, executed = cost.compare, executed + lanes(record, "CMP", "MINMAX", "ROUND")
        made = row(case.family, name, phase, "CPU", [ours], [executed])
        margin = max(TOLERANCE * ours, SET_UP)
        if abs(executed - ours) <= margin:
            made["verdict"] = "agrees"
        reasons = reasons_of_kernel(name, n, cost)
        low, high = (sum(sizes) for sizes in (list(zip(*reasons, strict=True)) or [[]] * 3)[1:])
        yield explained(made, reasons, ours + low - margin <= executed <= ours + high + margin)


def compare(every: int = 1) -> list[Row]:
    """All rows, or of the recorded ones every so many."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [*computed(), *by_xla(every), *by_kernels(every)]


def tally(rows: Sequence[Row]) -> dict[str, dict[str, int]]:
    """How many rows of each oracle have each verdict."""
    return {
        oracle: dict(Counter(row["verdict"] for row in rows if row["oracle"] == oracle))
        for oracle in ORACLES
    }


# the page


def table(headers: Sequence[str], lines: Sequence[Sequence[Any]], right: str = "") -> str:
    """In Markdown; ``right`` has an r for each column that is aligned so."""
    rule = ["---:" if side == "r" else "---" for side in right.ljust(len(headers), "l")]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in [headers, rule, *lines])


def number(parts: Sequence[int]) -> str:
    """The parts joined by +, without the zeros at the end."""
    shown = list(parts)
    while len(shown) > 1 and not shown[-1]:
        shown.pop()
    return " + ".join(f"{part:,}" for part in shown) or "–"


def commands() -> Iterator[tuple[str, str]]:
    """Each module here that can be run, and the first line of what it says of itself."""
    for path in sorted(HOME.glob("*.py")):
        source = path.read_text("utf-8")
        if "__main__" in source:
            about = ast.get_docstring(ast.parse(source)) or ""
            yield f"`python -m benchmarks.{path.stem}`", about.partition("\n")[0]


def page(results: dict[str, Any]) -> str:
    """``README.md``, from the figures of a run."""
    rows, verdicts = results["rows"], results["verdicts"]
    names = list(dict.fromkeys(why for row in rows for why in row["reasons"]))
    verdict_names = ["agrees", "differs", "not compared"]
    parts = [
        "# Benchmarks",
        "Written by `python -m benchmarks.oracles`; do not edit. Each command leaves its figures "
        "in `results`, with the machine, the versions and the date.",
        table(["command", "what it measures"], list(commands())),
        "## Oracles",
        "Each number of flopcount beside one that its formulas had no part in.",
        table(
            ["oracle", "its figure", *verdict_names],
            [
                [who, what, *(verdicts[who].get(name, 0) for name in verdict_names)]
                for who, what in ORACLES.items()
            ],
            "llrrr",
        ),
        f"Executed instructions agree if they differ by at most {TOLERANCE:.1%}; all other "
        "figures agree exactly. A difference has reasons, by number, whose sizes add up to it: "
        "exactly, or for instructions within the bounds that `oracle_reasons.py` gives.",
        "### Reasons",
        table(["", "why a figure differs"], [[i, why] for i, why in enumerate(names, 1)], "rl"),
    ]
    for family in dict.fromkeys(row["family"] for row in rows):
        lines = []
        for row in rows:
            if row["family"] == family:
                numbers = ", ".join(str(names.index(why) + 1) for why in row["reasons"])
                figures = [number(row["flopcount"]), row["oracle"], number(row["figure"])]
                verdict = row["verdict"] + (f": {numbers}" if numbers else "")
                lines.append([f"`{row['op']}`", row["phase"], *figures, verdict])
        headers = ["op", "phase", "flopcount", "oracle", "its figure", "verdict"]
        parts += [f"### {family[0].upper()}{family[1:]}", table(headers, lines, "llrlrl")]
    return "\n\n".join(parts) + "\n"


def write_page() -> None:
    results = json.loads((FOLDER / "oracles.json").read_text("utf-8"))
    (HOME / "README.md").write_text(page(results), "utf-8")


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--quick", action="store_true", help="fewer rows; nothing is written")
    options.add_argument("--readme", action="store_true", help="only write the page again")
    chosen = options.parse_args()
    if chosen.readme:
        write_page()
        return
    torch.set_num_threads(1)
    start = time.perf_counter()
    rows = compare(4 if chosen.quick else 1)
    verdicts, seconds = tally(rows), round(time.perf_counter() - start)
    for oracle, found in verdicts.items():
        print(f"{oracle}: {', '.join(f'{count} {name}' for name, count in found.items())}")
    unexplained = [row for row in rows if row["verdict"] == "unexplained"]
    for row in unexplained:
        print(f"{row['op']}, {row['phase']}, {row['oracle']}:", row["flopcount"], row["figure"])
    if not chosen.quick:
        write("oracles", {"seconds": seconds, "verdicts": verdicts, "rows": rows})
        write_page()
    sys.exit(bool(unexplained))


if __name__ == "__main__":
    main()
