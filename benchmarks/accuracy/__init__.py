"""Forward and backward MACs beside published figures, torch's counter, and a count by hand.

A row agrees, or it differs by named reasons whose sizes add up to the whole difference. Any other
row is unexplained, and the run fails. Rows of a paper that does not say how it counts may be
unknown.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from benchmarks.accuracy import architectures, published
from benchmarks.accuracy.papers import language, vision, vit
from benchmarks.accuracy.verdicts import AGREES, UNEXPLAINED, VERDICTS, Row
from benchmarks.progress import progress
from benchmarks.results import Figures, Target, table

__all__ = ["run", "show", "targets"]

PAPERS = {"vision": vision, "ViT": vit, "language": language}

TIMM_WANTED = 200
"""How many of timm's architectures a whole run has at least."""


@contextmanager
def quietly() -> Iterator[None]:
    """A context with one thread, which suits small ops, and without the models' warnings."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(threads)


# -- the figures


def run(quick: bool) -> Figures:
    """Count all of torchvision and Hugging Face, a sixth of timm, and the papers; or a part."""
    first = 2 if quick else None
    with quietly():
        papers = [row for name in progress(PAPERS, "papers") for row in PAPERS[name].rows(first)]
        return {
            "quick": quick,
            "published": by_name(published.rows(quick)),
            "steps": {
                "torchvision": by_name(architectures.torchvision_rows(quick)),
                "timm": by_name(architectures.timm_rows(quick)),
                "Hugging Face": by_name(architectures.huggingface_rows(quick)),
            },
            "papers": {
                source: {"unit": rows[0]["unit"], "figures": by_name(rows)}
                for source, rows in by_source(papers).items()
            },
        }


def by_source(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows of each table of a paper."""
    sources: dict[str, list[Row]] = {}
    for row in rows:
        sources.setdefault(row["source"], []).append(row)
    return sources


def by_name(rows: Iterable[Row]) -> dict[str, Row]:
    """The rows by name, without empty values and without counts that equal flopcount's."""
    named: dict[str, Row] = {}
    for row in rows:
        assert row["name"] not in named
        named[row["name"]] = dict(essentials(row))
    return named


def essentials(row: Row) -> Iterator[tuple[str, object]]:
    """The part of a row that is saved."""
    for key, value in row.items():
        is_repeated = key in ("torch", "by hand") and value == row["flopcount"]
        if key not in ("name", "source", "unit") and not is_repeated and value not in (0, {}, []):
            yield key, value


Named = list[tuple[str, Row]]
"""Rows with their names, which several families may share."""


def steps_of(figures: Figures) -> Named:
    """The training steps of all families."""
    return [pair for rows in figures["steps"].values() for pair in rows.items()]


def papers_of(figures: Figures) -> Named:
    """The figures of all papers."""
    return [pair for paper in figures["papers"].values() for pair in paper["figures"].items()]


# -- what they are held to


def targets(figures: Figures) -> list[Target]:
    """Every row is explained, every op is counted, and timm is there in numbers."""
    published, steps = list(figures["published"].items()), steps_of(figures)
    counted = [row for _, row in published + steps]
    uncounted = ", ".join(sorted({op for row in counted for op in row.get("uncounted", ())}))
    what = f"uncounted ops in {len(counted)} models"
    held = [
        explained("torchvision's published figures", published),
        explained("forward and backward of architectures, by three counters", steps),
        explained("papers' figures", papers_of(figures)),
        Target(what, "none", uncounted or "none", not uncounted),
    ]
    if not figures.get("quick"):
        count = len(figures["steps"]["timm"])
        wanted = f"at least {TIMM_WANTED}"
        held.append(Target("architectures of timm", wanted, str(count), count >= TIMM_WANTED))
    return held


def explained(what: str, rows: Named) -> Target:
    """The target that no row is unexplained, with the number of rows of each verdict."""
    counts = zip(VERDICTS, tally(row for _, row in rows), strict=True)
    found = ", ".join(f"{count} {verdict}" for verdict, count in counts if count)
    failed = [name for name, row in rows if row["verdict"] == UNEXPLAINED]
    wanted = f"none of {len(rows)} unexplained"
    return Target(what, wanted, "; ".join([found, *failed]), not failed)


def tally(rows: Iterable[Row]) -> list[int]:
    """How many rows there are of each verdict."""
    counts = Counter(row["verdict"] for row in rows)
    return [counts[verdict] for verdict in VERDICTS]


# -- what is printed


def show(figures: Figures) -> str:
    """Tables: how many rows of each kind agree, what torch's counter misses, why papers differ."""
    kinds = {"torchvision's published figures": figures["published"]}
    kinds |= {f"training steps of {family}": rows for family, rows in figures["steps"].items()}
    kinds |= {source: paper["figures"] for source, paper in figures["papers"].items()}
    lines = [[kind, len(rows), *tally(rows.values())] for kind, rows in kinds.items()]
    steps = [row for _, row in steps_of(figures)]
    by_hand = sum("by hand" not in row for row in steps)
    return "\n\n".join(
        [
            table(["what", "figures", *VERDICTS], lines),
            f"flopcount and the count by hand are equal in {by_hand} of {len(steps)} steps; "
            f"torch's counter differs in {sum('torch' in row for row in steps)}:",
            what_torch_misses(steps_of(figures)),
            "Papers differ where",
            "\n".join(why_papers_differ(figures)),
        ]
    )


def what_torch_misses(steps: Named) -> str:
    """A table of reasons: how many steps have each, and where it matters most."""
    lines = []
    for why in sorted({why for _, row in steps for why in row.get("reasons", ())}):
        having = [(share(row, why), name) for name, row in steps if why in row.get("reasons", ())]
        most, name = max(having, key=lambda pair: abs(pair[0]))
        lines.append([why, len(having), f"{name}: {most:+.0%} of its MACs"])
    return table(["why torch's counter differs", "steps", "most"], lines)


def share(row: Row, why: str) -> float:
    """By which part of a step's MACs torch's counter is wrong for the reason ``why``."""
    return float(sum(row["reasons"][why]) / sum(row["flopcount"]))


def why_papers_differ(figures: Figures) -> Iterator[str]:
    """The reasons in each table of a paper, and how many figures have each."""
    for source, paper in figures["papers"].items():
        rows = [row for row in paper["figures"].values() if row["verdict"] != AGREES]
        for why, count in Counter(why for row in rows for why in row["reasons"]).items():
            yield f"- {source}: {why} ({count})"
