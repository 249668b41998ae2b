"""The walk through a graph, node by node, that bills what its ops cost."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import fx, nn

from flopcount.attribution.call_stacks import CallStack, call_stack
from flopcount.attribution.phase import FORWARD
from flopcount.attribution.tree import Scope
from flopcount.formulas import Bill
from flopcount.graph.bills import call_of_op
from flopcount.graph.higher_order import Body, body_of, call_of_higher_order, random_call
from flopcount.graph.modules import TracedModules
from flopcount.graph.phases import inner_phases, phases
from flopcount.graph.sizes import Sizes, Unsized
from flopcount.graph.values import Values
from flopcount.report.ledger import Ledger
from flopcount.torch_private.modes import FakeTensorMode
from flopcount.torch_private.ops import HigherOrderOperator, OpOverload


@dataclass(frozen=True)
class Run:
    """One run of a graph, or ``times`` runs that cost the same.

    Every node is part of ``open_calls`` of modules; one that remembers no call at all is in the
    scope ``outside``. ``seen_calls`` are counted already. Autocast is on if ``casts``.
    """

    values: Values
    phases: dict[fx.Node, str]
    outside: Scope
    open_calls: CallStack
    seen_calls: set[tuple[str, str]] = field(default_factory=set)
    times: int = 1
    casts: bool = False


class Walk:
    """Bills the nodes of graphs, and posts the bills to a ledger.

    Attributes:
        uncounted: why ops are uncounted, by their names.
        needed: the symbols without a size that the cost of an op depends on.
    """

    def __init__(self, sizes: Sizes) -> None:
        self.ledger = Ledger()
        self.modules = TracedModules()
        self.uncounted: dict[str, str] = {}
        self.needed: set[str] = set()
        self._sizes = sizes
        self._fakes = FakeTensorMode()

    def count(self, module: fx.GraphModule, parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        """Count a graph, and the parameters of its modules."""
        open_calls = self.modules.begin(module.graph)
        values = Values(module, self._sizes, self._fakes)
        self._run(Run(values, phases(module.graph), self.modules.tree.root, open_calls))
        self.modules.measure(parameters)

    def _run(self, run: Run) -> None:
        for node in run.values.module.graph.nodes:
            if node not in run.values:  # inputs of a body have the values of the call
                run.values.add(node)
            if isinstance(node.target, OpOverload):
                self._post(node, run, self._bills(node, run))
            elif isinstance(node.target, HigherOrderOperator):
                if body := body_of(node, run.values):
                    self._run_body(body, node, run)
                self._post(node, run, [] if body else self._bills(node, run))

    def _run_body(self, body: Body, node: fx.Node, run: Run) -> None:
        """Count the graph that ``node`` runs."""
        inner = Run(
            Values(body.module, self._sizes, self._fakes, body.inputs),
            inner_phases(body.module.graph, run.phases[node]),
            self.modules.scope({**run.open_calls, **call_stack(node)}, run.outside),
            run.open_calls,
            run.seen_calls if body.is_region else set(run.seen_calls),
            body.times * run.times,
            run.casts if body.casts is None else body.casts,
        )
        with body.context():
            self._run(inner)

    def _bills(self, node: fx.Node, run: Run) -> list[Bill]:
        is_op = isinstance(node.target, OpOverload)
        call = call_of_op(node, run.casts) if is_op else call_of_higher_order(node)
        if call is None:
            return []
        arguments = run.values.resolve((call.args, call.kwargs, call.out))
        if isinstance(arguments, Unsized):
            self.needed |= arguments.symbols
            return call.uncounted(self._sizes.reason(arguments))
        return call.bills(arguments, self._fakes, run.casts)

    def _post(self, node: fx.Node, run: Run, bills: Iterable[Bill]) -> None:
        phase, traced = run.phases[node], node
        if random_call(node):  # it remembers no call, and belongs to what uses its result
            traced = next(filter(call_stack, node.users), node)
        stack = {**run.open_calls, **call_stack(traced)}
        if phase == FORWARD:
            self.modules.call(stack, run.seen_calls, run.times)
        place = self.modules.scope(stack, run.outside).places[phase]
        for bill in bills:
            if not bill.counted:
                self.uncounted.setdefault(bill.op, bill.unknown)
            self.ledger.post(place, bill, run.times)
