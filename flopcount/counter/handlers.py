"""The hot path: how a counter runs an op, and tallies it.

An op's handler is made at its first call, by what its plan decides: a view passes, a composite op
is opened, and any other op is counted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from typing import Any

from torch import Tensor, fx, is_grad_enabled
from torch.library import Library, register_torch_dispatch

from flopcount.attribution.backward import Backward
from flopcount.attribution.gradients import FINDERS
from flopcount.attribution.graph_lines import SEEN as GRAPH_LINES
from flopcount.attribution.phase import BACKWARD
from flopcount.counter.origins import is_allocation
from flopcount.counter.signature import signer
from flopcount.counter.tally import ThreadTally
from flopcount.formulas import (
    CONTROL_FLOW,
    Decision,
    Formula,
    Plan,
    plan_of,
    registry,
    with_functions,
)
from flopcount.torch_private.autograd import backward_task, running_node
from flopcount.torch_private.compiler import FORWARD_TAG, has_symbolic_sizes, never_compile
from flopcount.torch_private.frames import called_by_functional, sharding_is_planned
from flopcount.torch_private.modes import (
    TorchDispatchMode,
    has_data,
    is_traceable_wrapper_subclass_type,
    may_open_itself,
    modes,
    num_modes,
    pop_mode,
    push_mode,
    resolving_views,
)
from flopcount.torch_private.ops import (
    bound_call,
    composite_kernel,
    has_nested_kernel,
    hides_grad_mode,
)
from flopcount.torch_private.tensors import tensors_in

Args = tuple[Any, ...]
Kwargs = dict[str, Any]

ORDINARY = object()
"""The answer of :func:`_answer_for_subclass` for an op that needs no special treatment."""


class CountingMode(TorchDispatchMode):
    """A dispatch mode that runs each op by its handler."""

    supports_higher_order_operators = True

    def __init__(self, handlers: Handlers, local: ThreadTally) -> None:
        super().__init__()
        self._handlers = handlers
        self._local = local

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True would wrap __torch_dispatch__, which costs time at every call

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Args = (), kwargs: Kwargs | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if opens_itself(types, (args, *kwargs.values())):
            return NotImplemented  # its inner ops count; it may be unknown to the dispatcher
        # most ops come here once: from then on torch calls the handler by itself
        return self._handlers.find(func)(self, func, types, args, kwargs)

    never_compile(__torch_dispatch__)


Handler = Callable[[CountingMode, Any, Any, Args, Kwargs], Any]
"""Runs an op and counts it: ``(mode, op, types, args, kwargs)`` to the op's result."""


def _passing(plan: Plan) -> Handler:
    """The handler of a view, which is not counted."""
    call, version = bound_call(plan.func), plan.version

    def handle(mode: CountingMode, func: Any, types: Any, args: Args, kwargs: Kwargs) -> Any:
        if version.is_outdated:  # a formula was registered meanwhile
            return mode._handlers.find(func)(mode, func, types, args, kwargs)
        if types and types[0] is not Tensor:  # it is where autograd itself detaches a gradient
            answer = _answer_for_subclass(mode, func, types, args, kwargs, None)
            if answer is not ORDINARY:
                return answer
        if is_grad_enabled() and (node := running_node()) is not None:
            mode._local.tally.backward.place(node, args)  # logs the node that the view may make
        elif GRAPH_LINES:
            mode._local.tally.log_line()
        return call(*args, **kwargs) if kwargs else call(*args)

    return handle


