"""How counting grows with depth, steps and modules, and up to a trillion parameters on meta.

Sizes whose memory is measured run in processes of their own.
"""

from __future__ import annotations

import gc
import re
import resource
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.processes import in_a_new_process
from benchmarks.progress import progress
from benchmarks.results import Figures, Target, table
from benchmarks.timing import Timed, in_turns, median, ratio
from benchmarks.training import train
from flopcount import FlopCounter
from tests import models

DEPTHS = (1, 3, 10, 30, 100, 300, 1000)
STEPS = (1, 10, 100, 1000, 10_000)
MODULES = (1, 10, 100, 1000, 10_000)
TOKENS = 4096

LARGEST = "Llama 3 405B"

GIANTS: dict[str, dict[str, int]] = {
    "Llama 2 7B": {"kv_heads": 32, "hidden": 11008, "vocab": 32000},
    "Llama 3 70B": {"layers": 80, "width": 8192, "heads": 64, "hidden": 28672},
    LARGEST: {"layers": 126, "width": 16384, "heads": 128, "hidden": 53248},
    "mixture of experts, 1T": {
        "layers": 61,
        "width": 7168,
        "heads": 64,
        "hidden": 2048,
        "vocab": 163840,
        "experts": 384,
        "active": 8,
    },
}
"""Touvron et al. 2023, Grattafiori et al. 2024, and a mixture of which 32 billion see a token."""

LINEAR, GIANT = 0.10, 1.6
"""Targets: how far a layer's cost may differ between depths; counted step ÷ plain at 405B."""


def resident() -> int:
    """Bytes of memory that this process uses."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * resource.getpagesize()


def peak() -> int:
    """The most bytes that this process ever used, not less than its parent's (``getrusage``)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (kilobytes,) = re.findall(r"^VmHWM:\s*(\d+) kB$", status, flags=re.MULTILINE)
    return int(kilobytes) * 1024


def once(call: Callable[[], object]) -> tuple[Any, float]:
    """The result of ``call``, and the seconds that it took."""
    start = time.thread_time()
    result = call()
    return result, time.thread_time() - start


def counted(counter: FlopCounter, call: Callable[[], object]) -> Callable[[], None]:
    """``call`` under a counter."""

    def run() -> None:
        with counter:
            call()

    return run


# -- the jobs


