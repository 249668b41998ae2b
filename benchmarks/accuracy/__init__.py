"""Forward and backward MACs beside published figures, torch's counter, and a count by hand.

Every row agrees, or differs by named reasons whose sizes add up to the whole difference; else it
is unexplained, and the run fails. A paper that does not say how it counts may leave some unknown.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from benchmarks.accuracy import architectures, published
from benchmarks.accuracy.papers import language, vision, vit
from benchmarks.accuracy.tables import detail, section, tally
from benchmarks.accuracy.verdicts import UNEXPLAINED, VERDICTS, Row
from benchmarks.figures import Figures, Target
from benchmarks.progress import each

__all__ = ["detail", "run", "section", "targets"]

PAPERS = {"vision": vision, "ViT": vit, "language": language}

TIMM_WANTED = 200
"""So many of timm's architectures a whole run has at least."""


@contextmanager
def quietly() -> Iterator[None]:
    """One thread, which small ops like best, and no warnings of models."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(threads)


def run(quick: bool) -> Figures:
    """All of torchvision and Hugging Face, a sixth of timm, and the papers; quickly, a part."""
    with quietly():
        first = 2 if quick else None
        papers = [row for part in each(PAPERS, "papers") for row in PAPERS[part].rows(first)]
        return {
            "quick": quick,
            "published": list(published.rows(quick)),
            "architectures": {
                "torchvision": list(architectures.torchvision_rows(quick)),
                "timm": list(architectures.timm_rows(quick)),
                "Hugging Face": list(architectures.huggingface_rows(quick)),
            },
            "papers": papers,
        }


def targets(figures: Figures) -> list[Target]:
    """Every row is explained, every op is counted, and timm is there in numbers."""
    steps = [row for rows in figures["architectures"].values() for row in rows]
    counted = figures["published"] + steps
    uncounted = sorted({op for row in counted for op in row["uncounted"]})
    found = [
        explained("torchvision's published figures", figures["published"]),
        explained("forward and backward of architectures, by three counters", steps),
        explained("papers' figures", figures["papers"]),
        Target(
            f"uncounted ops in {len(counted)} models",
            "none",
            ", ".join(uncounted) or "none",
            not uncounted,
        ),
    ]
    if not figures["quick"]:
        timm = len(figures["architectures"]["timm"])
        found += [
            Target(
                "architectures of timm",
                f"at least {TIMM_WANTED}",
                str(timm),
                timm >= TIMM_WANTED,
            )
        ]
    return found


def explained(what: str, rows: list[Row]) -> Target:
    """That no row is unexplained, and how many there are of each verdict."""
    counts = dict(zip(VERDICTS, tally(rows), strict=True))
    found = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    failed = [row["name"] for row in rows if row["verdict"] == UNEXPLAINED]
    wanted = f"none of {len(rows)} unexplained"
    return Target(what, wanted, "; ".join([found, *failed]), not failed)
