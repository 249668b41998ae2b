"""The verdicts on an answer.

exact: the MACs of products are those derived by hand (layers, transformers) or published
(torchvision's, rounded as printed). exact*: more by at most 2 %, which the tool's documentation
says that it adds (biases, norms, activations) and does not tell apart. off: another figure, by a
factor. zero: 0, and nothing said. crash: an exception where the model alone runs. not offered: the
tool does not count that.

What backward computes once more (checkpoints, scores of fused attention) may be counted or not. A
complex product is four real ones.
"""

from __future__ import annotations

from collections.abc import Collection

from benchmarks.peers.cases import Case
from benchmarks.peers.tools import Answer

__all__ = ["CRASH", "EXACT", "KINDS", "NOT_OFFERED", "SURPLUS", "kind_of", "truths", "verdict"]

SURPLUS = 0.02
"""How much documented extra work may add to a figure that still counts as exact."""

CRASH, NOT_OFFERED = "crash", "not offered"
KINDS = ("exact", "exact*", "off", "zero", CRASH, NOT_OFFERED)
EXACT = KINDS[:2]


def truths(case: Case, direction: str) -> tuple[Collection[int], int] | None:
    """The right figures, and how far an answer may be off; None where there is no figure."""
    if direction == "forward":
        return {case.forward}, case.slack
    if case.backward is None:
        return None
    step = case.forward + case.backward
    return {step, step + case.recomputed}, 3 * case.slack  # backward is twice forward at most


def verdict(case: Case, direction: str, answer: Answer) -> str:
    """One of ``KINDS`` but the last two, with the factor by which a figure is off."""
    right = truths(case, direction)
    assert right is not None
    figures, slack = right
    if any(abs(answer.macs - figure) <= slack for figure in figures):
        return "exact"
    nearest = min(figures, key=lambda figure: abs(answer.macs - figure))
    if not answer.macs:
        return "zero"
    if not nearest:
        return f"off +{answer.macs:,.0f}"
    if answer.mixed and 0 < answer.macs - nearest <= SURPLUS * nearest + slack:
        return "exact*"
    return f"off × {answer.macs / nearest:.4g}"


def kind_of(verdict: str) -> str:
    """The kind of a verdict, one of ``KINDS``."""
    return verdict if verdict == NOT_OFFERED else verdict.split(maxsplit=1)[0]
