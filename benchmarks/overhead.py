"""What counting costs in time: a step under each mode, measured side by side in one run.

    python -m benchmarks.overhead [--quick] [--repetitions N]

One thread; the modes take turns within each repetition, in an order drawn anew, so that whatever
else the machine does falls on all of them alike; the figures are medians. ``step ratio`` is step
under FlopCounter over step under an empty dispatch mode; ``per-op ratio`` what each adds to the
plain step, over the same. Results go to ``benchmarks/results/overhead.json``.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from tabulate import tabulate
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import models
from benchmarks.figures import write
from flopcount import FlopCounter, zoo

Step = Callable[[], object]


LEAST_SECONDS = 20
"""How long each step is repeated at least, in all modes together."""


class EmptyMode(TorchDispatchMode):
    """The floor: a dispatch mode that only passes on."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


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
    tokens = torch.zeros(2, 128, dtype=torch.int64)
    image = torch.randn(1, 3, 224, 224)
    small = {"layers": 4, "width": 256, "heads": 4, "vocab": 8192}
    return {
        "1000 additions": additions,
        "tiny layers, SGD": lambda: train(models.tiny_layers(), torch.randn(4, 8)),
        "tiny layers, Adam": lambda: train(
            models.tiny_layers(), torch.randn(4, 8), optimizer=torch.optim.Adam
        ),
        "ResNet-18": lambda: train(zoo.build("resnet18"), image),
        "ResNet-50": lambda: train(zoo.build("resnet50"), image),
        "MobileNetV2": lambda: train(zoo.build("mobilenet_v2"), image),
        "ViT-S/16": lambda: train(models.ViT(width=384, heads=6), image),
        "GPT-2, 4 × 256": lambda: train(models.GPT2(**small), tokens),
        "BERT, 4 × 256": lambda: train(models.BERT(**small), tokens),
        "Llama, 4 × 256": lambda: train(
            models.Llama(4, 256, 4, 2, 704, 8192), tokens, optimizer=torch.optim.AdamW
        ),
    }


def measure(step: Step, repetitions: int) -> dict[str, float]:
    """Median seconds of ``step`` under each mode; short steps are repeated more often."""
    counter = FlopCounter()
    modes: dict[str, Callable[[], AbstractContextManager[object]]] = {
        "plain": nullcontext,
        "empty": EmptyMode,
        "flopcount": lambda: counter,
        "torch": lambda: FlopCounterMode(display=False),
    }
    times: dict[str, list[float]] = {name: [] for name in modes}
    names, order = list(modes), random.Random(0)
    started = time.perf_counter()
    repetition = -2  # two rounds to warm up
    while repetition < repetitions or time.perf_counter() - started < LEAST_SECONDS:
        order.shuffle(names)
        for name in names:
            with modes[name]():
                start = time.perf_counter()
                step()
                seconds = time.perf_counter() - start
            if repetition >= 0:
                times[name].append(seconds)
        repetition += 1
        gc.collect(0)
    return {name: statistics.median(values) for name, values in times.items()}


META_STEP = """
import resource, sys, time, torch
from benchmarks import models
from contextlib import nullcontext
from flopcount import FlopCounter
with torch.device("meta"):
    model = models.Llama(**models.LLAMA_405B)
    tokens = torch.zeros(1, 8192, dtype=torch.int64)
def step(mode):
    with mode as counter:
        start = time.perf_counter()
        model(tokens).backward()
        seconds = time.perf_counter() - start
    model.zero_grad()
    return seconds, counter
step(nullcontext())
rounds = int(sys.argv[1])
plain, counted = [], []
for _ in range(rounds):
    plain.append(step(nullcontext())[0])
    seconds, counter = step(FlopCounter(model))
    counted.append(seconds)
report = counter.report()
assert not report.uncounted, report.uncounted
print(sorted(plain)[rounds // 2], sorted(counted)[rounds // 2],
      resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, report.root.params,
      report.total.flops)
"""
"""A step of the 405-billion-parameter Llama without memory, in a process of its own."""


def meta_step(rounds: int) -> dict[str, float]:
    """Seconds of a 405B step on meta, plain and counted, and the peak memory of the process."""
    command = [sys.executable, "-c", META_STEP, str(rounds)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    plain, counted, memory, params, flops = map(float, output.split())
    return {
        "plain": plain,
        "flopcount": counted,
        "ratio": counted / plain,
        "peak_memory": memory,
        "params": params,
        "flops": flops,
    }


MANY_STEPS = """
import gc, resource, sys, torch
from benchmarks import models
from flopcount import FlopCounter
torch.set_num_threads(1)
model = models.tiny_layers(5)
optimizer = torch.optim.Adam(model.parameters())
def steps(count):
    for _ in range(count):
        optimizer.zero_grad()
        model(torch.ones(4, 8)).sum().backward()
        optimizer.step()
def memory():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
with FlopCounter(model) as counter:
    steps(100)
    before = memory()
    steps(int(sys.argv[1]))
    after = memory()
assert counter.report().root.children[0].calls == 100 + int(sys.argv[1])
print(after - before)
"""
"""Memory that one counter gains around many steps, in a process of its own."""


def many_steps(count: int) -> int:
    """Bytes of resident memory gained by a counter that is entered once around ``count`` steps."""
    command = [sys.executable, "-c", MANY_STEPS, str(count)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--quick", action="store_true", help="few repetitions, small models")
    options.add_argument("--repetitions", type=int, default=30)
    chosen = options.parse_args()
    repetitions = 5 if chosen.quick else chosen.repetitions
    torch.set_num_threads(1)
    torch.manual_seed(0)

    rows, results = [], {}
    for name, build in cases().items():
        times = measure(build(), repetitions)
        plain, empty, ours, torchs = (
            times[mode] for mode in ("plain", "empty", "flopcount", "torch")
        )
        results[name] = {
            **times,
            "step_ratio": ours / empty,
            "per_op_ratio": (ours - plain) / (empty - plain),
            "torch_step_ratio": torchs / empty,
        }
        rows.append(
            [name, *(f"{1e3 * t:.2f}" for t in (plain, empty, ours, torchs))]
            + [f"{results[name][key]:.3f}" for key in ("step_ratio", "torch_step_ratio")]
            + [f"{results[name]['per_op_ratio']:.2f}"]
        )
        print(f"{name}: step ratio {ours / empty:.3f}", file=sys.stderr, flush=True)
    results["Llama 405B, meta"] = meta = meta_step(1 if chosen.quick else 5)
    headers = ["step", "plain ms", "empty", "flopcount", "torch", "step ratio", "torch's", "per op"]
    print(tabulate(rows, headers, disable_numparse=True, colalign=["left"] + 7 * ["right"]))
    print(
        f"\nLlama 405B step on meta: plain {meta['plain']:.2f} s, counted "
        f"{meta['flopcount']:.2f} s, ratio {meta['ratio']:.2f}, peak memory "
        f"{meta['peak_memory'] / 1e6:.0f} MB"
    )
    count = 1000 if chosen.quick else 10_000
    gained = many_steps(count)
    print(f"{count} steps in one counter: memory grows by {gained / 1e6:.1f} MB")
    if not chosen.quick:
        figures = {"repetitions": repetitions, "steps": results}
        write("overhead", {**figures, "memory_gained_in_10000_steps": gained})


if __name__ == "__main__":
    main()