def _opening(plan: Plan) -> Handler:
    """The handler of an op that is made of others, which are counted."""
    is_control_flow, version = plan.name in CONTROL_FLOW, plan.version
    # for nested tensors some ops have kernels of their own; opened, they would run another one
    count_whole = _counting(plan) if has_nested_kernel(plan.func) else None

    def handle(mode: CountingMode, func: Any, types: Any, args: Args, kwargs: Kwargs) -> Any:
        if version.is_outdated:  # a formula was registered meanwhile
            return mode._handlers.find(func)(mode, func, types, args, kwargs)
        answer = _answer_for_subclass(mode, func, types, args, kwargs, plan)
        if answer is not ORDINARY:
            return answer
        if count_whole and any(tensor.is_nested for tensor in tensors_in(args)):
            return count_whole(mode, func, types, args, kwargs)
        if is_control_flow:
            backward = mode._local.tally.backward
            called = (_seen_by(mode, a, backward) if callable(a) else a for a in args)
            out = plan.func(*called, **kwargs)
            mode._local.tally.show(plan, args, kwargs, out)
            return out
        tally = mode._local.tally
        tally.num_opened += 1
        try:
            return _seen_by(mode, composite_kernel(plan.func))(*args, **kwargs)
        finally:
            tally.num_opened -= 1

    return handle


def _seen_by(
    mode: CountingMode, function: Callable[..., Any], backward: Backward | None = None
) -> Callable[..., Any]:
    """``function``, whose ops ``mode`` sees even inside one of its own handlers."""
    if backward and isinstance(function, fx.GraphModule) and backward_task() != -1:
        function = GradientGraph(function, backward).run

    def run(*args: Any, **kwargs: Any) -> Any:
        push_mode(mode)
        try:
            with resolving_views():
                return function(*args, **kwargs)
        finally:
            # garbage collection may have closed the counter meanwhile
            if num_modes() and (top := pop_mode()) is not mode:
                push_mode(top)

    return run


class GradientGraph(fx.Interpreter):
    """Runs the graph that torch makes of a function's gradient: forward, and then backward."""

    def __init__(self, graph: fx.GraphModule, backward: Backward) -> None:
        super().__init__(graph)
        self.backward = backward

    def run_node(self, n: fx.Node) -> Any:
        """Run one node; the forward part is recomputation, since ``cond`` has run it before."""
        is_forward = n.meta.get("partitioner_tag") == FORWARD_TAG
        with self.backward.recomputing() if is_forward else nullcontext():
            return super().run_node(n)


def _counting(plan: Plan) -> Handler:
    """The handler of an op that has a cost, or should have one."""
    call = _beside_functions(plan.func) if plan.runs_functions else bound_call(plan.func)
    version = plan.version
    sign, find_gradient = signer(plan), FINDERS.get(plan.name)
    hides_mode = hides_grad_mode(plan.func)

    def handle(mode: CountingMode, func: Any, types: Any, args: Args, kwargs: Kwargs) -> Any:
        if version.is_outdated:  # a formula was registered meanwhile
            return mode._handlers.find(func)(mode, func, types, args, kwargs)
        if types and types[0] is not Tensor:
            answer = _answer_for_subclass(mode, func, types, args, kwargs, plan)
            if answer is not ORDINARY:
                return answer
        tally = mode._local.tally
        thread, node = tally.thread, running_node()
        if node is None:
            place = thread.place
        else:
            place = tally.backward.place(node, args)
            if (
                find_gradient is not None
                and place.phase == BACKWARD
                and (gradient := find_gradient(tally.gradients, node))
            ):
                place = place.computing(gradient)
        if place.is_vague and (
            thread.asks_frames or place.lines or not is_grad_enabled()
        ):  # else it is forward, unless it turns out to be a new call, of a step
            place = tally.refined(place, args, hides_mode=hides_mode)
        out = call(*args, **kwargs) if kwargs else call(*args)
        key = sign(place, plan, args, kwargs, out)
        try:
            tally.calls[key][0] += 1
        except KeyError:  # a new call, or one that has no key (None)
            tally.count_new(key, place, plan, args, kwargs, out)
        except TypeError:  # a symbolic number has no hash
            tally.count_symbolic(place, plan, args, kwargs)
        return out

    return handle


def _allocating(plan: Plan) -> Handler:
    """The handler of an op that allocates memory, for something to write."""
    count = _counting(plan)

    def handle(mode: CountingMode, func: Any, types: Any, args: Args, kwargs: Kwargs) -> Any:
        out = count(mode, func, types, args, kwargs)
        tally = mode._local.tally
        # what torch allocates, its own kernels write to
        if not (called_by_functional() or tally.num_opened):
            tally.unwritten.expect(out)
        return out

    return handle


