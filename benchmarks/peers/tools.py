"""The tools: what each is asked, and how its answer is read as multiply-accumulates (MACs).

Compared are the products of matrices, convolutions and attention, which all of them count. Where a
tool tells these from other work, only these are taken.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.peers import adapters
from benchmarks.peers.adapters import Measure

__all__ = ["OPTIONAL", "OURS", "TOOLS", "Tool"]

OURS = "flopcount"
OPTIONAL = "DeepSpeed"
"""Compared if it installs."""

GATES = "biases and gates of recurrent layers"


@dataclass(frozen=True)
class Tool:
    """A tool.

    Attributes:
        package: where its version is found.
        module: what is imported before anything is counted.
        counts: what its figure is, and what is made of it.
        forward: asks it for a model's forward.
        step: asks it for forward and backward together; None if it does not offer that.
        adds: what its documentation says that it adds to products and does not tell from them.
    """

    package: str
    module: str
    counts: str
    forward: Measure
    step: Measure | None = None
    adds: str = ""


def around(watch: adapters.Watch) -> tuple[Measure, Measure]:
    """For a tool that watches whatever runs: forward, and the whole step."""
    return (
        lambda model, args: watch(model, lambda: model(*args)),
        lambda model, args: watch(model, lambda: adapters.descend(model(*args))),
    )


TOOLS: dict[str, Tool] = {
    OURS: Tool("flopcount", "flopcount", "MACs", *around(adapters.flopcount)),
    "FlopCounterMode": Tool(
        "torch", "torch.utils.flop_counter", "FLOPs, halved", *around(adapters.flop_counter_mode)
    ),
    "torch.profiler": Tool(
        "torch",
        "torch.profiler",
        "`with_flops=True`: FLOPs of all ops but `add` and `mul`, halved",
        *around(adapters.profiler),
    ),
    "fvcore": Tool("fvcore", "fvcore.nn", "MACs of operators that are products", adapters.fvcore),
    "ptflops": Tool(
        "ptflops",
        "ptflops",
        "`backend='pytorch'`, what the code defaults to: MACs",
        adapters.ptflops("pytorch"),
        adds="biases, normalisation, activations, pooling",
    ),
    "ptflops aten": Tool(
        "ptflops",
        "ptflops",
        "`backend='aten'`, which its README recommends: MACs",
        adapters.ptflops("aten"),
        adds="biases",
    ),
    "thop": Tool("thop", "thop", "MACs", adapters.thop),
    "torchinfo": Tool("torchinfo", "torchinfo", "mult-adds: MACs", adapters.torchinfo),
    "calflops": Tool(
        "calflops",
        "calflops",
        "MACs, of recurrent layers FLOPs, halved; backward by `include_backPropagation=True`",
        adapters.calflops(backward=False),
        adapters.calflops(backward=True),
        adds=GATES,
    ),
    OPTIONAL: Tool(
        "deepspeed",
        "deepspeed.profiling.flops_profiler",
        "MACs, of recurrent layers FLOPs, halved; backward as its profile reckons, twice forward",
        adapters.deepspeed,
        adapters.deepspeed_step,
        adds=GATES,
    ),
}
"""All tools, in the order of the tables."""
