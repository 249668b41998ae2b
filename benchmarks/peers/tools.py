"""The tools, and how each is asked for multiply-accumulates (MACs), as its documentation shows.

The comparison is of products of matrices, convolutions and attention, which all tools count. Where
a tool tells these from other work, only these are taken. Tools are imported when they are asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn

from benchmarks.training import loss_of

__all__ = ["OURS", "TOOLS", "Answer", "Measure", "NoAnswer", "Tool", "profiler"]


class Answer(NamedTuple):
    """What a tool answered.

    Attributes:
        macs: the total.
        rows: the MACs of each module by its path, if the tool returns them, and not only prints.
        mixed: whether other work is among them, as its documentation says.
    """

    macs: float
    rows: Mapping[str, float] | None = None
    mixed: bool = False


class NoAnswer(Exception):
    """The tool returned None."""


Measure = Callable[[nn.Module, tuple[Any, ...]], Answer]
"""Asks a tool about a model that is called with these arguments."""

# -- tools that watch whatever runs


def flopcount(model: nn.Module, run: Callable[[], object]) -> Answer:
    """MACs."""
    from flopcount import FlopCounter

    with FlopCounter(model) as counter:
        run()
    return Answer(counter.report().total.macs)


def flop_counter_mode(model: nn.Module, run: Callable[[], object]) -> Answer:
    """FLOPs, halved."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        run()
    return Answer(counter.get_total_flops() / 2)


def profiler(model: nn.Module, run: Callable[[], object]) -> Answer:
    """FLOPs of all ops but additions and multiplications, halved."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], with_flops=True) as profiled:
        run()
    others = ("aten::add", "aten::mul")
    events = profiled.key_averages()
    return Answer(sum(event.flops for event in events if event.key not in others) / 2)


def whole(watch: Callable[[nn.Module, Callable[[], object]], Answer]) -> tuple[Measure, Measure]:
    """How a tool that watches is asked for forward, and for the whole step."""
    return (
        lambda model, args: watch(model, lambda: model(*args)),
        lambda model, args: watch(model, lambda: loss_of(model(*args)).backward()),
    )


# -- tools that are given a model

PRODUCTS = {"addmm", "bmm", "conv", "einsum", "linear", "matmul", "mm"}
"""What fvcore calls the operators that are products; the others are norms and resampling."""


def fvcore(model: nn.Module, args: tuple[Any, ...]) -> Answer:
    """MACs of operators that are products."""
    from fvcore.nn import FlopCountAnalysis

    analysis = FlopCountAnalysis(model, args)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    rows = {
        path: float(sum(macs for op, macs in by_op.items() if op in PRODUCTS))
        for path, by_op in analysis.by_module_and_operator().items()
    }
    return Answer(rows[""], rows)


class Gathered(nn.Module):
    """A model that takes its arguments as one, for tools that pass on only named ones."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, args: tuple[Any, ...]) -> Any:
        return self.model(*args)


def ptflops(backend: str) -> Measure:
    """MACs with biases; its backend ``pytorch`` adds norms, activations and pooling."""

    def measure(model: nn.Module, args: tuple[Any, ...]) -> Answer:
        from ptflops import get_model_complexity_info

        macs, _ = get_model_complexity_info(
            Gathered(model),
            (1,),
            input_constructor=lambda _: {"args": args},
            as_strings=False,
            print_per_layer_stat=False,
            backend=backend,
        )
        if macs is None:  # where it could not run the model
            raise NoAnswer
        return Answer(macs, mixed=True)

    return measure


def thop(model: nn.Module, args: tuple[Any, ...]) -> Answer:
    """MACs, from hooks on the layers that it knows."""
    from thop import profile

    macs, _, children = profile(model, inputs=args, verbose=False, ret_layer_info=True)
    rows = {"": macs}

    def enter(children: Mapping[str, Any], prefix: str) -> None:
        for name, (macs, _, below) in children.items():
            rows[prefix + name] = macs
            enter(below, f"{prefix}{name}.")

    enter(children, "")
    return Answer(macs, rows)


