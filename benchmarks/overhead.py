"""What counting costs in time: a step under each tool, measured side by side in one run.

One thread; the tools take turns within each round, in an order drawn anew, so that whatever else
the machine does falls on all of them alike; the figures are medians. The floor is an empty dispatch
mode. What a tool adds is its step less the plain one, in all and for each op that is dispatched.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.profiler import profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.figures import Figures, Target
from benchmarks.markdown import figures_of
from benchmarks.progress import each
from flopcount import FlopCounter
from flopcount.cli import torchvision_models
from tests import models

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Step = Callable[[], object]

SECONDS, ROUNDS = 20, 30
"""How long each step is repeated at least, under all tools together, and how often."""

MEDIAN, WORST, TORCHS = 1.15, 1.25, 3
"""Wanted: of step ÷ empty the median and the worst; of what torch's counter adds ÷ what we add."""


class Mode(TorchDispatchMode):
    """The floor: a dispatch mode that only passes on, and how often it did."""

    ops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class Ops(Mode):
    """Counts the ops that come by."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.ops += 1
        return func(*args, **(kwargs or {}))


TOOLS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "plain": nullcontext,
    "empty": Mode,
    "flopcount": FlopCounter,
    "FlopCounterMode": lambda: FlopCounterMode(display=False),
    "torch.profiler": lambda: profile(with_flops=True),
}
"""What a step is run under; each is made once for a step, but for those that hold what they saw."""

ONCE = ("empty", "flopcount")


def train(
    model: nn.Module, *inputs: Any, optimizer: type[torch.optim.Optimizer] = torch.optim.SGD
) -> Step:
    """A training step: forward, backward from the sum of the output, optimizer."""
    stepper = optimizer(model.parameters(), lr=1e-6)

    def step() -> None:
        stepper.zero_grad()
        model(*inputs).sum().backward()
        stepper.step()

    return step


def additions(count: int = 1000) -> Step:
    """Nothing but ops: the cost of one op, apart from modules and autograd."""
    x, y = torch.ones(4, 8), torch.ones(4, 8)

    def step() -> None:
        for _ in range(count):
            x + y

    return step


def cases() -> dict[str, Callable[[], Step]]:
    """The steps that are measured, by name; each is built when its turn comes."""
    tokens = torch.zeros(1, 128, dtype=torch.int64)
    image = torch.randn(1, 3, 224, 224)
    small = {"layers": 4, "width": 256, "heads": 4, "vocab": 8192}
    adam, adamw = torch.optim.Adam, torch.optim.AdamW
    return {
        "1000 additions": additions,
        "tiny layers, SGD": lambda: train(models.tiny_layers(), torch.randn(4, 8)),
        "tiny layers, Adam": lambda: train(models.tiny_layers(), torch.randn(4, 8), optimizer=adam),
        "LSTM, 2 × 128": lambda: train(models.Lstm(), torch.randn(4, 32, 64)),
        "ResNet-18": lambda: train(torchvision_models.build("resnet18"), image),
        "ResNet-50": lambda: train(torchvision_models.build("resnet50"), image),
        "MobileNetV2": lambda: train(torchvision_models.build("mobilenet_v2"), image),
        "ViT-B/16": lambda: train(models.ViT(), image),
        "GPT-2, 124 M": lambda: train(models.GPT2(), tokens),
        "BERT, 4 × 256": lambda: train(models.BERT(**small), tokens),
        "Llama, 4 × 256": lambda: train(
            models.Llama(4, 256, 4, 2, 704, 8192), tokens, optimizer=adamw
        ),
    }


QUICK = ("1000 additions", "tiny layers, SGD", "ResNet-18")


def measure(step: Step, rounds: int, seconds: float) -> dict[str, float]:
    """Median seconds of ``step`` under each tool; short steps are repeated more often."""
    made = {name: TOOLS[name]() for name in ONCE}
    times: dict[str, list[float]] = {name: [] for name in TOOLS}
    names, order = list(TOOLS), random.Random(0)
    started = time.perf_counter()
    turn = -2  # two rounds to warm up
    while turn < rounds or time.perf_counter() - started < seconds:
        order.shuffle(names)
        for name in names:
            with made.get(name) or TOOLS[name]():
                start = time.perf_counter()
                step()
                taken = time.perf_counter() - start
            if turn >= 0:
                times[name].append(taken)
        turn += 1
        gc.collect(0)
    return {name: statistics.median(values) for name, values in times.items()}


def dispatched(step: Step) -> int:
    """How many ops a dispatch mode sees of ``step``."""
    with Ops() as mode:
        step()
    return mode.ops


def run(quick: bool) -> Figures:
    """All steps, or three of them in fewer rounds."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    built = cases()
    steps = {}
    for name in each(QUICK if quick else list(built), "overhead"):
        step = built[name]()
        times = measure(step, 5 if quick else ROUNDS, 4 if quick else SECONDS)
        steps[name] = {"ops": dispatched(step), **times}
    return {"rounds": ROUNDS, "seconds_a_step": SECONDS, "steps": steps}