def _running_functions(plan: Plan) -> Handler:
    """The handler of an op that has a cost, to which those of the functions it is given add."""
    count = _counting(plan)

    def handle(mode: CountingMode, func: Any, types: Any, args: Args, kwargs: Kwargs) -> Any:
        return count(mode, func, types, with_functions(args, partial(_seen_by, mode)), kwargs)

    return handle


def _beside_functions(op: Any) -> Callable[..., Any]:
    """How to call an op that runs functions, on tensors without data, too.

    The ops of its kernel are what its formula counts. A counter around this one gets the op whole.
    """
    kernel = composite_kernel(op)

    def call(*args: Any, **kwargs: Any) -> Any:
        is_counted_again = isinstance(next(reversed(modes()), None), CountingMode)
        return (op if is_counted_again else kernel)(*args, **kwargs)

    return call


HANDLER_OF = {Decision.VIEW: _passing, Decision.COMPOSITE: _opening}
"""What makes the handler of an op that is not counted itself."""


def _maker(plan: Plan) -> Callable[[Plan], Handler]:
    """What makes the handler of an op that is decided so."""
    if is_allocation(plan):
        return _allocating
    if plan.runs_functions:
        return _running_functions
    return HANDLER_OF.get(plan.decision, _counting)


def _answer_for_subclass(
    mode: CountingMode, func: Any, types: Any, args: Any, kwargs: Any, plan: Plan | None
) -> Any:
    """The result of an op where tensors of these ``types`` change it; ORDINARY where none does."""
    if opens_itself(types, (args, *kwargs.values())):
        return NotImplemented  # a wrapper such as DTensor opens itself; its inner ops count
    if sharding_is_planned():
        return func(*args, **kwargs)  # on shapes alone: not work
    if has_symbolic_sizes(args):  # no formula may ask for their values
        out = func(*args, **kwargs)
        if plan is not None:  # else it is a view
            tally = mode._local.tally
            tally.count_symbolic(tally.place(None, args), plan, args, kwargs)
        return out
    return ORDINARY


def opens_itself(types: Iterable[type], arguments: Any) -> bool:
    """Whether a tensor of one of these ``types`` runs ops on the tensors that it wraps."""
    if any(map(is_traceable_wrapper_subclass_type, types)):
        return True
    own = {cls for cls in types if may_open_itself(cls)}
    return bool(own) and any(
        type(tensor) in own and not has_data(tensor) for tensor in tensors_in(arguments)
    )


class Handlers:
    """The handlers of all ops that came by, each made on first use.

    torch looks up what a mode of class ``mode_class`` does with an op, in C++, before it would call
    ``__torch_dispatch__``; the handlers are registered there. An op of another namespace than aten
    may be defined anew under its name, so :meth:`find` looks it up at each call.
    """

    def __init__(self, formulas: dict[str, Formula], mode_class: type | None = None) -> None:
        self._formulas = formulas
        self._mode_class = mode_class
        self._known: dict[int, tuple[Any, Handler]] = {}  # the op itself, to keep its id() taken
        self._library: Library | None = None  # when it goes, torch forgets what is registered
        self._version = registry.version
        self._lock = threading.Lock()

    def find(self, func: Any) -> Handler:
        """The handler of an op; all are forgotten when a formula was registered."""
        if self._version.is_outdated:
            with self._lock:
                self._version = registry.version
                self._known.clear()
                self._library = None
        known = self._known.get(id(func))
        return known[1] if known else self._make(func)

    def renew_lock(self) -> None:
        """Forget who holds the lock, in a forked process where that thread is not."""
        self._lock = threading.Lock()

    def _make(self, func: Any) -> Handler:
        decided = Plan(func, self._formulas) if self._formulas else plan_of(func)
        handler = _maker(decided)(decided)
        never_compile(handler)
        with self._lock:
            if id(func) not in self._known:
                self._known[id(func)] = func, handler
                if self._mode_class is not None and func.namespace == "aten":
                    self._library = self._library or Library("aten", "FRAGMENT")
                    register_torch_dispatch(func, self._mode_class, handler, lib=self._library)
        return handler
