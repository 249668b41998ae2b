"""How each tool is asked, in the way that its documentation shows.

Each adapter is given a model and its arguments, and answers with MACs: all of them, and those of
each module where the tool tells them to a program, and not only to a reader. Tools are imported
when they are asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import nn

__all__ = ["Found", "Measure", "Watch", "descend"]


class Found(NamedTuple):
    """What a tool answered.

    Attributes:
        macs: of everything.
        rows: of each module by its path, if the tool tells.
        mixed: whether other work is among them, as its documentation says.
    """

    macs: float
    rows: Mapping[str, float] | None = None
    mixed: bool = False


Measure = Callable[[nn.Module, tuple[Any, ...]], Found]
"""Asks a tool about a model that is called with these arguments."""

Watch = Callable[[nn.Module, Callable[[], object]], Found]
"""Asks a tool about whatever a function does."""


def descend(output: Any) -> None:
    """Backward from the sum of all outputs."""
    from flopcount.counter.count import loss_of

    loss_of(output).backward()


def flopcount(model: nn.Module, run: Callable[[], object]) -> Found:
    """This tool."""
    from flopcount import FlopCounter

    with FlopCounter(model) as counter:
        run()
    return Found(counter.report().total.macs)


def flop_counter_mode(model: nn.Module, run: Callable[[], object]) -> Found:
    """torch's counter, which wants no model."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        run()
    return Found(counter.get_total_flops() / 2)


def profiler(model: nn.Module, run: Callable[[], object]) -> Found:
    """torch's profiler, which knows FLOPs of ops, but not of modules."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], with_flops=True) as found:
        run()
    events = found.key_averages()
    others = ("aten::add", "aten::mul")
    return Found(sum(event.flops for event in events if event.key not in others) / 2)


PRODUCTS = {"addmm", "bmm", "conv", "einsum", "linear", "matmul", "mm"}
"""What fvcore calls the operators that are products; the others are norms and resampling."""


def fvcore(model: nn.Module, args: tuple[Any, ...]) -> Found:
    """It traces the model."""
    from fvcore.nn import FlopCountAnalysis

    analysis = FlopCountAnalysis(model, args)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    found = analysis.by_module_and_operator()
    rows = {
        path: float(sum(macs for op, macs in by_op.items() if op in PRODUCTS))
        for path, by_op in found.items()
    }
    return Found(rows[""], rows)


class Gathered(nn.Module):
    """A model that takes its arguments as one, for tools that pass on only named ones."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, args: tuple[Any, ...]) -> Any:
        return self.model(*args)


def ptflops(backend: str) -> Measure:
    """It prints its rows; what it cannot run it reports as None."""

    def measure(model: nn.Module, args: tuple[Any, ...]) -> Found:
        from ptflops import get_model_complexity_info

        macs, _ = get_model_complexity_info(
            Gathered(model),
            (1,),
            input_constructor=lambda _: {"args": args},
            as_strings=False,
            print_per_layer_stat=False,
            backend=backend,
        )
        if macs is None:
            raise NoAnswer
        return Found(macs, mixed=True)

    return measure


class NoAnswer(Exception):
    """The tool said None."""


def thop(model: nn.Module, args: tuple[Any, ...]) -> Found:
    """It has hooks for the layers that it knows."""
    from thop import profile

    macs, _, children = profile(model, inputs=args, verbose=False, ret_layer_info=True)
    rows = {"": macs}

    def enter(children: Mapping[str, Any], prefix: str) -> None:
        for name, (found, _, below) in children.items():
            rows[prefix + name] = found
            enter(below, f"{prefix}{name}.")

    enter(children, "")
    return Found(macs, rows)


def torchinfo(model: nn.Module, args: tuple[Any, ...]) -> Found:
    """It has a row for each call of each layer."""
    from torchinfo import summary

    found = summary(model, input_data=list(args), verbose=0)
    rows: dict[str, float] = {}
    above: list[str] = []
    for layer in found.summary_list:
        above[layer.depth :] = [layer.var_name]
        path = ".".join(above[1:])
        parts = [layer] if layer.is_leaf_layer else [c for c in layer.children if c.is_leaf_layer]
        rows[path] = rows.get(path, 0) + sum(part.macs for part in parts)
    return Found(found.total_mult_adds, rows)


def products(model: nn.Module, flops: float, macs: float) -> Found:
    """MACs; of recurrent layers calflops and DeepSpeed give FLOPs alone, with gates and biases."""
    kinds = (nn.RNNBase, nn.RNNCellBase)
    recurrent = any(isinstance(part, kinds) for part in model.modules())
    return Found(flops / 2, mixed=True) if recurrent else Found(macs)


def calflops(*, backward: bool) -> Measure:
    """It prints its rows."""

    def measure(model: nn.Module, args: tuple[Any, ...]) -> Found:
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


def deepspeed(model: nn.Module, args: tuple[Any, ...]) -> Found:
    """It patches functions of torch while the model runs."""
    from deepspeed.profiling.flops_profiler import FlopsProfiler
    from deepspeed.profiling.flops_profiler.profiler import get_module_flops, get_module_macs

    profiler = FlopsProfiler(model)
    profiler.start_profile()
    model(*args)
    found = {
        path: products(module, get_module_flops(module), get_module_macs(module))
        for path, module in model.named_modules()
    }
    profiler.end_profile()
    return found[""]._replace(rows={path: row.macs for path, row in found.items()})


def deepspeed_step(model: nn.Module, args: tuple[Any, ...]) -> Found:
    """Its profile takes forward and backward for three times forward."""
    forward = deepspeed(model, args)
    return forward._replace(macs=3 * forward.macs)
