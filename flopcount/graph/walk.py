"""What a traced program costs: its nodes say which ops run, and on what shapes."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from flopcount.attribution.phase import FORWARD
from flopcount.attribution.tree import Scope
from flopcount.cost import ZERO
from flopcount.errors import UncountedOpWarning
from flopcount.formulas import Bill, Decision, Plan, plan_of
from flopcount.graph.modules import Stack, TracedModules, stack_of
from flopcount.graph.phases import inner_phases, phases
from flopcount.graph.sizes import Sizes, Unsized
from flopcount.report import snapshot
from flopcount.report.ledger import Ledger
from flopcount.report.report import Report
from flopcount.torch_private.modes import (
    FakeTensorMode,
    TorchDispatchMode,
    no_autocast,
    without_modes,
)
from flopcount.torch_private.ops import (
    HigherOrderOperator,
    OpOverload,
    composite_kernel,
    has_kernel,
    schema_of,
)

__all__ = ["count_graph"]


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

    Nothing runs, and the graphs stay as they are. Modules are those that the nodes were traced
    in. What was traced after the forward is ``backward``, as is what a compiled forward does for
    a gradient that it asks for itself; forward ops in a graph of backward are ``recompute``. In a
    graph that tells neither, backward is what comes after the gradient of a scalar loss by
    itself, where autograd starts.

    Args:
        graphs: a program of ``torch.export``, or the ``torch.fx.GraphModule`` of ``make_fx`` or
            AOT autograd: a joint graph, or a partitioned forward and backward, which add up.
        sizes: a number for each symbolic size, by the name of its symbol (``"s77"``) or of its
            ``torch.export.Dim``, if an op that is counted needs it. Ops whose sizes depend on
            values (``nonzero``) are uncounted unless their symbols (``"u0"``) are given, too.

    Raises:
        TypeError: a graph is neither; ``sizes`` are no mapping to whole numbers.
        ValueError: a symbol that is needed has no size, or one that it was not traced for; a
            graph calls functions that are no ops, as those do that ``torch.compile`` hands to a
            backend; or its nodes do not tell what they return.

    Warns:
        UncountedOpWarning: once for each op whose cost is not known, with the reason.
    """
    if not graphs:
        raise TypeError("expected a graph to count, as count_graph(torch.export.export(…))")
    programs = [_program(graph) for graph in graphs]
    numbers = Sizes([program.module for program in programs], sizes)
    walk = Walk(numbers)
    with without_modes(), torch.inference_mode(False), torch.enable_grad():
        for program in programs:
            walk.program(program)
    numbers.require_given(walk.needed)
    for op, reason in walk.unknown.items():
        warnings.warn(f"{op} is uncounted: {reason}", UncountedOpWarning, stacklevel=2)
    return snapshot.take(walk.ledger, walk.modules.tree)


class Program(NamedTuple):
    """A graph, and the parameters that are known by name."""

    module: fx.GraphModule
    parameters: list[tuple[str, nn.Parameter]]


def _program(graph: Any) -> Program:
    if isinstance(graph, ExportedProgram):
        known = graph.state_dict.items()
        parameters = [(name, p) for name, p in known if isinstance(p, nn.Parameter)]
        program = Program(graph.graph_module, parameters)
    elif isinstance(graph, fx.GraphModule):
        named = graph.named_parameters(remove_duplicate=False)
        program = Program(graph, list(named))
    else:
        raise TypeError(
            "expected a torch.export.ExportedProgram or a torch.fx.GraphModule, such as "
            f"torch.export.export(model, args), got {type(graph).__name__}"
        )
    for node in _calls(program.module):
        _require_op(node)
    return program


def _calls(module: fx.GraphModule) -> Iterator[fx.Node]:
    """The calls of a graph, and of those that its higher-order ops call."""
    for inner in module.modules():
        if isinstance(inner, fx.GraphModule):
            yield from (node for node in inner.graph.nodes if node.op.startswith("call_"))


