"""What a traced program costs: its nodes say which ops run, and on which shapes."""

import operator
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from flopcount.errors import UncountedOpWarning
from flopcount.graph.sizes import Sizes
from flopcount.graph.walk import Walk
from flopcount.report.report import Report
from flopcount.torch_private.modes import without_modes
from flopcount.torch_private.ops import HigherOrderOperator, OpOverload


def count_graph(
    *graphs: ExportedProgram | fx.GraphModule, sizes: Mapping[str, int] | None = None
) -> Report:
    """Report what traced programs cost, from the shapes that their nodes were traced with.

    >>> import torch, flopcount
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 2), torch.nn.ReLU())
    >>> batch = {0: torch.export.Dim("batch")}
    >>> program = torch.export.export(model, (torch.ones(4, 8),), dynamic_shapes=(batch,))
    >>> report = flopcount.count_graph(program, sizes={"batch": 32})
    >>> report.total.macs, report["0"].params
    (512, 18)

    Nothing runs, and the graphs stay as they are. An op belongs to the module that it was traced
    in. ``backward`` is what was traced after the forward, and what a compiled forward computes for
    a gradient that it asks for itself. Forward ops in a graph of backward are ``recompute``. If
    the nodes do not tell forward from backward, backward starts where autograd does: after the
    gradient of a scalar loss with respect to itself.

    Args:
        graphs: programs of ``torch.export``, or ``torch.fx.GraphModule`` of ``make_fx`` or AOT
            autograd: a joint graph, or the forward and the backward that a partitioner makes of
            it. Their costs add up.
        sizes: a number for each symbolic size that the cost depends on, by the name of its symbol
            (``"s77"``) or of its ``torch.export.Dim``. An op whose sizes depend on values
            (``nonzero``) is uncounted unless its symbols (``"u0"``) have sizes too.

    Raises:
        TypeError: an argument is not a graph; ``sizes`` is not a mapping to whole numbers.
        ValueError: a symbol needs a size, or was not traced for the one that it has; a graph
            calls functions that are not ops, as the graphs do that ``torch.compile`` hands to a
            backend; a node does not say what shape its result has.

    Warns:
        UncountedOpWarning: once for each op whose cost is not known, with the reason.
    """
    if not graphs:
        raise TypeError("expected a graph to count, as count_graph(torch.export.export(…))")
    modules = [_module_of(graph) for graph in graphs]
    symbol_sizes = Sizes(modules, sizes)
    walk = Walk(symbol_sizes)
    with without_modes(), torch.inference_mode(False), torch.enable_grad():
        for graph, module in zip(graphs, modules, strict=True):
            walk.count(module, _parameters(graph))
    symbol_sizes.require(walk.needed)
    for op, reason in walk.uncounted.items():
        warnings.warn(f"{op} is uncounted: {reason}", UncountedOpWarning, stacklevel=2)
    return walk.ledger.report(walk.modules.tree)


def _module_of(graph: Any) -> fx.GraphModule:
    """The module that holds the graph, if it is one of ops."""
    if not isinstance(graph, (ExportedProgram, fx.GraphModule)):
        raise TypeError(
            "expected a torch.export.ExportedProgram or a torch.fx.GraphModule, such as "
            f"torch.export.export(model, args), got {type(graph).__name__}"
        )
    module = graph.graph_module if isinstance(graph, ExportedProgram) else graph
    for inner in module.modules():  # higher-order ops call others
        if isinstance(inner, fx.GraphModule):
            for node in inner.graph.nodes:
                _require_op(node)
    return module


def _parameters(graph: ExportedProgram | fx.GraphModule) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters by their names; one that is shared has several."""
    if isinstance(graph, fx.GraphModule):
        return graph.named_parameters(remove_duplicate=False)
    state = graph.state_dict.items()
    return ((name, value) for name, value in state if isinstance(value, nn.Parameter))


def _require_op(node: fx.Node) -> None:
    """Check that an op makes the result of ``node``; a Python function may make a number."""
    is_op = isinstance(node.target, (OpOverload, HigherOrderOperator))
    if is_op or not node.op.startswith("call_") or not node.users:
        return
    makes_number = "val" in node.meta and not isinstance(node.meta["val"], Tensor)
    if node.op != "call_function" or not (makes_number or node.target is operator.getitem):
        raise ValueError(
            f"node {node.name!r} calls {node.target!r}, which is no op of torch.ops. A graph that "
            "torch.compile hands to a backend calls Python functions: count what "
            "torch._dynamo.backends.common.aot_autograd(fw_compiler=…, bw_compiler=…) makes of "
            "it; open an exported program with run_decompositions(); trace others with make_fx"
        )
