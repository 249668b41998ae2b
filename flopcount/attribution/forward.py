"""Which module, and which phase, does the op that is running belong to?

Global forward hooks keep a stack of open modules for each thread. Whenever its top changes, they
log the number that autograd will give to its next node. So the log says: nodes numbered from a to
b were made in this scope. In backward, ``backward.py`` looks up the running node there. No tensor
is touched, so any program runs as it would alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
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

from flopcount.attribution.backward import Backward
from flopcount.attribution.gradients import NodeGradients
from flopcount.attribution.outside import expect_closure, expect_steps_of
from flopcount.attribution.phase import OPTIMIZER, RECOMPUTE
from flopcount.attribution.thread_state import ThreadLife, Threads, ThreadState
from flopcount.attribution.tree import ModuleTree
from flopcount.attribution.wrappers import type_name
from flopcount.torch_private.autograd import (
    ANY_BACKWARD_HOOKS,
    ANY_BACKWARD_PRE_HOOKS,
    BackwardPreHook,
    backward_task,
    hook_nodes,
    next_sequence_nr,
)
from flopcount.torch_private.compiler import ignore_when_captured, is_graph_of_torchs_own
from flopcount.torch_private.frames import open_calls
from flopcount.torch_private.modes import without_modes


class Here(threading.local):
    """What attribution knows about the thread that asks."""

    def __init__(self, threads: Threads, tree: ModuleTree) -> None:
        self._life = ThreadLife(threads)
        self.thread = self._life.thread = ThreadState(tree.unattributed, self._life)
        self.backward = Backward(self.thread, threads, tree)
        self.gradients = NodeGradients(self.backward)
        threads.add(self.thread)


class Attribution:
    """Tells the place of the op that runs at this instant.

    Args:
        tree: the tree of modules, with the models that were given.
        hooks: what else to open while a thread is watched; each makes a hook to remove.
    """

    def __init__(self, tree: ModuleTree, hooks: Iterable[Callable[[], Any]] = ()) -> None:
        self._more_hooks = list(hooks)
        self.tree = tree
        self.threads = Threads()
        self.here = Here(self.threads, self.tree)
        self.here.thread.is_stranger = False
        self._lock = threading.RLock()
        self._hooks: list[Any] = []

    def watch(self) -> None:
        """Watch this thread, from the start or after a pause, until :meth:`unwatch`."""
        self._hook()
        thread = self.here.thread
        if threading.current_thread() is not threading.main_thread():
            self.threads.are_several = True
        thread.is_stranger = False
        thread.is_watched = True
        if not thread.stack:
            thread.place = self.tree.root.forward
        thread.log_place()

    def unwatch(self, thread: ThreadState) -> None:
        """Stop watching ``thread``."""
        thread.is_watched = False
        if thread.is_running:
            thread.log_place()

    def leave(self, thread: ThreadState) -> None:
        """Forget the calls in ``thread`` that are not over: the counter is not open there."""
        thread.stack.clear()
        thread.place, thread.place_task = self.tree.unattributed.forward, -1
        self._hook()

    def _hook(self) -> None:
        """Hook modules, steps and backward passes as long as any thread has opened the counter.

        The hooks stay in a pause, since a module that was entered before it may be left inside.
        """
        with self._lock:
            is_open = any(thread.is_open for thread in self.threads.states)
            if is_open and not self._hooks:
                self._hooks = [
                    register_module_forward_pre_hook(self._enter_module),
                    register_module_forward_hook(self._exit_module, always_call=True),
                    register_optimizer_step_pre_hook(self._enter_step),
                    register_optimizer_step_post_hook(self._exit_step),
                    BackwardPreHook(self._call_backward),
                    *(make() for make in self._more_hooks),
                ]
            elif self._hooks and not is_open:
                for hook in self._hooks:
                    hook.remove()
                self._hooks = []

    def expect_steps_of(self, optimizer: Any) -> None:
        """Attribute the steps of ``optimizer`` in this thread, whatever class it has."""
        expect_steps_of(optimizer)
        self.here.thread.ask_frames_of_steps()

    def renew_locks(self) -> None:
        """Forget who holds a lock, in a forked process where that thread is not."""
        self._lock = threading.RLock()
        self.threads.renew_lock()

    # -- modules

    def _enter_module(self, module: nn.Module, inputs: Any) -> None:
        thread = self.here.thread
        if backward_task() != -1:
            self._enter_recomputed(thread, module)
            return
        if not thread.is_watched:
            if thread.pauses:
                thread.pass_by(module)
                return
            self.threads.add_unwatched(type_name(module))
            if is_grad_enabled():
                thread.is_stranger = self.threads.are_several = True
            return
        try:
            _, place, is_call = thread.place.entered[id(module)]
        except KeyError:
            _close_abandoned(thread, module)
            _, place, is_call = self.tree.find(module, thread.place)
        if is_call:
            place.scope.calls += 1
        if place.lines is not None:
            place.lines.begin_call(module)
        thread.open_module(module, place, -1)

    ignore_when_captured(_enter_module)

    def _enter_recomputed(self, thread: ThreadState, module: nn.Module) -> None:
        if is_graph_of_torchs_own(module):
            return  # a graph of gradients, which is no recomputation
        if thread.pauses:
            thread.pass_by(module)
            return
        backward, task = self.here.backward, backward_task()
        caller = backward.running_place()
        if thread.place_task != task:
            backward.log_nodes(caller.places[RECOMPUTE])
        _, place, _ = self.tree.find(module, caller)
        thread.open_module(module, place.places[RECOMPUTE], task)

    def _exit_module(self, module: nn.Module, inputs: Any, output: Any) -> None:
        thread = self.here.thread
        if not thread.close(module):
            return
        if thread.pauses:
            thread.log_place()  # the module was entered before the pause, perhaps
            return
        if self.threads.are_several and not thread.stack:
            with without_modes():
                self.threads.stamps.stamp(thread.node_log, thread.first_node, inputs, output)
        start = next_sequence_nr()
        own = module._backward_hooks or module._backward_pre_hooks
        if own or ANY_BACKWARD_HOOKS or ANY_BACKWARD_PRE_HOOKS:
            with without_modes():
                start += hook_nodes(module, output)  # their node is still the module's
        thread.seen_number = start
        thread.node_log.start(thread.place if thread.is_watched else None, start)

    ignore_when_captured(_exit_module)

    # -- optimizers and backward passes

    def _enter_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        thread = self.here.thread
        if thread.pauses:
            thread.pass_by(optimizer)
        elif thread.is_watched:
            _close_abandoned(thread, optimizer)
            place = thread.place.places[OPTIMIZER]
            if expect_closure(args[1:], kwargs):
                thread.ask_frames_of_steps()
                if thread.place.is_outside:
                    return  # they are asked there anyway
                place = thread.place.in_step()
            # a hook may step while backward runs
            thread.open_step(optimizer, place, backward_task())
        elif backward_task() == -1:
            self.threads.add_unwatched(type(optimizer).__name__)

    def _exit_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self.here.thread.close(optimizer)

    def _call_backward(self) -> None:
        # an accelerator's thread has not entered, but it runs inside a pass that another called
        thread = self.here.thread
        if backward_task() == -1 and not thread.is_watched and not thread.pauses:
            self.threads.add_unwatched("backward")
        thread.asks_frames = True


def close_abandoned_step(thread: ThreadState) -> bool:
    """Close the step in which ops run, as it seems, if an exception has ended it."""
    stack = thread.stack
    if not stack or isinstance(stack[-1][0], nn.Module):
        return False
    if any(stack[-1][0] is call for call in open_calls()):
        return False
    _, thread.place, thread.place_task = stack.pop()
    return True


def _close_abandoned(thread: ThreadState, entered: object) -> None:
    """Close what an exception ended without a hook: a step, or a module at KeyboardInterrupt.

    The module or optimizer that is being ``entered`` has a frame already, but is not on the stack
    yet. If its frame is missing, the caller of the hooks is not torch, and frames tell nothing.
    """
    stack, calls = thread.stack, open_calls()
    if not stack or next(calls, None) is not entered:
        return
    caller = next(calls, None)
    if stack[-1][0] is caller:  # nearly always, and then no other frame need be looked at
        return
    others = [caller, *calls]
    while stack and not any(stack[-1][0] is call for call in others):
        _, thread.place, thread.place_task = stack.pop()
