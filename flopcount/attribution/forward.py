"""Which module, and which phase, does the op that is running belong to?

Global forward hooks keep a stack of scopes for each thread. Whenever its top changes they write
down the number that autograd will give to the next node it creates: nodes numbered from a to b
were made in this scope. In backward the number of the running node leads back to its scope. No
tensor is touched, so that any program runs as it would alone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from torch import is_grad_enabled, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from flopcount.attribution.node_stamps import NodeStamps
from flopcount.attribution.phase import BACKWARD, OPTIMIZER, RECOMPUTE
from flopcount.attribution.thread_state import ThreadState
from flopcount.attribution.tree import ModuleTree, Place, Scope, type_name
from flopcount.torch_private.autograd import (
    ANY_BACKWARD_HOOKS,
    ANY_BACKWARD_PRE_HOOKS,
    CHECKPOINT_NODE,
    NO_SEQUENCE_NR,
    BackwardPreHook,
    backward_task,
    hook_nodes,
    next_sequence_nr,
    of_checkpoint,
    running_node,
    saved_tensor_hooks,
)
from flopcount.torch_private.compiler import ignore_when_captured, is_graph_of_torchs_own
from flopcount.torch_private.frames import backward_calls, checkpoint_recomputes, open_calls
from flopcount.torch_private.modes import without_modes
from flopcount.torch_private.tensors import tensors_in

__all__ = ["Attribution"]

PASS_LIMIT = 64
"""Backward passes of other threads that are remembered for each thread: far more than alternate."""


class _Life:
    """Lives as long as the thread that made it."""


class _Local(threading.local):
    """Gives each thread a ThreadState of its own."""

    def __init__(self, attribution: Attribution) -> None:
        self.life = _Life()
        self.thread = ThreadState(attribution.tree.unattributed, self.life)
        attribution.add(self.thread)


class Attribution:
    """Tells the place of the op that runs at this instant.

    Args:
        model: names the root, and its submodules where nobody above them ran.
    """

    def __init__(self, model: nn.Module | None = None) -> None:
        self.tree = ModuleTree(model)
        self.threads: list[ThreadState] = []
        # the threads that had not entered, and what ran first in each
        self.unwatched: dict[str, str] = {}
        # not only the main thread makes nodes; as each numbers its own from 0, they stamp them
        self._is_shared = False
        self._has_strangers = False  # of threads that are forgotten
        self._stamps = NodeStamps()
        self._entries = 0
        self._lock = threading.RLock()
        self._hooks: list[Any] = []
        self.local = _Local(self)
        self.local.thread.is_stranger = False

    def add(self, thread: ThreadState) -> None:
        """Take notice of a thread, and forget those that have nothing to tell any more."""
        with self._lock:
            gone = [t for t in self.threads if t.is_forgettable()]
            self._has_strangers |= any(t.is_stranger for t in gone)
            self.threads = [t for t in self.threads if t not in gone] + [thread]
            self._is_shared |= thread.is_stranger and bool(self.threads[:-1])

    # -- watching

    def enter(self) -> None:
        """Watch this thread. Each call is undone by one of :meth:`exit`."""
        with self._lock:
            self._entries += 1
            if self._entries == 1:
                self._hooks = [
                    register_module_forward_pre_hook(self._enter_module),
                    register_module_forward_hook(self._exit_module, always_call=True),
                    register_optimizer_step_pre_hook(self._enter_step),
                    register_optimizer_step_post_hook(self._exit_step),
                    BackwardPreHook(self._call_backward),
                ]
        thread = self.local.thread
        thread.entries += 1
        if thread.entries == 1:
            self._is_shared |= threading.current_thread() is not threading.main_thread()
            thread.is_stranger = False
            thread.place = self.tree.root.forward
            thread.node_log.start(thread.place, next_sequence_nr())

    def exit(self) -> None:
        """Stop watching; what an exception left on the stack is forgotten."""
        thread = self.local.thread
        thread.entries -= 1
        if thread.entries == 0:
            thread.stack.clear()
            thread.place, thread.place_task = self.tree.unattributed.forward, -1
            thread.node_log.start(None, next_sequence_nr())
        with self._lock:
            self._entries -= 1
            if self._entries == 0:
                for hook in self._hooks:
                    hook.remove()
                self._hooks = []

    # -- forward and optimizer: a stack of what is open

    def _enter_module(self, module: nn.Module, inputs: Any) -> None:
        thread = self.local.thread
        if backward_task() != -1:
            self._enter_recomputed(thread, module)
            return
        if not thread.entries:
            self._run_unwatched(type_name(module))
            if is_grad_enabled():
                thread.is_stranger = self._is_shared = True
            return
        place = thread.place
        try:
            _, scope, is_call = place.entered[id(module)]
        except KeyError:
            self._close_abandoned(thread, module)
            place = thread.place
            _, scope, is_call = self.tree.find(module, place.scope, _running(thread))
        scope.calls += is_call
        number = next_sequence_nr()
        if not thread.stack:
            thread.began = number
        thread.stack.append((module, place, -1))
        thread.place = place = scope.forward
        thread.node_log.start(place, number)

    ignore_when_captured(_enter_module)

    def _run_unwatched(self, what: str) -> None:
        """Something runs in a thread that has not entered."""
        self.unwatched.setdefault(threading.current_thread().name, what)

    def _call_backward(self) -> None:
        # an accelerator's own thread has not entered; it runs within a pass that another called
        if backward_task() == -1 and not self.local.thread.entries:
            self._run_unwatched("backward")

    def _enter_recomputed(self, thread: ThreadState, module: nn.Module) -> None:
        if is_graph_of_torchs_own(module):
            return  # the gradient itself
        running = self._running(thread)
        if thread.place_task != backward_task():
            self._note_made(thread, running.places[RECOMPUTE])
        _, scope, _ = self.tree.find(module, running, _running(thread), in_backward=True)
        number = next_sequence_nr()
        if not thread.stack:
            thread.began = number
        thread.stack.append((module, thread.place, thread.place_task))
        thread.place, thread.place_task = scope.places[RECOMPUTE], backward_task()
        thread.node_log.start(thread.place, number)

    @contextmanager
    def recomputing(self) -> Iterator[None]:
        """What runs here, while backward runs, is forward work that is done again."""
        thread = self.local.thread
        before = thread.place, thread.place_task
        thread.place = self._running(thread).places[RECOMPUTE]
        thread.place_task = backward_task()
        try:
            yield
        finally:
            thread.place, thread.place_task = before

    def _running(self, thread: ThreadState) -> Scope:
        """The scope that backward is in: of the module that runs again, or of the node."""
        if thread.place_task == backward_task():
            return thread.place.scope
        node = running_node()
        if node is None:
            return self.tree.root
        if backward_task() != thread.task:
            self._begin_pass(thread, ())
        return self._owner(thread, node)

    def _exit_module(self, module: nn.Module, inputs: Any, output: Any) -> None:
        thread = self.local.thread
        stack = thread.stack
        if not stack:
            return
        opened, place, task = stack.pop()
        if opened is not module:
            # an exception passed through what was opened last, or the block began in this module
            stack.append((opened, place, task))
            if not any(opened is module for opened, _, _ in stack):
                return
            while opened is not module:
                opened, place, task = stack.pop()
        thread.place, thread.place_task = place, task
        if self._is_shared and not stack:
            with without_modes():
                self._stamps.stamp(thread.node_log, thread.began, inputs, output)
        start = next_sequence_nr()
        own = module._backward_hooks or module._backward_pre_hooks
        if own or ANY_BACKWARD_HOOKS or ANY_BACKWARD_PRE_HOOKS:
            with without_modes():
                start += hook_nodes(module, output)  # their node is still the module's
        thread.node_log.start(place if thread.entries else None, start)

    ignore_when_captured(_exit_module)

    def _enter_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        thread = self.local.thread
        if thread.entries:
            self._close_abandoned(thread, optimizer)
            thread.stack.append((optimizer, thread.place, thread.place_task))
            thread.place = thread.place.scope.places[OPTIMIZER]
            thread.place_task = backward_task()  # a hook may step while backward runs
        elif backward_task() == -1:
            self._run_unwatched(type(optimizer).__name__)

    def _exit_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        thread = self.local.thread
        if any(opened is optimizer for opened, _, _ in thread.stack):
            opened: object = None
            while opened is not optimizer:
                opened, thread.place, thread.place_task = thread.stack.pop()

    def _close_abandoned(self, thread: ThreadState, entered: object) -> None:
        """Close what an exception ended without a hook: a step, or a module at KeyboardInterrupt.

        What is being ``entered`` has a frame already, but is not on the stack yet; without the
        frame something else than torch calls the hooks, and frames tell nothing.
        """
        stack, calls = thread.stack, open_calls()
        if not stack or next(calls, None) is not entered:
            return
        caller = next(calls, None)
        if stack[-1][0] is caller:  # as a rule, and the other frames need not be looked at
            return
        others = [caller, *calls]
        while stack and not any(stack[-1][0] is call for call in others):
            _, thread.place, thread.place_task = stack.pop()

    # -- backward: whose node is running?

    def in_backward(self, thread: ThreadState, node: Any, args: Sequence[Any]) -> Place:
        """The place of the op with ``args`` that autograd node ``node`` is running."""
        if thread.place_task != -1 and thread.place_task == backward_task():
            return thread.place  # a module runs again, or an optimizer steps in a hook
        number = node._sequence_nr()
        mark = (number, id(self._stamps.stamp_of(node))) if self._is_shared else number
        if mark != thread.node_mark:
            thread.products = None
            thread.recomputes = type(node) is CHECKPOINT_NODE
            if backward_task() != thread.task:
                self._begin_pass(thread, args)
            thread.node_place = self._owner(thread, node).backward
            thread.node_mark = -1 if number == NO_SEQUENCE_NR else mark
        if is_grad_enabled() or thread.recomputes:
            return self._recorded(thread, args)
        hooks = saved_tensor_hooks(True)
        if hooks and of_checkpoint(hooks) and checkpoint_recomputes():
            return self._recorded(thread, args)
        return thread.node_place

    def _recorded(self, thread: ThreadState, args: Sequence[Any]) -> Place:
        """The place of an op that may make a node: in double backward, or in recomputation.

        There are modules in neither.
        """
        if backward_task() != thread.task:  # it began with the node that the last one ended with
            self._begin_pass(thread, args)
        recomputes = not thread.records or checkpoint_recomputes()
        place = thread.node_place.scope.places[RECOMPUTE if recomputes else BACKWARD]
        self._note_made(thread, place)
        return place

    def _note_made(self, thread: ThreadState, place: Place) -> None:
        """Nodes that backward made since the last entry belong to the running node's owner."""
        log = thread.node_log
        log.start(place, max(log.starts[-1], thread.pass_began))
        log.start(thread.place if thread.entries else None, next_sequence_nr())

    def _begin_pass(self, thread: ThreadState, args: Sequence[Any]) -> None:
        """Look at the backward pass that is running; an op with ``args`` is the first seen of it.

        Of one that another thread called there is no frame. With ``create_graph=True`` grad mode is
        on from its first op; else it is off until something is recomputed.
        """
        thread.task = task = backward_task()
        calls = backward_calls()
        thread.depth = len(calls)
        if calls:
            thread.records = calls[0]
        else:
            if task not in thread.foreign:
                if len(thread.foreign) >= PASS_LIMIT:
                    del thread.foreign[next(iter(thread.foreign))]
                thread.foreign[task] = is_grad_enabled() and not checkpoint_recomputes()
            thread.records = thread.foreign[task]
        if len(calls) <= 1:  # none around it, whose nodes would have to be noted
            records_op = is_grad_enabled() or thread.recomputes  # whose node is there already
            made = records_op and any(tensor.requires_grad for tensor in tensors_in(args))
            thread.pass_began = next_sequence_nr() - made

    def _owner(self, thread: ThreadState, node: Any) -> Scope:
        """The scope whose forward made ``node``."""
        number = node._sequence_nr()
        if number == NO_SEQUENCE_NR:
            return self.tree.owner_of(node.variable)
        if self._is_shared and (stamp := self._stamps.stamp_of(node)):
            return (stamp.place or self.tree.unattributed.backward).scope
        place = thread.node_log.place(number) if number < next_sequence_nr() else None
        if place is not None and place.phase == RECOMPUTE:
            # what is recomputed here is run by passes that begin here, within others for the most
            if thread.depth > (thread.entries > 0):
                return place.scope
            place = place if thread.depth else None
        elif self._is_shared and (self._has_strangers or any(t.is_stranger for t in self.threads)):
            return self.tree.unattributed
        if place is not None and not self._is_shared:
            return place.scope
        others = (t.node_log.place(number) for t in self.threads if t is not thread)
        scopes = {found.scope for found in (place, *others) if found is not None}
        return scopes.pop() if len(scopes) == 1 else self.tree.unattributed  # not to guess


def _running(thread: ThreadState) -> Iterator[tuple[object, Scope]]:
    """What is open on a thread's stack, outermost first, with the row that it runs in."""
    inside = (*thread.stack, (None, thread.place, -1))
    for (opened, _, _), (_, place, _) in pairwise(inside):
        yield opened, place.scope
