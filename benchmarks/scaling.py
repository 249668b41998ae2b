"""How counting grows: with depth, steps and modules, and to a trillion parameters without memory.

Seconds are medians over rounds in which the plain step and the counted one, and all depths, take
turns. Memory is measured in processes of their own.
"""

from __future__ import annotations

import functools
import gc
import multiprocessing
import re
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from benchmarks.figures import Figures, Target
from benchmarks.markdown import figures_of
from benchmarks.overhead import Step, train
from benchmarks.progress import each
from flopcount import FlopCounter
from tests import models

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEPTHS = (1, 3, 10, 30, 100, 300, 1000)
STEPS = (1, 10, 100, 1000, 10_000)
MODULES = (1, 10, 100, 1000, 10_000)
TOKENS = 4096

GIANTS = {
    "Llama 2 7B": models.LLAMA_7B,
    "Llama 3 70B": models.LLAMA_70B,
    "Llama 3 405B": models.LLAMA_405B,
    "mixture of experts, 1T": models.MIXTURE_1T,
}

LINEAR, GIANT = 0.10, 1.6
"""Wanted: how far the cost of a layer may differ between depths; counted step ÷ plain at 405B."""


def apart(job: Callable[..., Any], *args: Any) -> Any:
    """What ``job`` answers in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(job, args)


def resident() -> int:
    """Bytes of memory that this process holds."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * resource.getpagesize()


def peak() -> int:
    """Most bytes that this process ever held; ``getrusage`` tells its parent's, if it held more."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (kilobytes,) = re.findall(r"^VmHWM:\s*(\d+) kB$", status, flags=re.MULTILINE)
    return int(kilobytes) * 1024


def seconds(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def in_turns(jobs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each of ``jobs``."""
    taken: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(rounds + 1):
        for name, job in jobs.items():
            gc.collect()
            spent = seconds(job)
            if turn:  # the first is to warm up
                taken[name].append(spent)
    return {name: statistics.median(values) for name, values in taken.items()}


def counted(counter: FlopCounter, step: Callable[[], object]) -> Callable[[], None]:
    """``step`` under a counter."""

    def run() -> None:
        with counter:
            step()

    return run


# -- the jobs


