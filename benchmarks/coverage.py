"""Which ops have a count: all that torch knows, and all that its databases of samples run.

torch keeps samples of every operator, module and optimizer for tests of its own. Each is run under
flopcount, forward and backward. The same ops are looked up in the registry of torch's counter,
which takes an op that is not there for zero.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch.utils.flop_counter import flop_registry

from benchmarks.figures import Figures, Target
from benchmarks.markdown import code, table
from benchmarks.progress import each
from flopcount.formulas.op_table import op_rows
from tests import sweep

DATABASES = {
    "operators": sweep.operators,
    "modules": sweep.modules,
    "optimizers": sweep.optimizers,
}

MEANING = {
    "formula": "costs what its formula says",
    "free": "does no arithmetic",
    "view": "moves nothing",
    "composite": "opens itself, and the ops that it is made of are counted",
    "decomposed": "costs what torch's decomposition of it costs",
    "uncounted": "listed by name where it runs",
}


def run(quick: bool) -> Figures:
    """All samples, or one of each."""
    torch.set_num_threads(1)
    decisions = Counter(row.decision for row in op_rows())
    databases = {}
    for name in each(list(DATABASES), "coverage"):
        found = sweep.swept(DATABASES[name](1 if quick else None))
        working = sorted(op for op, cost in found.costs.items() if cost.flops)
        contracting = [op for op in working if found.costs[op].macs]
        databases[name] = {
            "programs": found.programs,
            "ops": len(found.costs),
            "ops that do arithmetic": len(working),
            "of those contractions": len(contracting),
            "known to FlopCounterMode": [op for op in working if is_known_to_torch(op)],
            "uncounted": found.uncounted,
        }
    return {"decisions": dict(decisions.most_common()), "databases": databases}


def is_known_to_torch(op: str) -> bool:
    """Whether torch's counter has a formula for an op."""
    namespace, _, name = op.partition(".")
    return getattr(getattr(torch.ops, namespace), name, None) in flop_registry


def targets(figures: Figures) -> list[Target]:
    missed = {op for found in figures["databases"].values() for op in found["uncounted"]}
    programs = sum(found["programs"] for found in figures["databases"].values())
    said = ", ".join(sorted(missed)) or f"none in {programs:,} programs"
    return [Target("uncounted ops in torch's own samples", "none", said, not missed)]


def section(figures: Figures) -> str:
    lines = [
        [
            name,
            f"{found['programs']:,}",
            found["ops"],
            found["ops that do arithmetic"],
            found["of those contractions"],
            len(found["uncounted"]),
            len(found["known to FlopCounterMode"]),
        ]
        for name, found in figures["databases"].items()
    ]
    headers = ["torch's samples of", "programs", "ops that ran", "do arithmetic", "contractions"]
    headers += ["uncounted", "known to FlopCounterMode"]
    decisions = [
        [code(decision), count, MEANING[decision]]
        for decision, count in figures["decisions"].items()
    ]
    return (
        f"{table(headers, lines, 'lrrrrrr')}\n\nHow the ops that torch knows are decided "
        f"(`flopcount ops` lists them):\n\n{table(['', 'ops', 'an op that'], decisions, 'lrl')}"
    )
