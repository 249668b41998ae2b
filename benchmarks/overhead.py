"""What counting costs in time: a training step under each tool, and pytest with the plugin.

The floor of a step is an empty dispatch mode. A tool's overhead is its step less the plain step.
Entering and leaving are not measured, since torch.profiler makes its tables there. The plugin is
measured on 2,000 empty tests, without a budget, and again with one more test that has a budget.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import torch
from torch.profiler import profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.progress import progress
from benchmarks.results import Figures, Target, table
from benchmarks.timing import Timed, in_turns, median, ratio
from benchmarks.training import Step, train
from flopcount import FlopCounter
from flopcount.cli import torchvision_models
from tests import models

MEDIAN, WORST, TORCHS = 1.15, 1.25, 3
"""Targets: step ÷ empty mode, the median and the worst; overhead of torch's counter ÷ ours."""

PLUGIN = 1.05
"""The target for plugin on ÷ off, at most."""

# -- a step under each tool


class Empty(TorchDispatchMode):
    """The floor: a dispatch mode that only passes each op on."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class Ops(TorchDispatchMode):
    """Counts the ops that it passes on."""

    ops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.ops += 1
        return func(*args, **(kwargs or {}))


def tools() -> dict[str, Callable[[], AbstractContextManager[object]]]:
    """The contexts that a step runs in; a tool that keeps what it saw is made anew each time."""
    empty, counter = Empty(), FlopCounter()
    return {
        "plain": nullcontext,
        "empty mode": lambda: empty,
        "flopcount": lambda: counter,
        "FlopCounterMode": lambda: FlopCounterMode(display=False),
        "torch.profiler": lambda: profile(with_flops=True),
    }


def additions(count: int = 1000) -> Step:
    """Nothing but ops: the cost of one op, apart from modules and autograd."""
    x, y = torch.ones(4, 8), torch.ones(4, 8)

    def step() -> None:
        for _ in range(count):
            x + y

    return step


def steps() -> dict[str, Callable[[], Step]]:
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


def timed(step: Step, *, quick: bool) -> Figures:
    """The times of ``step`` under each tool, and how many ops a dispatch mode sees of it."""
    calls = {name: Timed(step, tool) for name, tool in tools().items()}
    times = in_turns(calls, rounds=5 if quick else 30, seconds=4 if quick else 20)
    with Ops() as mode:
        step()
    return {"ops": mode.ops, **times}


# -- pytest with the plugin

FILES, TESTS_A_FILE = 20, 100

EMPTY = "\n".join(f"def test_{number}(): pass" for number in range(TESTS_A_FILE))

MARKED = "import pytest\n@pytest.mark.flop_budget('0 FLOP')\ndef test_marked(): pass\n"

CONFTEST = "import torch, flopcount\nflopcount.FlopCounter\n"
"""Makes both runs import torch and the counter, which the test with a budget needs."""

IS_INSTALLED = "flopcount" in entry_points(group="pytest11").names

ARGUMENTS = {
    "on": [] if IS_INSTALLED else ["-p", "flopcount.pytest_plugin"],
    "off": ["-p", "no:flopcount"] if IS_INSTALLED else [],
}


def write_suite(folder: Path, *, marked: bool) -> None:
    """Write the tests into ``folder``, with one more that has a budget if ``marked``."""
    for number in range(FILES):
        (folder / f"test_{number}.py").write_text(EMPTY, encoding="utf-8")
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    flop_budget\n", encoding="utf-8")
    if marked:
        (folder / "conftest.py").write_text(CONFTEST, encoding="utf-8")
        (folder / "test_marked.py").write_text(MARKED, encoding="utf-8")


def run_pytest(folder: Path, arguments: list[str]) -> None:
    """Run the tests in ``folder``, in a process of its own."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)


def processor_time_of_children() -> float:
    """Processor seconds of the child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def pytest_times(*, marked: bool, rounds: int) -> Figures:
    """The times of the suite with the plugin on and off."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_suite(folder, marked=marked)
        calls = {
            plugin: Timed(partial(run_pytest, folder, arguments))
            for plugin, arguments in ARGUMENTS.items()
        }
        return in_turns(calls, rounds=rounds, clock=processor_time_of_children)


# -- the benchmark


def run(quick: bool) -> Figures:
    """Measure all steps and both suites; if ``quick``, three steps and one suite, less often."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    builders = steps()
    names = QUICK if quick else list(builders)
    suites = {"no test has a budget": False, "one more test has a budget": True}
    return {
        "steps": {name: timed(builders[name](), quick=quick) for name in progress(names, "steps")},
        "pytest": {
            name: pytest_times(marked=suites[name], rounds=3 if quick else 15)
            for name in progress(list(suites)[: 1 if quick else 2], "pytest")
        },
    }


def added(times: Figures, tool: str) -> float:
    """Seconds that ``tool`` adds to the plain step."""
    return median(times, tool) - median(times, "plain")


def targets(figures: Figures) -> list[Target]:
    floor = [ratio(times, "flopcount", "empty mode") for times in figures["steps"].values()]
    middle, worst = statistics.median(floor), max(floor)
    torchs = statistics.median(
        added(times, "FlopCounterMode") / added(times, "flopcount")
        for times in figures["steps"].values()
    )
    plugin = max(ratio(times, "on", "off") for times in figures["pytest"].values())
    less = "overhead of FlopCounterMode ÷ flopcount's, median"
    return [
        Target("step ÷ empty mode, median", f"≤ {MEDIAN}", f"{middle:.2f}", middle <= MEDIAN),
        Target("step ÷ empty mode, worst", f"≤ {WORST}", f"{worst:.2f}", worst <= WORST),
        Target(less, f"≥ {TORCHS}", f"{torchs:.2f}", torchs >= TORCHS),
        Target("empty tests, plugin on ÷ off", f"≤ {PLUGIN}", f"{plugin:.3f}", plugin <= PLUGIN),
    ]


def show(figures: Figures) -> str:
    """Tables: a step under each tool ÷ the plain step; µs that a tool adds to an op; pytest."""
    first = next(iter(figures["steps"].values()))
    watchers = [tool for tool in first if tool not in ("ops", "plain")]
    divided, per_op = [], []
    for name, times in figures["steps"].items():
        ratios = [f"{ratio(times, tool, 'plain'):.2f}" for tool in watchers]
        over_empty = f"{ratio(times, 'flopcount', 'empty mode'):.2f}"
        spread = f"{times['flopcount']['spread']:.0%}"
        plain = f"{1e3 * median(times, 'plain'):.2f}"
        divided.append([name, f"{times['ops']:,}", plain, *ratios, over_empty, spread])
        per_op.append([name, *(f"{1e6 * added(times, t) / times['ops']:.1f}" for t in watchers)])
    suites = [
        [
            name,
            f"{median(times, 'off'):.2f}",
            f"{median(times, 'on'):.2f}",
            f"{ratio(times, 'on', 'off'):.3f}",
        ]
        for name, times in figures["pytest"].items()
    ]
    headers = ["step ÷ plain", "ops", "plain, ms", *watchers, "flopcount ÷ empty", "spread"]
    empty_tests = f"{FILES * TESTS_A_FILE:,} empty tests"
    return "\n\n".join(
        [
            table(headers, divided),
            table(["µs added to each op", *watchers], per_op),
            table([empty_tests, "plugin off, s", "on, s", "on ÷ off"], suites),
        ]
    )
