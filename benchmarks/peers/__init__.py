"""Which tool counts what right, forward and backward, and at what cost.

torch's ``FlopCounterMode``, ``torch.profiler``, fvcore, ptflops, thop, torchinfo, calflops and
DeepSpeed's profiler get the same models and inputs as flopcount, in an environment of their own
and in a process of its own for each question. Where a peer is right or faster, the tables say so.
"""

from __future__ import annotations

import json

from benchmarks.figures import Figures, Target
from benchmarks.peers import tables
from benchmarks.peers.environment import Environment, environment
from benchmarks.peers.survey import survey
from benchmarks.peers.tables import detail, readme_table, section
from benchmarks.peers.timing import MODELS
from benchmarks.peers.tools import OURS
from benchmarks.progress import each

__all__ = ["detail", "readme_table", "run", "section", "targets"]


def run(quick: bool) -> Figures:
    """All figures; with ``quick`` those of a part of the cases, and two models' times."""
    peers = environment()
    figures = survey(peers, quick)
    return {**figures, "time": timed(peers, list(figures["tools"]), quick)}


def timed(peers: Environment, tools: list[str], quick: bool) -> Figures:
    """Seconds of each model under each tool."""
    options = ["--quick"] * quick
    models = MODELS[:2] if quick else MODELS
    with peers.start("-m", "benchmarks.peers.timing", *options, *tools) as process:
        assert process.stdout
        return {model: json.loads(process.stdout.readline()) for model in each(models, "time")}


def targets(figures: Figures) -> list[Target]:
    """flopcount is exact everywhere, whatever its peers are."""
    found = [
        (f"{kind}, {tables.WAYS[way]}", tables.exact(figures, kind, way, OURS))
        for kind in ("layers", "networks", "weights")
        for way in tables.WAYS
        if any(way in row for row in figures[kind].values())
    ]
    found += [("programs, rows", tables.right(figures, "rows", OURS))]
    return [
        Target(f"peers: {what}", "all exact", f"{count[0]} of {count[1]}", count[0] == count[1])
        for what, count in found
        if count
    ]