def _require_op(node: fx.Node) -> None:
    """Python functions make numbers of numbers, or nothing; tensors are made by ops."""
    if isinstance(node.target, (OpOverload, HigherOrderOperator)) or not node.users:
        return
    makes_number = "val" in node.meta and not isinstance(node.meta["val"], Tensor)
    if node.op != "call_function" or not (makes_number or node.target is operator.getitem):
        raise ValueError(
            f"node {node.name!r} calls {node.target!r}, which is no op of torch.ops. A graph that "
            "torch.compile hands to a backend calls Python functions: count what "
            "torch._dynamo.backends.common.aot_autograd(fw_compiler=…, bw_compiler=…) makes of "
            "it; open an exported program with run_decompositions(); trace others with make_fx"
        )


# -- what is made of other ops


class Opened(TorchDispatchMode):
    """Bills the ops that run; of a composite op those that it is made of.

    Args:
        only: the op to bill, if others do not count.
    """

    def __init__(self, only: Any = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's has no annotations
        self.only = only
        self.bills: list[Bill] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        decided = plan_of(func)
        if decided.decision is Decision.COMPOSITE:
            with self:
                return composite_kernel(func)(*args, **kwargs)
        out = func(*args, **kwargs)
        if decided.decision is not Decision.VIEW and self.only in (None, func):
            self.bills.append(decided.bill(args, kwargs, out))
        return out


ONCE: dict[str, Callable[..., AbstractContextManager[Any]]] = {
    "invoke_subgraph": nullcontext,
    "tag_activation_checkpoint": nullcontext,
    "wrap": nullcontext,
    "wrap_activation_checkpoint": nullcontext,
    "wrap_with_autocast": torch.autocast,
    "wrap_with_set_grad_enabled": torch.set_grad_enabled,
}
"""Higher-order ops that run their graph once, within what their arguments before it tell."""

LOOPS = {"map_impl": 1, "scan": 2}
"""Higher-order ops that run their graph for each slice of the tensors in this argument."""

RUN = frozenset(("associative_scan", "flex_attention", "flex_attention_backward"))
"""Higher-order ops that are ordinary ops, once they run."""

INSTEAD = frozenset(("auto_functionalized", "auto_functionalized_v2"))
"""Higher-order ops that stand for their first argument, an op that changes its arguments."""

SAVED = "run_and_save_rng_state"
"""A higher-order op that gives a random state, and then what its op gives."""

RANDOM = {
    "graphsafe_run_with_rng_state": 0,
    SAVED: 0,
    "run_dtensor_rng_op": 2,
    "run_with_rng_state": 1,
}
"""Higher-order ops that keep a random state for the op in this argument."""

VALUES = {
    "cond": "which of its graphs runs depends on values",
    "while_loop": "how often it runs depends on values",
}
"""Why shapes do not tell the cost of a higher-order op."""


# -- from the first node to the last


@dataclass(frozen=True)
class Run:
    """One run of a graph, or so many.

    Attributes:
        module: the graph.
        phases: of its nodes.
        outside: the scope of nodes that remember no module.
        open: the calls that are open everywhere.
        seen: the calls of modules that are on record.
        times: how often the graph runs.
        casts: autocast is on.
        values: what its nodes give, tensors without data; an exception where that is unknown.
    """

    module: fx.GraphModule
    phases: dict[fx.Node, str]
    outside: Scope
    open: Stack = field(default_factory=dict)
    seen: set[tuple[str, str]] = field(default_factory=set)
    times: int = 1
    casts: bool = False
    values: dict[fx.Node, Any] = field(default_factory=dict)

    def known(self, argument: Any) -> Any:
        """A node's argument, with values for the nodes in it.

        Raises:
            Unsized: some of them are unknown.
        """
        unsized: set[str] = set()

        def value(node: fx.Node) -> Any:
            if node not in self.values:
                raise ValueError(
                    f"node {node.name!r} has no meta['val'], which tells the shape of what it "
                    "gives: trace the program with make_fx, torch.export or AOT autograd"
                )
            found = self.values[node]
            if isinstance(found, Unsized):
                unsized.update(found.symbols)
            return found

        known = fx.node.map_arg(argument, value)
        if unsized:
            raise Unsized(unsized)
        return known

    def call(self, node: fx.Node) -> Any:
        """Arguments of ``node``, and what it gives; nobody asks for the shape of nothing."""
        gives = node if node.users or node in self.values else None
        return self.known((node.args, node.kwargs, gives))


class Walk:
    """Bills the nodes of graphs, and posts the bills.

    Attributes:
        ledger: what was posted.
        modules: the modules of the program.
        unknown: why ops are uncounted, by their names.
        needed: symbols without a number that ops needed.
    """

    def __init__(self, sizes: Sizes) -> None:
        self.ledger = Ledger()
        self.modules = TracedModules()
        self.unknown: dict[str, str] = {}
        self.needed: set[str] = set()
        self._sizes = sizes
        self._fakes = FakeTensorMode()

    def program(self, program: Program) -> None:
        """Count a graph."""
        graph = program.module.graph
        opened = self.modules.begin(graph)
        self._run(Run(program.module, phases(graph), self.modules.block, opened))
        self.modules.measure(program.parameters)

    def _run(self, run: Run) -> None:
        for node in run.module.graph.nodes:
            if node.op == "output" or node in run.values:
                continue
            try:
                self._sizes.require(node.meta.get("val"))
                if node.op == "get_attr" or "val" in node.meta:
                    run.values[node] = self._value(node, run)
            except Unsized as unknown:
                run.values[node] = unknown
            if isinstance(node.target, OpOverload):
                self._op(node, run)
            elif isinstance(node.target, HigherOrderOperator):
                self._higher_order(node, run)

    # -- what a node gives

    def _value(self, node: fx.Node, run: Run) -> Any:
        if node.op == "get_attr":
            held = operator.attrgetter(str(node.target))(run.module)
            return self._fake(node.meta.get("val", held), getattr(held, "requires_grad", False))
        made = node.meta["val"]
        if node.op == "placeholder":
            return self._fake(made, getattr(made, "requires_grad", False))
        if node.target is operator.getitem:
            arguments: Any = node.args
            source = run.values.get(arguments[0])
            return source[arguments[1]] if isinstance(source, (list, tuple)) else self._fake(made)
        if isinstance(node.target, OpOverload) and (written := plan_of(node.target).written):
            returns = schema_of(node.target).returns
            if returns and all(r.alias_info is not None for r in returns):
                changed = [
                    run.known(node.args[index] if index < len(node.args) else node.kwargs[name])
                    for index, name in written
                ]
                return changed[0] if len(returns) == 1 else changed
        inputs = (run.values.get(source) for source in node.all_input_nodes)
        needs_gradient = any(isinstance(x, Tensor) and x.requires_grad for x in inputs)
        return self._fake(made, needs_gradient and torch.is_grad_enabled())

    def _fake(self, value: Any, requires_grad: bool = False) -> Any:
        """``value`` with numbers for symbols; of a tensor that is all there is."""
        if isinstance(value, (list, tuple)):
            return [self._fake(item, requires_grad) for item in value]
        if not isinstance(value, Tensor):
            return self._sizes.number(value)
        if value.layout != torch.strided or value.is_nested:
            return value
        shape = [self._sizes.number(size) for size in value.shape]
        strides = [self._sizes.number(stride) for stride in value.stride()]
        with self._fakes:
            return torch.empty_strided(
                shape,
                strides,
                dtype=value.dtype,
                device=value.device,
                requires_grad=requires_grad and (value.is_floating_point() or value.is_complex()),
            )

    # -- what a node costs

    def _op(self, node: fx.Node, run: Run) -> None:
        op: Any = node.target
        decided = plan_of(op)
        is_composite = has_kernel(op, "CompositeImplicitAutograd")
        is_view = decided.decision is Decision.VIEW
        if is_view or _is_assertion(op) or decided.name.startswith("aten.sym_"):
            bills = []
        else:
            try:
                args, kwargs, out = run.call(node)
                if is_composite or run.casts:
                    bills = self._opened(decided, op, args, kwargs, casts=run.casts)
                else:
                    bills = [decided.bill(args, kwargs, out)]
            except Unsized as unknown:
                bills = [self._unsized(decided, unknown)]
        self._post(node, run, bills, stack_of(node))

    def _unsized(self, decided: Plan, unknown: Unsized) -> Bill:
        self.needed.update(unknown.symbols)
        return _unknown(decided, self._sizes.reason(unknown))

    def _opened(
        self,
        decided: Plan,
        function: Callable[..., Any],
        args: Any,
        kwargs: Any,
        *,
        casts: bool = False,
        only: Any = None,
    ) -> list[Bill]:
        """The bills of the ops that ``function`` calls."""
        opened = Opened(only)
        try:
            with nullcontext() if casts else no_autocast(), self._fakes, opened:
                function(*args, **kwargs)
        except Exception as error:  # what depends on values, say
            reason = f"it is made of other ops, and fails without data: {error}"
            return [_unknown(decided, reason)]
        return opened.bills

    def _higher_order(self, node: fx.Node, run: Run) -> None:
        op: Any = node.target
        args: Any = node.args
        decided, kwargs = plan_of(op), node.kwargs
        name = decided.name
        bills: list[Bill] = []
        inside = node
        try:
            if name in ONCE:
                self._once(node, run, ONCE[name])
            elif name in LOOPS:
                body, length = run.known(args[0]), len(run.known(args[LOOPS[name]])[0])
                self._run(self._inner(node, run, body, length))
            elif name in INSTEAD | RUN:
                only = args[0] if name in INSTEAD else None
                function = composite_kernel(op)
                bills = self._opened(
                    plan_of(only or op), function, run.known(args), run.known(kwargs), only=only
                )
            elif name in RANDOM:
                decided = plan_of(args[RANDOM[name]])
                inside = next((user for user in node.users if stack_of(user)), node)
                bills = [self._random(node, run, decided, RANDOM[name])]
            else:
                bill = decided.bill(*run.call(node))
                bills = [replace(bill, unknown=VALUES.get(name, bill.unknown))]
        except Unsized as unknown:
            run.values.setdefault(node, unknown)
            bills = [self._unsized(decided, unknown)]
        self._post(node, run, bills, stack_of(inside))

    def _random(self, node: fx.Node, run: Run, decided: Plan, place: int) -> Bill:
        """The bill of the op at this place; partitioners do not note what it gives."""
        kwargs = {name: value for name, value in node.kwargs.items() if name != "rng_state"}
        args, kwargs = run.known((node.args[place + 1 :], kwargs))
        with self._fakes:
            out = decided.func(*args, **kwargs)
        run.values[node] = (None, out) if plan_of(node.target).name == SAVED else out
        return decided.bill(args, kwargs, out)

    def _once(
        self, node: fx.Node, run: Run, surroundings: Callable[..., AbstractContextManager[Any]]
    ) -> None:
        """Count the graph that ``node`` runs, on its last arguments."""
        given: list[Any] = [run.values[a] if isinstance(a, fx.Node) else a for a in node.args]
        place = next(i for i, arg in enumerate(given) if isinstance(arg, fx.GraphModule))
        inner = self._inner(node, run, given[place])
        placeholders = inner.module.graph.find_nodes(op="placeholder")
        inner.values.update(zip(placeholders, given[len(given) - len(placeholders) :], strict=True))
        if surroundings is torch.autocast:
            inner = replace(inner, casts=given[2])  # device, dtype, enabled, cache_enabled
        if surroundings is not nullcontext:
            inner = replace(inner, seen=run.seen)  # it is part of a module's call
        with surroundings(*given[:place]):
            self._run(inner)

    def _inner(self, node: fx.Node, run: Run, body: fx.GraphModule, times: int = 1) -> Run:
        """The run of a graph that ``node`` starts so many times."""
        return Run(
            body,
            inner_phases(body.graph, run.phases[node]),
            self.modules.scope({**run.open, **stack_of(node)}, run.outside),
            run.open,
            set(run.seen),
            times * run.times,
            run.casts,
        )

    def _post(self, node: fx.Node, run: Run, bills: Iterable[Bill], calls: Stack) -> None:
        phase, stack = run.phases[node], {**run.open, **calls}
        if phase == FORWARD:
            self.modules.call(stack, run.seen, run.times)
        place = self.modules.scope(stack, run.outside).places[phase]
        for bill in bills:
            if not bill.counted:
                self.unknown.setdefault(bill.op, bill.unknown)
            self.ledger.post(place, bill, run.times)


def _is_assertion(op: OpOverload) -> bool:
    """Whether ``op`` gives nothing and changes nothing: tracers add such checks."""
    return op.namespace == "aten" and not schema_of(op).returns and not plan_of(op).written


def _unknown(decided: Plan, reason: str) -> Bill:
    return replace(decided.symbolic_bill(), cost=ZERO, unknown=reason)