def ratios(figures: Figures, over: str) -> dict[str, float]:
    """Step under flopcount ÷ step under ``over``."""
    return {name: times["flopcount"] / times[over] for name, times in figures["steps"].items()}


def added(times: dict[str, float], tool: str) -> float:
    """Seconds that ``tool`` adds to the plain step."""
    return times[tool] - times["plain"]


def less(figures: Figures) -> dict[str, float]:
    """What torch's counter adds ÷ what flopcount adds."""
    return {
        name: added(times, "FlopCounterMode") / added(times, "flopcount")
        for name, times in figures["steps"].items()
    }


def targets(figures: Figures) -> list[Target]:
    floor = list(ratios(figures, "empty").values())
    median, worst = statistics.median(floor), max(floor)
    torchs = statistics.median(less(figures).values())
    return [
        Target("step ÷ empty mode, median", f"≤ {MEDIAN}", f"{median:.2f}", median <= MEDIAN),
        Target("step ÷ empty mode, worst", f"≤ {WORST}", f"{worst:.2f}", worst <= WORST),
        Target(
            "overhead of FlopCounterMode ÷ flopcount's, median",
            f"≥ {TORCHS}",
            f"{torchs:.2f}",
            torchs >= TORCHS,
        ),
    ]


def section(figures: Figures) -> str:
    def under(tool: str) -> Callable[[dict[str, float]], str]:
        return lambda times: f"{times['flopcount'] / times[tool]:.2f}"

    def adds(tool: str) -> Callable[[dict[str, float]], str]:
        return lambda times: f"{1e6 * added(times, tool) / times['ops']:.1f}"

    others = [tool for tool in TOOLS if tool not in ("plain", "empty", "flopcount")]
    divided = {
        "ops": lambda times: f"{times['ops']:,}",
        "plain, ms": lambda times: f"{1e3 * times['plain']:.2f}",
        "÷ plain": under("plain"),
        "÷ empty mode": under("empty"),
        **{f"÷ {tool}": under(tool) for tool in others},
    }
    an_op = {
        "empty mode": adds("empty"),
        "flopcount": adds("flopcount"),
        **{tool: adds(tool) for tool in others},
        "FlopCounterMode ÷ flopcount": lambda times: (
            f"{added(times, 'FlopCounterMode') / added(times, 'flopcount'):.1f}"
        ),
    }
    parts = [
        "A step under flopcount, divided by the same step without a tool, and under each other "
        "tool that watches a whole step. Entering and leaving is not measured: torch.profiler "
        "makes its tables there.",
        figures_of("step", figures["steps"], divided),
        "What each adds to the plain step, in µs for each op:",
        figures_of("step", figures["steps"], an_op),
    ]
    return "\n\n".join(parts)


def plot(figures: Figures) -> Figure:
    from matplotlib.figure import Figure

    names = list(figures["steps"])
    picture = Figure(figsize=(9, 4))
    axes = picture.subplots()
    tools = [tool for tool in TOOLS if tool != "plain"]
    for place, tool in enumerate(tools):
        heights = [times[tool] / times["plain"] for times in figures["steps"].values()]
        positions = [index + (place - 1.5) / 5 for index in range(len(names))]
        axes.bar(positions, heights, 1 / 5, label=tool if tool != "empty" else "empty mode")
    axes.set_yscale("log")
    axes.set_yticks([1, 2, 5, 10], ["1", "2", "5", "10"])
    axes.set_ylabel("step ÷ plain step")
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return picture
