"""What asking costs in time: each tool's call beside the plain model, in turns, in one process.

    python -m benchmarks.peers.timing [--quick] [TOOL ...]

Runs in the peers' environment and prints a line of JSON for each model. The tools take turns
within each round, in an order drawn anew, so that whatever else the machine does falls on all of
them alike; figures are medians, in seconds. A call is all that it takes to get the number: hooks,
the run itself, the sum.
"""

from __future__ import annotations

import gc
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.peers.adapters import descend
from benchmarks.peers.cases import NETWORKS
from benchmarks.peers.tools import OURS, TOOLS

__all__ = ["MODELS", "PLAIN", "STEPS", "medians"]

PLAIN = "plain"

MODELS = ("ResNet-50", "MobileNetV2", "ResNet-18", "ViT-B/16", "GPT-2", "tiny layers", "LSTM")

STEPS = (OURS, "FlopCounterMode", "torch.profiler")
"""Tools that watch a training step; for others a step is forward, and a factor."""

ROUNDS = {False: 7, True: 3}


def medians(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each call; the first round is to warm up. A peer that raises has none."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    order = random.Random(0)
    for turn in range(rounds + 1):
        for name in order.sample(list(times), len(times)):
            start = time.perf_counter()
            try:
                calls[name]()
            except Exception:  # a peer that fails on a model has no time for it
                if name in (PLAIN, OURS):
                    raise
                del times[name]
                continue
            seconds = time.perf_counter() - start
            times[name] += [seconds] * (turn > 0)
            gc.collect(0)
    return {name: statistics.median(values) for name, values in times.items()}


def measured(name: str, tools: list[str], rounds: int) -> dict[str, Any]:
    """Seconds for a model: forward under every tool, a training step under those that watch it."""
    model, args = NETWORKS[name].build()

    def call(measure: Callable[[nn.Module, tuple[Any, ...]], object], *, train: bool) -> object:
        return measure(model.train(train), args)

    def forward(model: nn.Module, args: tuple[Any, ...]) -> object:
        return model(*args)

    def step(model: nn.Module, args: tuple[Any, ...]) -> None:
        descend(model(*args))

    forwards = {PLAIN: forward, **{tool: TOOLS[tool].forward for tool in tools}}
    watched = {tool: whole for tool in tools if tool in STEPS and (whole := TOOLS[tool].step)}
    steps = {PLAIN: step, **watched}
    return {
        way: medians({tool: partial(call, ask, train=train) for tool, ask in asked.items()}, rounds)
        for way, asked, train in (("forward", forwards, False), ("step", steps, True))
    }


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    torch.set_num_threads(1)
    quick = "--quick" in sys.argv
    tools = [tool for tool in TOOLS if tool in sys.argv]
    for name in MODELS[:2] if quick else MODELS:
        print(json.dumps(measured(name, tools, ROUNDS[quick])), file=answers, flush=True)


if __name__ == "__main__":
    main()
