"""One training step under three counters at once: flopcount, torch's own, and a count by hand."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.accuracy.by_hand import ByHand, Macs
from benchmarks.accuracy.products import EXPERTS, FUSED, VECTOR
from benchmarks.accuracy.verdicts import AGREES, EXPLAINED, UNEXPLAINED, Row
from flopcount import FlopCounter

__all__ = ["compare", "judged"]

GROUPED = "torch counts a grouped convolution's weight gradient `groups` times"
UNFUSED = "torch has no formula for the CPU's fused attention"
VECTORS = "torch has no formula for products with a vector"
UNGROUPED = "torch has no formula for grouped products (the experts of a mixture)"


def reasons(hand: ByHand) -> dict[str, Macs]:
    """By how much torch's counter should be wrong, from the shapes that were counted by hand."""
    sizes = {
        GROUPED: Macs(0, hand.repeats),
        UNFUSED: Macs() - hand.of(FUSED),
        VECTORS: Macs() - hand.of(VECTOR),
        UNGROUPED: Macs() - hand.of(EXPERTS),
    }
    return {why: size for why, size in sizes.items() if any(size)}


def compare(name: str, forward: Callable[[], Tensor]) -> Row:
    """Count a step whose loss is the result of ``forward``, with all three counters."""
    with ByHand() as hand, FlopCounterMode(display=False) as theirs, FlopCounter() as ours:
        loss = forward()
        in_forward = theirs.get_total_flops()
        loss.backward()
    in_backward = theirs.get_total_flops() - in_forward
    report = ours.report()
    phases = {phase: cost.macs for phase, cost in report.phases.items()}
    return judged(
        name,
        Macs(phases["forward"], phases["backward"]),
        Macs(in_forward // 2, in_backward // 2),  # torch counts a MAC as two
        hand,
        {"recompute": phases["recompute"], "uncounted": report.uncounted},
    )


def judged(name: str, ours: Macs, theirs: Macs, hand: ByHand, more: Row) -> Row:
    """Whether all agree; if not, whether the reasons add up to the difference, to the MAC."""
    why = reasons(hand) if theirs != ours else {}
    reached = sum(why.values(), Macs())
    if ours != hand.total or theirs != ours + reached:
        verdict = UNEXPLAINED
    else:
        verdict = EXPLAINED if why else AGREES
    return {
        "name": name,
        "flopcount": ours,
        "torch": theirs,
        "by hand": hand.total,
        **more,
        "reasons": why,
        "verdict": verdict,
    }
