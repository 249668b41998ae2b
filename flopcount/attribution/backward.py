"""Which module and phase does an op of the backward pass belong to?

Autograd says which node is running. Each thread keeps a log of the nodes that it makes, and there
the node's number leads to the module. Backward itself makes nodes too: with
``create_graph=True``, and when a checkpoint runs its function again. Those are logged as well,
since a later pass, or a pass inside this one, may run them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import is_grad_enabled

from flopcount.attribution.phase import BACKWARD, RECOMPUTE
from flopcount.attribution.thread_state import Threads, ThreadState
from flopcount.attribution.tree import ModuleTree, Place
from flopcount.torch_private.autograd import (
    CHECKPOINT_NODE,
    NO_SEQUENCE_NR,
    backward_task,
    next_sequence_nr,
    of_checkpoint,
    running_node,
    saved_tensor_hooks,
)
from flopcount.torch_private.frames import backward_calls, checkpoint_recomputes
from flopcount.torch_private.tensors import tensors_in

PASS_LIMIT = 64
"""How many backward passes of other threads to remember per thread; real programs alternate
between a few."""


class Pass(NamedTuple):
    """A backward pass that runs in this thread."""

    task: int = -1
    num_calls: int = 0
    """How many calls of ``backward()`` stand on this thread's stack. It is 0 where another thread
    made the call: an accelerator runs backward in a thread of its own."""
    is_recorded: bool = False
    """Whether autograd records what it does (``create_graph=True``)."""


class Backward:
    """Finds the place of each op that runs in one thread while backward runs."""

    __slots__ = (
        "_first_node_of_outermost_pass",
        "_is_checkpoint",
        "_pass",
        "_passes_of_other_threads",
        "_thread",
        "_threads",
        "_tree",
        "node_mark",
        "node_place",
    )

    def __init__(self, thread: ThreadState, threads: Threads, tree: ModuleTree) -> None:
        self._thread = thread
        self._threads = threads
        self._tree = tree
        self.node_mark: object = -1  # tells the node that ran last from others
        self.node_place = tree.unattributed.backward
        self._is_checkpoint = False  # whether the node that ran last is a reentrant checkpoint's
        self._pass = Pass()  # the pass that ran last
        self._passes_of_other_threads: dict[int, bool] = {}  # task -> is_recorded
        self._first_node_of_outermost_pass = 0

    def place(self, node: Any, args: Sequence[Any]) -> Place:
        """The place of an op with ``args`` that autograd node ``node`` is running."""
        thread = self._thread
        if thread.place_task != -1 and thread.place_task == backward_task():
            return thread.place  # a module runs again, or an optimizer steps in a hook
        number = node._sequence_nr()
        threads = self._threads
        mark = (number, id(threads.stamps.stamp_of(node))) if threads.are_several else number
        if mark != self.node_mark:
            self._is_checkpoint = type(node) is CHECKPOINT_NODE
            if backward_task() != self._pass.task:
                self._begin_pass(args)
            self.node_place = self._origin(node, number).places[BACKWARD]
            # all AccumulateGrad nodes have one number: never take two of them for one node
            self.node_mark = -1 if number == NO_SEQUENCE_NR else mark
        # autograd may record this op: in double backward, or where a checkpoint runs again
        if is_grad_enabled() or self._is_checkpoint:
            return self._place_while_recording(args)
        # a checkpoint may run a part again that is under no_grad()
        hooks = saved_tensor_hooks(True)
        if hooks and of_checkpoint(hooks) and checkpoint_recomputes():
            return self._place_while_recording(args)
        return self.node_place

    def running_place(self) -> Place:
        """Where backward is now: in the module that runs again, or where the node was made."""
        if self._thread.place_task == backward_task():
            return self._thread.place
        node = running_node()
        if node is None:
            return self._tree.root.forward
        if backward_task() != self._pass.task:
            self._begin_pass(())
        return self._origin(node, node._sequence_nr())

    def log_nodes(self, place: Place) -> None:
        """Log ``place`` for the nodes that backward made since the log's last entry.

        Later nodes belong to the thread's own place again.
        """
        log = self._thread.node_log
        log.start(place, max(log.starts[-1], self._first_node_of_outermost_pass))
        log.start(self._thread.place if self._thread.is_watched else None, next_sequence_nr())

    @contextmanager
    def recomputing(self) -> Iterator[None]:
        """What runs here, while backward runs, is forward work that is done again."""
        thread = self._thread
        before = thread.place, thread.place_task
        thread.place = self.running_place().places[RECOMPUTE]
        thread.place_task = backward_task()
        try:
            yield
        finally:
            thread.place, thread.place_task = before

    def _place_while_recording(self, args: Sequence[Any]) -> Place:
        """The place of an op whose node autograd may record; that node is logged.

        The op is recomputation, unless the pass has ``create_graph=True`` and no checkpoint runs.
        Then it is double backward.
        """
        if backward_task() != self._pass.task:  # this pass begins with the node that ran last
            self._begin_pass(args)
        recomputes = not self._pass.is_recorded or checkpoint_recomputes()
        place = self.node_place.places[RECOMPUTE if recomputes else BACKWARD]
        self.log_nodes(place)
        return place

    def _begin_pass(self, args: Sequence[Any]) -> None:
        """Look (perhaps again) at the pass that is running; its first op in sight has ``args``."""
        calls = backward_calls()
        is_recorded = calls[0] if calls else self._is_recorded_elsewhere()
        self._pass = Pass(backward_task(), len(calls), is_recorded)
        if len(calls) > 1:
            return  # the outermost pass goes on, and may have made nodes that are not logged yet
        number = next_sequence_nr()
        has_node = is_grad_enabled() or self._is_checkpoint
        if has_node and any(tensor.requires_grad for tensor in tensors_in(args)):
            number -= 1  # the node of this very op
        self._first_node_of_outermost_pass = number

    def _is_recorded_elsewhere(self) -> bool:
        """Whether a pass that another thread called is recorded; this stack has no frame of it."""
        # its first op decides: create_graph=True turns grad mode on from the start
        task, passes = backward_task(), self._passes_of_other_threads
        if task not in passes:
            if len(passes) >= PASS_LIMIT:
                del passes[next(iter(passes))]
            passes[task] = is_grad_enabled() and not checkpoint_recomputes()
        return passes[task]

    def _origin(self, node: Any, number: int) -> Place:
        """Where ``node`` was made, which has this number; of a parameter's, what owns that."""
        if number == NO_SEQUENCE_NR:
            return self._tree.owner_of(node.variable).forward
        threads = self._threads
        if threads.are_several and (stamp := threads.stamps.stamp_of(node)):
            return stamp.place or self._tree.unattributed.forward
        place = self._thread.node_log.place(number) if number < next_sequence_nr() else None
        if place is not None and place.phase != RECOMPUTE and not threads.are_several:
            return place  # nearly always
        if place is not None and place.phase == RECOMPUTE:
            if self._is_inside_another_pass():
                # a reentrant checkpoint ran its function again, and now calls backward() on it
                return place
            if self._pass.num_calls == 0:
                # an accelerator's thread runs a node of the main thread; by chance it gave the same
                # number to a node of its own when it recomputed something
                return self._origin_by_logs(number, None)
            # create_graph=True: a later pass runs nodes that were recomputed in an earlier one
            return self._origin_by_logs(number, place)
        if threads.are_several and threads.have_strangers():
            return self._tree.unattributed.forward
        return self._origin_by_logs(number, place)

    def _is_inside_another_pass(self) -> bool:
        """Whether this pass was called while another pass was running."""
        # a thread that has entered makes the outermost call itself, an accelerator's thread none
        return self._pass.num_calls > (1 if self._thread.is_watched else 0)

    def _origin_by_logs(self, number: int, place: Place | None) -> Place:
        """The place on whose scope ``place``, from this thread's log, and all other logs agree."""
        if place is not None and not self._threads.are_several:
            return place
        others = (
            thread.node_log.place(number)
            for thread in self._threads.states
            if thread is not self._thread
        )
        made = {origin.scope: origin for origin in (place, *others) if origin is not None}
        return next(iter(made.values())) if len(made) == 1 else self._tree.unattributed.forward
