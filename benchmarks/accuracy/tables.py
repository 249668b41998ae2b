"""The figures as Markdown: what was found at a glance, and every row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from benchmarks.accuracy.verdicts import AGREES, VERDICTS, Row
from benchmarks.figures import Figures
from benchmarks.markdown import code, table

__all__ = ["detail", "section"]

COUNTS = "r" * len(VERDICTS)
"""How the columns of verdicts are aligned."""


def section(figures: Figures) -> str:
    """How many rows of each kind agree, what torch's counter misses, and the papers."""
    families = {"torchvision's published figures": figures["published"]}
    for family, rows in figures["architectures"].items():
        families[f"training steps of {family}"] = rows
    families["papers' figures"] = figures["papers"]
    lines = [[family, len(rows), *tally(rows)] for family, rows in families.items()]
    steps = [row for rows in figures["architectures"].values() for row in rows]
    by_hand = sum(row["flopcount"] == row["by hand"] for row in steps)
    return "\n\n".join(
        [
            "Training steps are counted three times at once: by flopcount, by torch's "
            "`FlopCounterMode`, and by hand, which means from the calls that Python makes: results "
            "× length of the sum, and once more for each operand whose gradient arrives.",
            table(["what", "figures", *VERDICTS], lines, "lr" + COUNTS),
            "What two-stage detectors find depends on weights and image: their published figures "
            "are explained by numbers of proposals and detections that fit.",
            f"flopcount and the count by hand are equal to the MAC, forward and backward, in "
            f"{by_hand} of {len(steps)} training steps. torch's counter differs in "
            f"{sum(row['torch'] != row['flopcount'] for row in steps)}:",
            what_torch_misses(steps),
            "Papers, to the digits that they print; `explained` is a difference that has a reason "
            "of its size, `alone` a figure that torchvision's registry, or the paper itself, "
            "contradicts, and `unknown` one whose paper does not say how it counted, where no way "
            "that was tried leads to it:",
            by_paper(figures["papers"]),
        ]
    )


def tally(rows: Iterable[Row]) -> list[int]:
    """How many rows there are of each verdict."""
    found = Counter(row["verdict"] for row in rows)
    return [found[verdict] for verdict in VERDICTS]


def what_torch_misses(steps: list[Row]) -> str:
    """Each reason, how many steps have it, and where it matters most."""
    lines = []
    for why in sorted({why for row in steps for why in row["reasons"]}):
        having = [row for row in steps if why in row["reasons"]]
        worst = max(having, key=lambda row: abs(share(row, why)))
        most = f"{worst['name']}: {share(worst, why):+.0%} of its MACs"
        lines.append([why, len(having), most])
    return table(["why torch's counter differs", "steps", "most"], lines, "lrl")


def share(row: Row, why: str) -> float:
    """The part of a step's MACs that ``why`` puts torch's counter off by."""
    off, whole = sum(row["reasons"][why]), sum(row["flopcount"])
    return float(off / whole)


def by_paper(papers: list[Row]) -> str:
    lines = []
    for source in dict.fromkeys(row["source"] for row in papers):
        rows = [row for row in papers if row["source"] == source]
        others = [row for row in rows if row["verdict"] != AGREES]
        why = dict.fromkeys(reason for row in others for reason in row["reasons"])
        lines.append([source, rows[0]["unit"], len(rows), *tally(rows), "; ".join(why)])
    return table(["paper", "unit", "figures", *VERDICTS, "why"], lines, f"llr{COUNTS}l")


def detail(figures: Figures) -> str:
    """Every row."""
    parts = [
        "## Published figures of torchvision\n\nOne image or clip, forward, eval. Thresholds fix "
        "what a two-stage detector finds to what its figure stands for.",
        table(
            ["weights", "MACs", "published (G)", "verdict", "thresholds"],
            [
                [
                    row["name"],
                    f"{row['macs']:,}",
                    f"{row['published']:.3f}",
                    row["verdict"],
                    ", ".join(f"{name}={value}" for name, value in row["thresholds"].items()),
                ]
                for row in figures["published"]
            ],
            "lrrll",
        ),
        "## Training steps\n\nMACs, forward and backward. A difference is that of torch's counter "
        "from flopcount's figure. Fused attention computes its scores again in backward; these "
        "MACs are apart, in `recompute`.",
    ]
    for family, rows in figures["architectures"].items():
        headers = ["model", "flopcount", "by hand", "torch", "recompute", "verdict", "why"]
        lines = [
            [
                code(row["name"]),
                *(pair(row[who]) for who in ("flopcount", "by hand", "torch")),
                f"{row['recompute']:,}",
                row["verdict"],
                "; ".join(f"{why}: {pair(size, '+,')}" for why, size in row["reasons"].items()),
            ]
            for row in rows
        ]
        parts += [f"### {family}", table(headers, lines, "lrrrrll")]
    lines = [
        [
            row["source"],
            row["name"],
            row["unit"],
            number(row["printed"]),
            number(row["flopcount"]),
            row["verdict"],
            "; ".join(row["reasons"]),
        ]
        for row in figures["papers"]
    ]
    headers = ["paper", "model", "unit", "printed", "flopcount", "verdict", "why"]
    return "\n\n".join([*parts, "## Papers", table(headers, lines, "lllrrll")])


def pair(macs: Iterable[int], form: str = ",") -> str:
    """Forward and backward."""
    return " / ".join(format(count, form) for count in macs)


def number(value: str | float) -> str:
    """Digits as they are printed; whole numbers whole, others to four decimals."""
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4f}"
