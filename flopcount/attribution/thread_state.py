"""What is known of one thread: where it is, and what it has counted."""

from __future__ import annotations

import weakref
from typing import Any

from torch import is_grad_enabled

from flopcount.attribution.node_log import NodeLog
from flopcount.attribution.tree import Place, Scope
from flopcount.torch_private.autograd import running_node

__all__ = ["ThreadState"]


class ThreadState:
    """What attribution knows about one thread; ``tally`` is for whoever counts in it."""

    __slots__ = (
        "began",
        "bias",
        "depth",
        "entries",
        "foreign",
        "is_stranger",
        "life",
        "node_log",
        "node_mark",
        "node_place",
        "pass_began",
        "place",
        "place_task",
        "products",
        "products_task",
        "recomputes",
        "records",
        "stack",
        "tally",
        "task",
    )

    def __init__(self, unattributed: Scope, life: object) -> None:
        self.life = weakref.ref(life)
        self.entries = 0
        self.tally: dict[Any, Any] = {}
        self.node_log = NodeLog()
        # it makes nodes, and keeps no record of them
        self.is_stranger = is_grad_enabled() and running_node() is None
        # where ops run now, and in which backward pass that was found (-1: in none); a thread that
        # has not entered may bring the counter along all the same: torch.jit.fork does
        self.place = unattributed.forward
        self.place_task = -1
        # the open modules and optimizer steps, with the place and its pass before each
        self.stack: list[tuple[object, Place, int]] = []
        self.began = 0  # the number of the first node that the outermost of them may have made
        # the backward pass that ran last: in how many calls of this thread it runs (0: on an
        # accelerator a thread of its own runs what another one called), whether autograd records it
        # (create_graph=True), and the number of the first node that it may have made; a pass that
        # goes on after another is looked at again, but if another thread called it
        self.task = -1
        self.depth = 0
        self.records = False
        self.pass_began = 0
        self.foreign: dict[int, bool] = {}
        # the node that ran last, and whether it is a checkpoint
        self.node_mark: object = -1
        self.node_place = unattributed.backward
        self.recomputes = False
        # the gradients that this node has still to compute by products, and by a sum, and the
        # pass in which it was looked at; None: not yet
        self.products: list[str] | None = None
        self.products_task = -1
        self.bias: str | None = None

    def is_forgettable(self) -> bool:
        """Whether the thread has ended, and left nothing to tell."""
        return self.life() is None and not self.tally and self.node_log.is_empty