def torchinfo(model: nn.Module, args: tuple[Any, ...]) -> Answer:
    """Mult-adds, which are MACs, with a row for each call of each layer."""
    from torchinfo import summary

    summed = summary(model, input_data=list(args), verbose=0)
    rows: dict[str, float] = {}
    above: list[str] = []
    for layer in summed.summary_list:
        above[layer.depth :] = [layer.var_name]
        path = ".".join(above[1:])
        parts = [layer] if layer.is_leaf_layer else [c for c in layer.children if c.is_leaf_layer]
        rows[path] = rows.get(path, 0) + sum(part.macs for part in parts)
    return Answer(summed.total_mult_adds, rows)


def products(model: nn.Module, flops: float, macs: float) -> Answer:
    """MACs; of recurrent layers calflops and DeepSpeed give FLOPs alone, with gates and biases."""
    kinds = (nn.RNNBase, nn.RNNCellBase)
    recurrent = any(isinstance(part, kinds) for part in model.modules())
    return Answer(flops / 2, mixed=True) if recurrent else Answer(macs)


def calflops(*, backward: bool) -> Measure:
    """MACs; backward by ``include_backPropagation``. It prints its rows."""

    def measure(model: nn.Module, args: tuple[Any, ...]) -> Answer:
        from calflops import calculate_flops

        flops, macs, _ = calculate_flops(
            model,
            args=list(args),
            include_backPropagation=backward,
            print_results=False,
            output_as_string=False,
        )
        return products(model, flops, macs)

    return measure


def deepspeed(model: nn.Module, args: tuple[Any, ...]) -> Answer:
    """MACs; it patches functions of torch while the model runs."""
    from deepspeed.profiling.flops_profiler import FlopsProfiler
    from deepspeed.profiling.flops_profiler.profiler import get_module_flops, get_module_macs

    profiler = FlopsProfiler(model)
    profiler.start_profile()
    model(*args)
    answers = {
        path: products(module, get_module_flops(module), get_module_macs(module))
        for path, module in model.named_modules()
    }
    profiler.end_profile()
    rows = {path: answer.macs for path, answer in answers.items()}
    return answers[""]._replace(rows=rows)


def deepspeed_step(model: nn.Module, args: tuple[Any, ...]) -> Answer:
    """Its profile takes a step to be three times forward."""
    forward = deepspeed(model, args)
    return forward._replace(macs=3 * forward.macs)


# -- all of them


@dataclass(frozen=True)
class Tool:
    """A tool.

    Attributes:
        package: whose version is shown.
        module: what is imported before anything is counted.
        forward: asks it for a model's forward; None if it does not count a model by itself.
        step: asks it for forward and backward together; None if it does not offer that.
    """

    package: str
    module: str
    forward: Measure | None = None
    step: Measure | None = None


OURS = "flopcount"

TOOLS: dict[str, Tool] = {
    OURS: Tool("flopcount", "flopcount", *whole(flopcount)),
    "FlopCounterMode": Tool("torch", "torch.utils.flop_counter", *whole(flop_counter_mode)),
    "ModTracker": Tool("torch", "torch.distributed._tools.mod_tracker"),  # for programs alone
    "torch.profiler": Tool("torch", "torch.profiler", *whole(profiler)),
    "fvcore": Tool("fvcore", "fvcore.nn", fvcore),
    "ptflops": Tool("ptflops", "ptflops", ptflops("pytorch")),
    "ptflops aten": Tool("ptflops", "ptflops", ptflops("aten")),
    "thop": Tool("thop", "thop", thop),
    "torchinfo": Tool("torchinfo", "torchinfo", torchinfo),
    "calflops": Tool("calflops", "calflops", calflops(backward=False), calflops(backward=True)),
    "DeepSpeed": Tool("deepspeed", "deepspeed.profiling.flops_profiler", deepspeed, deepspeed_step),
}
"""The tools, in the order of the tables."""