def deep(depths: Sequence[int], rounds: int) -> dict[str, dict[str, float]]:
    """Training steps of so many layers, each a Linear and a ReLU."""
    torch.set_num_threads(1)
    jobs: dict[str, Callable[[], object]] = {}
    repeats = {depth: max(1, 1000 // depth) for depth in depths}  # so that each is as long
    for depth in depths:
        model = models.tiny_layers(depth)
        step = train(model, torch.randn(4, 8))

        def steps(step: Step = step, count: int = repeats[depth]) -> None:
            for _ in range(count):
                step()

        jobs[f"plain {depth}"] = steps
        jobs[f"counted {depth}"] = counted(FlopCounter(model), steps)
    taken = in_turns(jobs, rounds)
    return {
        str(depth): {
            kind: taken[f"{kind} {depth}"] / repeats[depth] for kind in ("plain", "counted")
        }
        for depth in depths
    }


def long(count: int) -> dict[str, float]:
    """So many training steps in one block: seconds of all, memory that was gained, the report."""
    torch.set_num_threads(1)
    model, x = models.tiny_layers(5), torch.randn(4, 8)
    optimizer = torch.optim.Adam(model.parameters())

    def steps(count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            model(x).sum().backward()
            optimizer.step()

    with FlopCounter(model) as counter:
        steps(100)  # until memory has settled
        before = resident()
        taken = seconds(functools.partial(steps, count))
        gained = resident() - before
    start = time.perf_counter()
    report = counter.report()
    taken_report = time.perf_counter() - start
    assert report.model.calls == 100 + count
    return {"a step": taken / count, "memory gained": gained, "report": taken_report}


def wide(count: int) -> dict[str, float]:
    """A model of so many modules in blocks of ten: its first step, a later one, its report."""
    torch.set_num_threads(1)
    blocks = [nn.Sequential(*(nn.Tanh() for _ in range(min(count, 10))))]
    blocks += [nn.Sequential(*(nn.Tanh() for _ in range(10))) for _ in range(count // 10 - 1)]
    model, x = nn.Sequential(*blocks), torch.randn(4, 8)
    before = resident()
    with FlopCounter(model) as counter:
        first = seconds(lambda: model(x))
        later = statistics.median(seconds(lambda: model(x)) for _ in range(5))
    start = time.perf_counter()
    report = counter.report()
    taken = time.perf_counter() - start
    table_taken = seconds(report.table)
    assert len(list(report.model.walk())) == 1 + len(blocks) + sum(map(len, blocks))
    gained = resident() - before
    return {"first": first, "later": later, "report": taken, "table": table_taken, "memory": gained}


def giant(name: str, rounds: int) -> dict[str, float]:
    """A step of a model on meta, ``rounds`` times plain and counted; without, only plain."""
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
    taken = in_turns({"plain": step, "counted": counted(counter, step)}, rounds)
    report = counter.report()
    assert not report.uncounted, report.uncounted
    assert report.model_flops % (rounds + 1) == 0
    return {
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "flops": report.model_flops // (rounds + 1),
        **taken,
        "peak memory": peak(),
    }


def run(quick: bool) -> Figures:
    """All sizes, or the smaller ones in fewer rounds."""
    rounds = 3 if quick else 15
    steps, modules = (STEPS[:4], MODULES[:4]) if quick else (STEPS, MODULES)
    giants = list(GIANTS)[:1] if quick else list(GIANTS)
    return {
        "rounds": rounds,
        "tokens": TOKENS,
        "depths": apart(deep, DEPTHS, rounds),
        "steps": {str(count): apart(long, count) for count in each(steps, "steps")},
        "modules": {str(count): apart(wide, count) for count in each(modules, "modules")},
        "giants": {
            name: apart(giant, name, 0) | apart(giant, name, 1 if quick else 5)
            for name in each(giants, "meta")
        },
    }


def a_layer(figures: Figures) -> dict[str, dict[str, float]]:
    """Microseconds of one layer at each depth: of the plain step, and what counting adds."""
    return {
        depth: {
            "plain": 1e6 * taken["plain"] / int(depth),
            "added": 1e6 * (taken["counted"] - taken["plain"]) / int(depth),
        }
        for depth, taken in figures["depths"].items()
    }


def targets(figures: Figures) -> list[Target]:
    layers = a_layer(figures)
    ratio = layers["1000"]["added"] / layers["100"]["added"]
    is_linear = abs(ratio - 1) <= LINEAR
    what = "what counting adds to a layer, at 1,000 layers ÷ at 100"
    held = [Target(what, f"1 ± {LINEAR}", f"{ratio:.2f}", is_linear)]
    if "Llama 3 405B" in figures["giants"]:
        taken = figures["giants"]["Llama 3 405B"]
        ratio = taken["counted"] / taken["plain"]
        what = "405B step on meta, counted ÷ plain"
        held.append(Target(what, f"≤ {GIANT}", f"{ratio:.2f}", ratio <= GIANT))
    return held


def section(figures: Figures) -> str:
    layers = figures_of(
        "layers",
        a_layer(figures),
        {
            "plain step, µs a layer": lambda layer: f"{layer['plain']:.1f}",
            "counting adds": lambda layer: f"{layer['added']:.1f}",
        },
    )
    steps = figures_of(
        "steps in a block",
        figures["steps"],
        {
            "counted step, ms": lambda taken: f"{1e3 * taken['a step']:.2f}",
            "memory gained, MB": lambda taken: f"{taken['memory gained'] / 1e6:.2f}",
            "report, ms": lambda taken: f"{1e3 * taken['report']:.2f}",
        },
    )
    modules = figures_of(
        "modules",
        figures["modules"],
        {
            "first pass, ms": lambda taken: f"{1e3 * taken['first']:.1f}",
            "later pass": lambda taken: f"{1e3 * taken['later']:.1f}",
            "report": lambda taken: f"{1e3 * taken['report']:.1f}",
            "its table": lambda taken: f"{1e3 * taken['table']:.1f}",
        },
    )
    giants = figures_of(
        "on meta",
        figures["giants"],
        {
            "parameters, 10⁹": lambda taken: f"{taken['params'] / 1e9:,.1f}",
            "PFLOP a step": lambda taken: f"{taken['flops'] / 1e15:.2f}",
            "plain step, s": lambda taken: f"{taken['plain']:.2f}",
            "counted ÷ plain": lambda taken: f"{taken['counted'] / taken['plain']:.2f}",
            "peak memory plain, MB": lambda taken: f"{taken['peak memory, plain'] / 1e6:,.0f}",
            "peak memory counted": lambda taken: f"{taken['peak memory'] / 1e6:,.0f}",
        },
    )
    parts = [
        "Depth: a training step of a tower of `Linear(8, 8)` and `ReLU`.",
        layers,
        "Steps: one block around many steps of five such layers with Adam, after a hundred.",
        steps,
        "Modules: a forward pass through so many, ten to a block.",
        modules,
        f"Size: a training step of {figures['tokens']:,} tokens without memory, forward and "
        "backward; FLOPs of products, without recomputation.",
        giants,
    ]
    return "\n\n".join(parts)


def plot(figures: Figures) -> Figure:
    from matplotlib.figure import Figure

    picture = Figure(figsize=(9, 3.5))
    left, right = picture.subplots(1, 2)
    depths = [int(depth) for depth in figures["depths"]]
    for kind in ("plain", "counted"):
        left.loglog(
            depths, [1e3 * taken[kind] for taken in figures["depths"].values()], "o-", label=kind
        )
    left.set(xlabel="layers", ylabel="training step, ms")
    left.legend(frameon=False)
    giants = figures["giants"]
    for kind in ("plain", "counted"):
        right.loglog(
            [taken["params"] for taken in giants.values()],
            [taken[kind] for taken in giants.values()],
            "o",
            label=kind,
        )
    right.set(xlabel="parameters (on meta)", ylabel="training step, s")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return picture