def deep(depths: Sequence[int], rounds: int) -> dict[str, Figures]:
    """The seconds of each training step of a tower of ``layers``, each a Linear and a ReLU."""
    torch.set_num_threads(1)
    calls = {}
    repeats = {depth: max(1, 1000 // depth) for depth in depths}  # so that all calls are as long
    for depth in depths:
        model = models.tiny_layers(depth)
        step = train(model, torch.randn(4, 8))

        def steps(step: Callable[[], object] = step, count: int = repeats[depth]) -> None:
            for _ in range(count):
                step()

        calls[f"plain {depth}"] = Timed(steps)
        calls[f"counted {depth}"] = Timed(counted(FlopCounter(model), steps))
    times = in_turns(calls, rounds=rounds)
    return {
        str(depth): {
            kind: median(times, f"{kind} {depth}") / repeats[depth] for kind in ("plain", "counted")
        }
        for depth in depths
    }


def long(count: int) -> Figures:
    """Many training steps in one block: the seconds of a step, memory gained, and the report."""
    torch.set_num_threads(1)
    model = models.tiny_layers(5)
    step = train(model, torch.randn(4, 8), optimizer=torch.optim.Adam)

    def steps(count: int) -> None:
        for _ in range(count):
            step()

    with FlopCounter(model) as counter:
        steps(100)  # until memory has settled
        before = resident()
        _, seconds = once(partial(steps, count))
        gained = resident() - before
    report, of_report = once(counter.report)
    assert report.model.calls == 100 + count
    return {"step": seconds / count, "memory gained": gained, "report": of_report}


def wide(count: int) -> Figures:
    """Many modules, in blocks of ten: seconds of its first and a later pass, a report."""
    torch.set_num_threads(1)
    blocks = [nn.Sequential(*(nn.Tanh() for _ in range(min(count, 10))))]
    blocks += [nn.Sequential(*(nn.Tanh() for _ in range(10))) for _ in range(count // 10 - 1)]
    model, x = nn.Sequential(*blocks), torch.randn(4, 8)
    with FlopCounter(model) as counter:
        _, first = once(lambda: model(x))
        later = median(in_turns({"later": Timed(lambda: model(x))}, rounds=5), "later")
    report, of_report = once(counter.report)
    _, of_table = once(report.table)
    assert len(list(report.model.walk())) == 1 + len(blocks) + sum(map(len, blocks))
    return {"first": first, "later": later, "report": of_report, "table": of_table}


def giant(name: str, rounds: int) -> Figures:
    """Steps of a model on meta, plain and counted in turns; without rounds, one plain step."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("meta"):
        model = models.Llama(**GIANTS[name])
        tokens = torch.zeros(1, TOKENS, dtype=torch.int64)

    def step() -> None:
        model(tokens).backward()
        model.zero_grad()

    if not rounds:
        step()
        return {"peak memory, plain": peak()}
    counter = FlopCounter(model)
    calls = {"plain": Timed(step), "counted": Timed(counted(counter, step))}
    times = in_turns(calls, rounds=rounds)
    report = counter.report()
    assert not report.uncounted, report.uncounted
    flops, rest = divmod(report.model_flops, report.model.calls)
    assert not rest
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"parameters": parameters, "flops": flops, **times, "peak memory, counted": peak()}


# -- the benchmark


def run(quick: bool) -> Figures:
    """Measure all sizes; if ``quick``, the smaller ones in fewer rounds."""
    steps, modules = (STEPS[:4], MODULES[:4]) if quick else (STEPS, MODULES)
    giants = list(GIANTS)[:1] if quick else list(GIANTS)
    return {
        "depths": in_a_new_process(deep, DEPTHS, 3 if quick else 15),
        "steps": {str(n): in_a_new_process(long, n) for n in progress(steps, "steps")},
        "modules": {str(n): in_a_new_process(wide, n) for n in progress(modules, "modules")},
        "giants": {
            name: in_a_new_process(giant, name, 0)
            | in_a_new_process(giant, name, 2 if quick else 5)
            for name in progress(giants, "meta")
        },
    }


def added_to_a_layer(figures: Figures, depth: str) -> float:
    """Seconds that counting adds to one layer of a tower."""
    taken = figures["depths"][depth]
    added: float = (taken["counted"] - taken["plain"]) / int(depth)
    return added


def targets(figures: Figures) -> list[Target]:
    growth = added_to_a_layer(figures, "1000") / added_to_a_layer(figures, "100")
    is_linear = abs(growth - 1) <= LINEAR
    what = "what counting adds to a layer, at 1,000 layers ÷ at 100"
    held = [Target(what, f"1 ± {LINEAR}", f"{growth:.2f}", is_linear)]
    if LARGEST in figures["giants"]:
        slower = ratio(figures["giants"][LARGEST], "counted", "plain")
        what = "405B step on meta, counted ÷ plain"
        held.append(Target(what, f"≤ {GIANT}", f"{slower:.2f}", slower <= GIANT))
    return held


def show(figures: Figures) -> str:
    """A table each for depth, steps, modules and size."""
    depths = [
        [
            depth,
            f"{1e6 * taken['plain'] / int(depth):.1f}",
            f"{1e6 * added_to_a_layer(figures, depth):.1f}",
        ]
        for depth, taken in figures["depths"].items()
    ]
    steps = [
        [
            count,
            f"{1e3 * taken['step']:.2f}",
            f"{taken['memory gained'] / 1e6:.2f}",
            f"{1e3 * taken['report']:.2f}",
        ]
        for count, taken in figures["steps"].items()
    ]
    passes = ("first", "later", "report", "table")
    modules = [
        [count, *(f"{1e3 * taken[what]:.1f}" for what in passes)]
        for count, taken in figures["modules"].items()
    ]
    return "\n\n".join(
        [
            table(["layers", "plain step, µs a layer", "counting adds"], depths),
            table(["steps in a block", "counted step, ms", "MB gained", "report, ms"], steps),
            table(["modules", "first pass, ms", "later pass", "report", "its table"], modules),
            of_giants(figures["giants"]),
        ]
    )


def of_giants(giants: dict[str, Figures]) -> str:
    """A table of the models on meta."""
    rows = [
        [
            name,
            f"{taken['parameters'] / 1e9:,.1f}",
            f"{taken['flops'] / 1e15:.2f}",
            f"{median(taken, 'plain'):.2f}",
            f"{ratio(taken, 'counted', 'plain'):.2f}",
            f"{taken['peak memory, plain'] / 1e6:,.0f}",
            f"{taken['peak memory, counted'] / 1e6:,.0f}",
        ]
        for name, taken in giants.items()
    ]
    headers = ["10⁹ parameters", "PFLOP a step", "plain step, s", "counted ÷ plain"]
    return table(["on meta", *headers, "peak MB, plain", "counted"], rows)
