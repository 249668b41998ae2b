"""What is made of an answer: exact, exact but for what the tool says it adds, off, zero, crash."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from benchmarks.peers.cases import Case

__all__ = ["EXACT", "KINDS", "NOT_OFFERED", "SURPLUS", "Verdict", "truths", "verdict"]

SURPLUS = 0.02
"""How much documented extra work may add to products for a figure to count as exact."""

EXACT = ("exact", "exact*")
NOT_OFFERED = "not offered"
KINDS = ("exact", "exact*", "off", "zero", "crash", NOT_OFFERED)


class Verdict(NamedTuple):
    """One of ``KINDS``; the factor by which it is off, or the exception of a crash."""

    kind: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.detail}".strip()


def truths(case: Case, direction: str) -> tuple[Collection[int], int] | None:
    """The right figures, and how far each may be off; None where there is nothing to compare."""
    if direction == "forward":
        return {case.forward}, case.slack
    if case.backward is None:
        return None
    step = case.forward + case.backward
    return {step, step + case.recomputed}, 3 * case.slack  # backward is twice forward at most


def verdict(case: Case, direction: str, answer: dict[str, Any] | None) -> Verdict:
    """What ``answer`` is worth; None if the tool was not asked."""
    right = truths(case, direction)
    assert right is not None
    if answer is None:
        return Verdict(NOT_OFFERED)
    if "error" in answer:
        return Verdict("crash", answer["error"])
    figures, slack = right
    found = answer["macs"]
    if any(abs(found - figure) <= slack for figure in figures):
        return Verdict("exact")
    nearest = min(figures, key=lambda figure: abs(found - figure))
    if not found:
        return Verdict("zero")
    if not nearest:
        return Verdict("off", f"+{found:,.0f}")
    if answer["mixed"] and 0 < found - nearest <= SURPLUS * nearest + slack:
        return Verdict("exact*")
    return Verdict("off", f"× {found / nearest:.4g}")
